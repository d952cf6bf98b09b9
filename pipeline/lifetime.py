"""A stage's life as a process: alone in its workspace, no longer than what started it, ended in order when asked to."""

import gc
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import psutil
from filelock import FileLock, Timeout

from pipeline.errors import Told, UserError, guarded, outcome

PATIENCE = 20.0  # seconds that a stage waits for another one that still runs in its workspace
GRACE = 15.0  # seconds that an orphan has to save its work
LAUNCHER = "STAGE_LAUNCHER"  # in the environment of all processes that a stage starts: they are in its workspace by it


def run(main: Callable[[], None]) -> int:
    """Run a stage's `main` as a process of its own; its exit code.

    SIGINT and SIGTERM raise KeyboardInterrupt, at the end of what is `deferred`, so that work is saved and files are
    whole; a second one ends the process at once.

    One of several processes of a stage has a RANK. Where the stage itself has started them, that one tells the user
    how they ended; by torchrun, rank 0 stands for all of them in the workspace, which machines may share.
    """
    # The imports have made half a million objects that stay: to look for garbage among them, at the end once more,
    # takes half a second.
    gc.freeze()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)

    def alone() -> None:
        _end_with_starter()
        with _workspace(Path(sys.argv[0]).stem):
            main()

    def ranked() -> None:
        _end_with_starter()
        main()

    if "RANK" in os.environ and LAUNCHER in os.environ:
        return _told(ranked)
    os.environ[LAUNCHER] = str(os.getpid())
    return guarded(ranked if int(os.environ.get("RANK", 0)) > 0 else alone)


def _told(main: Callable[[], None]) -> int:
    """Like `guarded`, but the process that started this one speaks for it: the same mistake of all is told once."""
    try:
        told = outcome(main)
    except Exception:
        told = Told(traceback.format_exc().rstrip(), 1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # it ends already; the launcher asks all when one has failed
    if told.message:
        try:
            told.write(Path(os.environ["TORCHELASTIC_ERROR_FILE"]))
        except OSError:  # the disk is full, or the one to tell it to is gone
            print(told.message, file=sys.stderr)
    return told.code


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
    """An interruption that comes in this block takes effect at its end: no step is cut in two.

    Also where the block fails: what it waited for from another process may have failed by the same interruption.
    Within another such block it is that one's end that counts.
    """
    global _deferring
    before, outer, _deferring = _interrupted, _deferring, True
    try:
        yield
    finally:
        _deferring = outer
        if _interrupted != before and not outer:
            raise KeyboardInterrupt(_interrupted)


def interruption() -> int:
    """The signal that has come and is deferred, or 0."""
    return _interrupted


def _end_with_starter() -> None:
    """End this process when its dvc ends, or what started it as one of several.

    An orphan would hold the cores, and write into the next run's outputs. Not by the kernel's parent-death signal,
    which knows only the parent, often a shell between, and which comes as soon as the parent's thread ends.

    Raises:
        UserError: when that has ended already.
    """
    # One of several ends with the process that started them, which itself ends with dvc.
    mark, name = ("RANK", "launcher") if "RANK" in os.environ else ("DVC_STAGE", "dvc")
    if mark not in os.environ:
        return
    starter = _starter(mark)
    if starter is None:
        raise UserError(f"the {name} that started this stage has ended; nothing was run")
    threading.Thread(target=_outlive, args=(starter,), daemon=True).start()


def _outlive(starter: psutil.Process) -> None:
    while _runs(starter):
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(128 + signal.SIGTERM)


def _runs(process: psutil.Process) -> bool:
    """Not as a zombie: one that asks for its exit code may first wait for all the output, which is this process's."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _starter(mark: str) -> psutil.Process | None:
    """The process that started this stage: `mark` is in the environment of all below it. None where it is gone."""
    for process in psutil.Process().parents():
        try:
            if mark in process.environ():
                continue
            # An orphan is given to the system's first process, which in a container may be the starter itself.
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
