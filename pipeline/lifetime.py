"""A stage's life as a process: alone in its workspace, no longer than its dvc, ended in order when it is asked to."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import psutil
from filelock import FileLock, Timeout

from pipeline.errors import UserError, guarded

PATIENCE = 20.0  # seconds that a stage waits for another one that still runs in its workspace
GRACE = 15.0  # seconds that an orphan has to save its work


def run(main: Callable[[], None]) -> int:
    """Run a stage's `main` as a process of its own; its exit code.

    SIGINT and SIGTERM raise KeyboardInterrupt, at the end of what is `deferred`, so that work is saved and files are
    whole; a second one ends the process at once.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)

    def alone() -> None:
        _end_with_dvc()
        with _workspace(Path(sys.argv[0]).stem):
            main()

    return guarded(alone)


_deferring, _interrupted = False, 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _interrupted
    if _interrupted:
        os._exit(128 + number)
    _interrupted = number
    if not _deferring:
        raise KeyboardInterrupt(number)


@contextmanager
def deferred() -> Iterator[None]:
    """An interruption that comes in this block takes effect at its end: no step is cut in two."""
    global _deferring
    before, _deferring = _interrupted, True
    try:
        yield
    finally:
        _deferring = False
    if _interrupted != before:
        raise KeyboardInterrupt(_interrupted)


def _end_with_dvc() -> None:
    """End this process when its dvc ends: an orphan would hold the cores, and write into the next run's outputs.

    Not by the kernel's parent-death signal, which knows only the parent, often a shell between, and which comes as
    soon as the parent's thread ends.

    Raises:
        UserError: when dvc has ended already.
    """
    if "DVC_STAGE" not in os.environ:
        return
    dvc = _dvc()
    if dvc is None:
        raise UserError("the dvc that started this stage has ended; nothing was run")
    threading.Thread(target=_outlive, args=(dvc,), daemon=True).start()


def _outlive(dvc: psutil.Process) -> None:
    dvc.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(128 + signal.SIGTERM)


def _dvc() -> psutil.Process | None:
    """The process that started this stage: DVC_STAGE is in the environment of all below it. None where it is gone."""
    for process in psutil.Process().parents():
        try:
            if "DVC_STAGE" in process.environ():
                continue
            # An orphan is given to the system's first process, which in a container may be dvc itself.
            return None if process.pid == 1 and not _is_python(process) else process
        except psutil.NoSuchProcess:
            return None
        except psutil.AccessDenied:
            return None if process.pid == 1 else process
    return None


def _is_python(process: psutil.Process) -> bool:
    return any(word in Path(process.exe()).name for word in ("python", "dvc"))


@contextmanager
def _workspace(stage: str) -> Iterator[None]:
    """Two processes of one stage in one workspace would write each other's files: the second one waits a while.

    Raises:
        UserError: when the other one has not ended by then.
    """
    path = Path(".scratch") / f"{stage}.lock"
    path.parent.mkdir(exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(f"stage {stage} still runs in this folder ({_others(stage)}); waiting for it", flush=True)
        try:
            lock.acquire(timeout=PATIENCE)
        except Timeout:
            raise UserError(
                f"stage {stage} runs in this folder already ({_others(stage)}); wait for it, or end it: kill PID"
            ) from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: who waits for it then makes a new one
        lock.release()


def _others(stage: str) -> str:
    """Processes of the stage in this folder, for the message."""
    found = []
    for process in psutil.process_iter():
        try:
            if f"stages.{stage}" in process.cmdline() and Path(process.cwd()) == Path.cwd():
                found.append(process.pid)
        except psutil.Error:
            continue
    return "PID " + ", ".join(str(pid) for pid in found if pid != os.getpid())
