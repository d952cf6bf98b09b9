"""Atomic writing, digests, and the folder for files that outlast a temporary workspace."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import UserError


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path; when the block ends, the file written there replaces `path`.

    If the block raises, `path` keeps its former content and the temporary file is removed.

    Raises:
        OSError: if the disk is full or the folder is not writable; the message names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


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
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run `dvc repro` to make it") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); delete it and run `dvc repro` to make it again") from None


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

    DVC sets `DVC_ROOT` to it for each stage; without DVC it is the current folder. Whatever must outlast a temporary
    workspace (tracking store, downloads, unfinished work, locks) lives in it.
    """
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()
