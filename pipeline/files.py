"""Files that are whole or absent, their digests, and the folder that outlasts temporary workspaces."""

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
    """Yield a temporary path beside `path`; what is written there becomes `path` only when it is whole.

    Whatever goes wrong inside, `path` keeps its former content and the temporary file is removed.

    Raises:
        OSError: when the disk is full or the folder cannot be written; it names the file.
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
    """Write `text` atomically, in UTF-8 with Unix line ends."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a metrics file atomically; non-finite numbers are refused, for JSON has none."""
    write_text(path, json.dumps(values, indent=2, allow_nan=False) + "\n")


def read_metrics(path: Path) -> dict[str, Any]:
    """A metrics file.

    Raises:
        UserError: when it is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run `dvc repro` to make it") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); delete it and run `dvc repro` to make it again") from None


def sha256(*paths: Path) -> str:
    """SHA-256 of the files' content, one after the other; hexadecimal."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def main_repository() -> Path:
    """The main repository's folder, also from the temporary workspace of a queued experiment.

    DVC gives it to every stage as `DVC_ROOT`; without DVC it is the current folder. What must outlast
    a temporary workspace (tracking store, downloads, locks) lives below it.
    """
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()
