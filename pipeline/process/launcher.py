"""Start a stage as several worker processes on this machine, and report how they ended.

The stage process becomes the launcher: it passes signals on to its workers, ends all of them if one fails, and prints
one error. PyTorch's own launcher would need about as much code around it to do this.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

import torch

from pipeline.errors import UserError
from pipeline.process.distributed import PeerLostError
from pipeline.process.exit import print_error
from pipeline.process.lifecycle import GRACE, WORKER_FOLDER, defer_interrupts

# Seconds in which a worker must end when asked to. An orphaned launcher has GRACE seconds, in which it must kill them.
TERMINATION = GRACE - 5
# Exit codes of a worker that ended because another one died, or because of a signal.
SYMPTOMS = {PeerLostError.exit_code, 128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGINT, -signal.SIGTERM}

Worker = subprocess.Popen[bytes]
Codes = dict[int, int]  # rank → exit code, in the order in which the workers ended


def launch(processes: int, device: torch.device) -> bool:
    """Re-run this stage as `processes` workers. Each gets its share of this process's threads, or one GPU.

    Returns:
        True in the launcher, once the workers have succeeded: the caller must return. False in a worker, and if
        `processes` is 1.

    Raises:
        UserError: if there are fewer GPUs than processes.
        KeyboardInterrupt: if this process was interrupted. The workers have saved their work and ended.
        SystemExit: if a worker failed, with its exit code. Its error was printed.
    """
    if processes == 1 or "RANK" in os.environ:
        return False
    if device.type == "cuda" and processes > (gpus := torch.cuda.device_count()):
        raise UserError(
            f"runtime.processes = {processes}: each process needs its own GPU, but the machine has {gpus}; "
            f"use runtime.processes = {gpus}, or runtime.device = cpu"
        )
    workers: list[Worker] = []
    codes: Codes = {}
    number = signal.SIGTERM
    with tempfile.TemporaryDirectory() as folder:
        try:
            with defer_interrupts():  # so that every worker that is started is in the list
                for rank in range(processes):
                    workers.append(_start(rank, processes, folder))
            while len(codes) < processes and not any(codes.values()):
                _poll(workers, codes)
        except KeyboardInterrupt as interrupt:
            number = interrupt.args[0]
            raise
        finally:
            with defer_interrupts():
                _end(workers, codes, number)
        if any(codes.values()):
            _fail(codes, Path(folder))
    return True


def _start(rank: int, processes: int, folder: str) -> Worker:
    stage = sys.modules["__main__"].__spec__
    assert stage, "a stage runs as `python -m stages.NAME`"
    defaults = {
        # Gloo needs an interface; the name of this machine may have no address. NCCL finds its own way.
        "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0",
        "TORCH_CPP_LOG_LEVEL": "FATAL",  # PeerLostError reports a broken connection
    }
    variables = {
        WORKER_FOLDER: folder,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // processes)),
    }
    # In its own session, so that Ctrl-C in a terminal reaches a worker once: through the launcher.
    return subprocess.Popen(
        [sys.executable, "-m", stage.name, *sys.argv[1:]], env=defaults | os.environ | variables, start_new_session=True
    )


def _poll(workers: list[Worker], codes: Codes) -> None:
    """Wait a moment, and add the exit codes of the workers that have ended."""
    time.sleep(0.05)
    for rank, worker in enumerate(workers):
        if rank not in codes and (code := worker.poll()) is not None:
            codes[rank] = code


def _end(workers: list[Worker], codes: Codes, number: int) -> None:
    """Send the signal to the workers that still run, and kill those that do not end. Those killed get no exit code."""
    for worker in workers:
        worker.send_signal(number)
    deadline = time.monotonic() + TERMINATION
    while len(codes) < len(workers) and time.monotonic() < deadline:
        _poll(workers, codes)
    for worker in workers:
        worker.kill()
        worker.wait()


def _fail(codes: Codes, folder: Path) -> NoReturn:
    """Print the error of the first worker that failed, and exit with its code. A cause is preferred to a symptom."""
    failed = [rank for rank, code in codes.items() if code]
    rank = min(failed, key=lambda rank: codes[rank] in SYMPTOMS)
    code = codes[rank]
    try:
        message = (folder / str(rank)).read_text(encoding="utf-8")
    except FileNotFoundError:
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        message = f"error: process {rank} of this stage {how}"
    print_error(message)
    raise SystemExit(code if code > 0 else 128 - code)
