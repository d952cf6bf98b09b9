"""Atomic writing, digests, and the folder for files that outlast a temporary workspace."""

import fcntl
import glob
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from pipeline.errors import UserError


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path; when the block ends, the file written there replaces `path`.

    If the block raises, `path` keeps its former content and the temporary file is removed. If the process is killed,
    the next writer of `path` removes it.

    Raises:
        OSError: if the disk is full or the folder is not writable; the message names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        _remove_leftovers(path)
        with temporary.open("xb") as locked:
            _lock(locked)
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _remove_leftovers(path: Path) -> None:
    """Remove the temporary files of killed writers of `path`. Those of live ones are locked."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with suppress(OSError), leftover.open("rb+") as file:
            if _lock(file):
                leftover.unlink()


def _lock(file: BinaryIO) -> bool:
    """Lock a file until it is closed or its process dies, SIGKILL included. False if it is locked or cannot be."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def write_text(path: Path, text: str) -> None:
    """Write `text` atomically, in UTF-8 with Unix line endings."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a metrics file atomically.

    Raises:
        ValueError: if a number is not finite, which JSON cannot represent.
    """
    write_text(path, json.dumps(values, indent=2, allow_nan=False) + "\n")


def read_metrics(path: Path) -> dict[str, Any]:
    """Read a metrics file.

    Raises:
        UserError: if it is missing or damaged.
    """
    with reading(path, ValueError):
        return json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def reading(path: Path, *damage: type[Exception]) -> Iterator[None]:
    """Read a file that a stage wrote.

    Args:
        damage: the errors that damaged content raises.

    Raises:
        UserError: if the file is missing, or one of these errors is raised.
    """
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run `dvc repro` to make it") from None
    except damage as error:
        raise unusable(path, f"is damaged ({(str(error) or type(error).__name__).splitlines()[0]})") from None


def unusable(path: Path, reason: str) -> UserError:
    """An error for a file that a stage wrote and that has to be made again."""
    return UserError(f"{path} {reason}; delete it and run `dvc repro` to make it again")


def sha256(*paths: Path) -> str:
    """SHA-256 of the concatenated contents of the files, in hexadecimal."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def main_repository() -> Path:
    """Folder of the main repository, even in the temporary workspace of an experiment.

    It is the current folder, where dvc.yaml is. DVC makes temporary workspaces in `.dvc/tmp/exps`, as clones of the
    whole git repository, of which the project may be a subfolder. Whatever must outlast a workspace (tracking store,
    downloads, unfinished work, locks) lives in the main repository. `DVC_ROOT` would not do: a stage of another DVC
    project that runs this one sets it too.
    """
    here = Path.cwd()
    main, workspace, _ = here.as_posix().partition("/.dvc/tmp/exps/")
    return _git_top(Path(main)) / here.relative_to(_git_top(here)) if workspace else here


def _git_top(folder: Path) -> Path:
    return next((top for top in (folder, *folder.parents) if (top / ".git").exists()), folder)
