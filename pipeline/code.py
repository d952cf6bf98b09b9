"""Which files are this project's code. Everything that asks whether the code has changed uses this one list."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]

# The packages whose code determines results. A logged model carries them, and the tests check tensor shapes in them.
CODE_ROOTS = ("logpx", "pipeline", "stages")
# Code in them that changes no output, so that no stage depends on it.
CHANGES_NO_OUTPUT = ("pipeline/tracking", "pipeline/use")
SUFFIXES = (".py", ".jinja", ".js")


def determines_output(path: Path) -> bool:
    """Whether a file lies in a folder whose code determines results. The path is absolute or relative to `ROOT`."""
    return _inside(path, CODE_ROOTS) and not _inside(path, CHANGES_NO_OUTPUT)


def code_files(root: Path = ROOT) -> list[Path]:
    """All code and templates that determine results, sorted, relative to the repository `root`."""
    found = (path.relative_to(root) for folder in CODE_ROOTS for path in (root / folder).rglob("*"))
    return sorted(path for path in found if path.suffix in SUFFIXES and determines_output(path) and not _stray(path))


def code_digest(root: Path = ROOT) -> str:
    """SHA-256 of the names and contents of `code_files(root)`: any clone of the same code has the same digest."""
    digest = hashlib.sha256()
    for path in code_files(root):
        content = (root / path).read_bytes()
        digest.update(f"{path.as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _inside(path: Path, folders: Iterable[str]) -> bool:
    return any((ROOT / path).is_relative_to(ROOT / folder) for folder in folders)


def _stray(path: Path) -> bool:
    """Whether an editor or a build tool made the file. `.dvcignore` keeps such files out of dependencies too."""
    return any(part.startswith(".") or part in ("build", "dist") for part in path.parts)
