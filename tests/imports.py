"""Which files of this repository a file imports, directly and in all."""

import ast
from pathlib import Path

from pipeline.code import CODE_ROOTS, ROOT, determines_output

FOLDERS = (*CODE_ROOTS, "studies")


def imports(path: Path, source: str | None = None) -> set[Path]:
    """Files in `FOLDERS` that a file imports anywhere in it, relative to the repository.

    Args:
        path: the importing file, relative to the repository. Relative imports start from it.
        source: its content; None reads the file.
    """
    if source is None:
        source = (ROOT / path).read_text(encoding="utf-8")
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = path.parents[node.level - 1].parts if node.level else ()
            module = ".".join([*package, *([node.module] if node.module else [])])
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return {file for name in names if (file := _file(name)) and file.parts[0] in FOLDERS}


def closure(path: Path) -> set[Path]:
    """The file and all code that it imports, directly or not, and that can change its output."""
    found, waiting = set[Path](), {path}
    while waiting:
        current = waiting.pop()
        found.add(current)
        waiting |= {file for file in imports(current) if determines_output(file)} - found
    return found


def _file(module: str) -> Path | None:
    path = Path(module.replace(".", "/"))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if (ROOT / candidate).is_file():
            return candidate
    return None
