"""The files of this repository that a stage imports, all the way down."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]


def imports(path: Path) -> set[Path]:
    """Files under `pipeline/` and `stages/` that this file imports anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    candidates = {Path(name.replace(".", "/") + ".py") for name in names}
    return {c for c in candidates if c.parts[0] in ("pipeline", "stages") and (ROOT / c).is_file()}


def closure(path: Path) -> set[Path]:
    """The file itself and everything that it imports, all the way down."""
    found, waiting = set[Path](), {path}
    while waiting:
        current = waiting.pop()
        found.add(current)
        waiting |= imports(current) - found
    return found
