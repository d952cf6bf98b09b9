"""Unfinished work on disk: it survives a killed stage, a deleted workspace and a crashed machine.

Each computation has a folder `.scratch/STAGE-KEY` in the main repository. The key is a digest of everything that
determines the result, so only the same computation finds the work again. Files are whole or absent and carry a digest
of their content; a damaged file is reported and ignored.
"""

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import Tensor

from pipeline.code import ROOT, determines_output
from pipeline.config import Recovery
from pipeline.errors import UserError
from pipeline.process.lifecycle import defer_interrupts, lock_file
from pipeline.storage.files import main_repository
from pipeline.storage.tensors import load_tensors, save_tensors

STATES = 2  # number of newest states to keep: one may be damaged
ABANDONED = 7 * 24 * 3600.0  # seconds after which work that nobody resumed is removed

Tensors = dict[str, Tensor]


class UnfinishedWork:
    """The folder of one computation: the states of an iteration, and the results of finished parts.

    Args:
        interval: seconds between two writes.
    """

    def __init__(self, folder: Path, interval: float) -> None:
        self.folder = folder
        self.interval = interval
        self._last_write = time.monotonic()
        self._parts = self._read_parts()
        self._unwritten: dict[str, Tensors] = {}

    def due(self) -> bool:
        """Whether the last write was at least `interval` seconds ago."""
        return time.monotonic() - self._last_write >= self.interval

    def save(self, tensors: Tensors, numbers: Mapping[str, Any]) -> None:
        """Write a state and delete old ones. If the disk is full, warn and go on.

        Args:
            numbers: the part of the state that JSON can hold.
        """
        if self._write("state", tensors, numbers):
            for old in self._files("state")[STATES:]:
                old.unlink(missing_ok=True)

    def load(self) -> tuple[Tensors, dict[str, Any]] | None:
        """The newest state that is not damaged; None if there is none."""
        for path in self._files("state"):
            if (state := _read(path)) is not None:
                print(f"resuming from the state of {time.time() - path.stat().st_mtime:.0f} s ago", flush=True)
                return state
        return None

    def once(self, name: str, compute: Callable[[], Tensors]) -> Tensors:
        """The result of a part, sorted by name: saved by an earlier process, or else computed now."""
        if name not in self._parts:
            self._parts[name] = self._unwritten[name] = compute()
            if self.due():
                self.flush()
        return dict(sorted(self._parts[name].items()))

    def flush(self) -> None:
        """Write the results of parts that are not on disk yet."""
        flat = {f"{name}/{key}": value for name, part in self._unwritten.items() for key, value in part.items()}
        if flat and self._write("parts", flat, {}):
            self._unwritten = {}

    def _files(self, kind: str) -> list[Path]:
        """Newest first."""
        return sorted(self.folder.glob(f"{kind}-*.safetensors"), reverse=True)

    def _write(self, kind: str, tensors: Tensors, numbers: Mapping[str, Any]) -> bool:
        newest = max((int(path.stem.rpartition("-")[2]) for path in self._files(kind)), default=0)
        self._last_write = time.monotonic()
        try:
            save_tensors(self.folder / f"{kind}-{newest + 1:08}.safetensors", tensors, numbers)
        except OSError as error:
            print(f"warning: unfinished work was not saved, so a crash would lose it: {error}", file=sys.stderr)
            return False
        return True

    def _read_parts(self) -> dict[str, Tensors]:
        parts: dict[str, Tensors] = {}
        for path in self._files("parts"):
            for name, value in (_read(path) or ({}, {}))[0].items():
                part, _, key = name.rpartition("/")
                parts.setdefault(part, {})[key] = value
        if parts:
            print(f"resuming with {len(parts)} finished parts", flush=True)
        return parts


@contextmanager
def open_work(stage: str, settings: Recovery, *determines: object) -> Iterator[UnfinishedWork]:
    """The unfinished work of a computation. It is removed if the block succeeds, and kept if the block fails.

    Only one process at a time has it: a second one waits.

    Args:
        determines: everything that determines the result besides the code: parameters, digests, environment.
    """
    folder = main_repository() / ".scratch" / f"{stage}-{_key(determines)}"
    waiting = "another process runs the same computation; waiting for it"
    with lock_file(Path(f"{folder}.lock"), lambda: waiting):
        _remove_abandoned(folder.parent)
        folder.mkdir(exist_ok=True)
        work = UnfinishedWork(folder, settings.save_every)
        try:
            yield work
        except BaseException:
            with defer_interrupts():
                work.flush()
            raise
        shutil.rmtree(folder, ignore_errors=True)


def _read(path: Path) -> tuple[Tensors, dict[str, Any]] | None:
    try:
        return load_tensors(path)
    except (UserError, OSError):
        print(f"warning: {path} is damaged and is ignored", file=sys.stderr)
        return None


def _key(determines: tuple[object, ...]) -> str:
    """Digest of what determines the result, and of the code in all loaded modules of this project."""
    digest = hashlib.sha256(json.dumps(determines, sort_keys=True).encode())
    files = {Path(file) for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))}
    for path in sorted(path for path in files if path.is_relative_to(ROOT) and determines_output(path)):
        digest.update(f"{path.relative_to(ROOT)} ".encode() + path.read_bytes())
    return digest.hexdigest()[:32]


def _remove_abandoned(scratch: Path) -> None:
    for folder in scratch.glob("*-*/"):
        with suppress(Timeout, OSError):  # another process uses it, or has just removed it
            if time.time() - folder.stat().st_mtime > ABANDONED:
                with FileLock(f"{folder}.lock", blocking=False):
                    shutil.rmtree(folder, ignore_errors=True)
