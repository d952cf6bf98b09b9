"""Unfinished work, on disk: it outlasts a killed stage, a deleted workspace and a crashed machine.

Each computation has a folder `.scratch/STAGE-KEY` of the main repository. The key is a digest of everything that
determines the result, so that the very same computation finds its work again and no other one does. Files are written
whole and carry the digest of their content: a damaged one is told and passed over.
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

from pipeline import tensors
from pipeline.config import Recovery
from pipeline.errors import UserError
from pipeline.files import main_repository

STATES = 2  # the newest states are kept: one may be damaged
ABANDONED = 7 * 24 * 3600.0  # seconds after which work that nobody went on with is removed

Tensors = dict[str, Tensor]


class Scratch:
    """One computation's folder: the state of something that goes on in steps, and the results of parts."""

    def __init__(self, folder: Path, interval: float) -> None:
        self.folder = folder
        self.interval = interval
        self._written = time.monotonic()
        self._parts = self._read_parts()
        self._new: dict[str, Tensors] = {}

    def due(self) -> bool:
        """Whether the last writing was `interval` seconds ago or more."""
        return time.monotonic() - self._written >= self.interval

    def save(self, state: Tensors, numbers: Mapping[str, Any]) -> None:
        """Write a state, and remove all but the newest ones. A full disk costs a warning, not the computation."""
        if self._write("state", state, numbers):
            for old in self._files("state")[STATES:]:
                old.unlink(missing_ok=True)

    def load(self) -> tuple[Tensors, dict[str, Any]] | None:
        """The newest state that is whole; None where there is none."""
        for path in self._files("state"):
            if (found := _read(path)) is not None:
                print(f"going on from the state of {time.time() - path.stat().st_mtime:.0f} s ago", flush=True)
                return found
        return None

    def once(self, name: str, compute: Callable[[], Tensors]) -> Tensors:
        """The result of a part: as an earlier, killed process left it, else computed now; sorted by name either way."""
        if name not in self._parts:
            self._parts[name] = self._new[name] = compute()
            if self.due():
                self.flush()
        return dict(sorted(self._parts[name].items()))

    def flush(self) -> None:
        """Write the results of parts that are not written yet."""
        flat = {f"{name}/{key}": value for name, part in self._new.items() for key, value in part.items()}
        if flat and self._write("parts", flat, {}):
            self._new = {}

    def _files(self, kind: str) -> list[Path]:
        return sorted(self.folder.glob(f"{kind}-*.safetensors"), reverse=True)

    def _write(self, kind: str, content: Tensors, numbers: Mapping[str, Any]) -> bool:
        numbers_used = [int(path.stem.rpartition("-")[2]) for path in self._files(kind)]
        path = self.folder / f"{kind}-{max(numbers_used, default=0) + 1:08}.safetensors"
        self._written = time.monotonic()
        try:
            tensors.save(path, content, numbers)
        except OSError as error:
            print(f"warning: this work could not be kept, so that a crash would lose it: {error}", file=sys.stderr)
            return False
        return True

    def _read_parts(self) -> dict[str, Tensors]:
        parts: dict[str, Tensors] = {}
        for path in self._files("parts"):
            for name, value in (_read(path) or ({}, {}))[0].items():
                part, _, key = name.rpartition("/")
                parts.setdefault(part, {})[key] = value
        if parts:
            print(f"{len(parts)} parts were done before", flush=True)
        return parts


@contextmanager
def opened(stage: str, settings: Recovery, *determines: object) -> Iterator[Scratch]:
    """The scratch of a computation, for this process alone; removed when the block ends well, kept when it does not.

    A second process with the same computation waits until the first has ended.

    Args:
        determines: everything that determines the result, beside the code: parameters, digests, the environment.
    """
    folder = main_repository() / ".scratch" / f"{stage}-{_key(determines)}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{folder}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print("another process is at the very same computation; waiting for it", flush=True)
        lock.acquire()
    try:
        _remove_abandoned(folder.parent)
        folder.mkdir(exist_ok=True)
        scratch = Scratch(folder, settings.save_every)
        try:
            yield scratch
        except BaseException:
            scratch.flush()
            raise
        shutil.rmtree(folder, ignore_errors=True)
        Path(lock.lock_file).unlink(missing_ok=True)
    finally:
        lock.release()


def _read(path: Path) -> tuple[Tensors, dict[str, Any]] | None:
    try:
        return tensors.load(path)
    except (UserError, OSError):
        print(f"warning: {path} is damaged; going on without it", file=sys.stderr)
        return None


def _key(determines: tuple[object, ...]) -> str:
    """Digest of what determines the result, and of the code: all modules of this project that are loaded."""
    digest = hashlib.sha256(json.dumps(determines, sort_keys=True).encode())
    root = Path(__file__).parents[1]
    modules = {Path(file) for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))}
    for path in sorted(
        path for path in modules if path.is_relative_to(root / "pipeline") or path.parent.name == "stages"
    ):
        digest.update(f"{path.name} ".encode() + path.read_bytes())
    return digest.hexdigest()[:32]


def _remove_abandoned(folder: Path) -> None:
    for path in folder.glob("*-*.lock"):
        work = path.with_suffix("")
        if not work.is_dir() or time.time() - work.stat().st_mtime > ABANDONED:
            with suppress(Timeout, OSError), FileLock(path, blocking=False):
                shutil.rmtree(work, ignore_errors=True)
                path.unlink(missing_ok=True)
