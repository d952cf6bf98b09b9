"""Process lifecycle of a stage: one per workspace, clean shutdown on signals, exit when the parent dies."""

import gc
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

import psutil
from filelock import FileLock, Timeout

from pipeline.errors import UserError
from pipeline.process.exit import run_cli

LOCK_TIMEOUT = 20.0  # seconds that a stage waits for another process of the same stage in its workspace
GRACE = 15.0  # seconds that an orphan has to save its work
# The launcher sets this for its workers: the folder where they meet, and where each of them writes its error.
WORKER_FOLDER = "STAGE_WORKER_FOLDER"


def run_stage(main: Callable[[], None]) -> int:
    """Run the `main` of a stage as this process and return the exit code.

    SIGINT and SIGTERM raise KeyboardInterrupt; inside a `defer_interrupts` block, when the block ends. A second signal
    ends the process at once.

    The launcher of a stage holds the workspace lock for its workers, and prints the error of one of them. Under
    torchrun rank 0 holds the lock, and every worker prints its error.
    """
    gc.freeze()  # saves 0.5 s at exit: half a million imported objects are not searched for garbage
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _handle)
    folder, rank = os.environ.get(WORKER_FOLDER), os.environ.get("RANK", "0")

    def watched_main() -> None:
        exit_with_parent()
        with nullcontext() if folder or rank != "0" else workspace_lock(Path(sys.argv[0]).stem):
            main()

    if not folder:
        return run_cli(watched_main)
    report = partial((Path(folder) / rank).write_text, encoding="utf-8")
    try:
        return run_cli(watched_main, report)
    except Exception:
        report(traceback.format_exc().rstrip())
        return 1
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # this process ends now; the launcher may still ask it to


_deferring, _interrupted = False, 0


def _handle(number: int, frame: FrameType | None) -> None:
    global _interrupted
    if not _interrupted:
        _interrupted = number
        if not _deferring:
            raise KeyboardInterrupt(number)
    elif "RANK" not in os.environ:  # if a worker takes too long to end, its launcher kills it
        os._exit(128 + number)


@contextmanager
def defer_interrupts() -> Iterator[None]:
    """Delay SIGINT and SIGTERM until the block ends, even by an exception. The outermost block counts."""
    global _deferring
    before, outer, _deferring = _interrupted, _deferring, True
    try:
        yield
    finally:
        _deferring = outer
        if _interrupted != before and not outer:
            raise KeyboardInterrupt(_interrupted)


def pending_interrupt() -> int:
    """The signal that arrived and is delayed, or 0."""
    return _interrupted


def raise_interrupt(number: int) -> NoReturn:
    """Raise KeyboardInterrupt for a signal that another process of this stage received.

    A signal that this process receives later is then a second one: it does not disturb the shutdown.
    """
    global _interrupted
    _interrupted = number
    raise KeyboardInterrupt(number)


def exit_with_parent() -> None:
    """Shut down when the parent exits: the launcher of a worker, else the `dvc` that runs this stage, if any.

    An orphan would hold the cores and overwrite the outputs of the next run. The kernel's parent-death signal is no
    help: it watches the direct parent, often a shell, and fires when the thread that started this process ends.

    Raises:
        UserError: if the parent has already ended.
    """
    variable, name = ("RANK", "launcher") if "RANK" in os.environ else ("DVC_STAGE", "dvc")
    if variable not in os.environ:
        return
    parent = _ancestor_outside(variable)
    if parent is None:
        raise UserError(f"the {name} that started this stage has ended, so the stage did not run; start it again")
    threading.Thread(target=_exit_after, args=(parent,), daemon=True).start()


def _exit_after(parent: psutil.Process) -> None:
    while _is_alive(parent):
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(128 + signal.SIGTERM)


def _is_alive(process: psutil.Process) -> bool:
    """A zombie counts as dead: its parent may wait for our output to close before it reaps it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _ancestor_outside(variable: str) -> psutil.Process | None:
    """The nearest ancestor that has not this process's value of a variable, which it sets for its children.

    Not simply one without the variable: the `dvc` of this stage may itself run in a stage of another DVC project.

    Returns:
        None if the ancestor is gone.
    """
    for process in psutil.Process().parents():
        try:
            if process.environ().get(variable) == os.environ[variable]:
                continue
            # An orphan is adopted by process 1. In a container dvc itself may be process 1.
            return None if process.pid == 1 and not _is_python(process) else process
        except psutil.NoSuchProcess:
            return None
        except psutil.AccessDenied:
            return None if process.pid == 1 else process
    return None


def _is_python(process: psutil.Process) -> bool:
    return any(word in Path(process.exe()).name for word in ("python", "dvc"))


@contextmanager
def lock_file(path: Path, waiting: Callable[[], str], timeout: float = -1) -> Iterator[None]:
    """Hold a lock. If another process holds it, print the message `waiting()` and wait for up to `timeout` seconds.

    The lock file stays: if it were deleted while another process waits for it, two processes could hold the lock.

    Raises:
        Timeout: if another process still holds the lock then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(waiting(), flush=True)
        lock.acquire(timeout)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def workspace_lock(stage: str) -> Iterator[None]:
    """Only one process of a stage runs in a workspace: two would overwrite each other's files.

    Raises:
        UserError: if another process still holds the lock after `LOCK_TIMEOUT` seconds.
    """

    def running() -> str:
        return f"stage {stage} is already running in this folder ({_others(stage)}); wait for it, or end it: kill PID"

    with ExitStack() as held:
        try:
            held.enter_context(lock_file(Path(".scratch") / f"{stage}.lock", running, LOCK_TIMEOUT))
        except Timeout:
            raise UserError(running()) from None
        yield


def _others(stage: str) -> str:
    """The PIDs of other processes of the stage in this folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if f"stages.{stage}" in process.cmdline() and Path(process.cwd()) == Path.cwd():
                found.append(process.pid)
        except psutil.Error:
            continue
    return "PID " + ", ".join(str(pid) for pid in found if pid != os.getpid())
