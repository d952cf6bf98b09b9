"""The processes of one stage: how they are started, what each of them does, how they put it together.

A stage with `runtime.processes` > 1 starts itself so many times by PyTorch's own launcher, on this machine; several
machines are joined by `torchrun --nnodes ... -m stages.NAME ...`. Tensors travel as they are or as safetensors: nothing
that is received can run code.
"""

import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor

from pipeline.errors import Told, UserError

T = TypeVar("T")
Tensors = dict[str, Tensor]
State = tuple[Tensors, dict[str, Any]]

# A process that waits for another one (for a lock, a slow store) is well; that one has ended is noticed without this.
TIMEOUT = timedelta(days=1)
NUMBERS = "numbers"  # name of what JSON holds, among the tensors of a state


class PeerLostError(UserError):
    """Another process of this stage has ended before its time. That one knows why: this is no cause, but its effect."""

    exit_code = os.EX_TEMPFAIL


class Ranks(NamedTuple):
    """The place of this process among those of its stage. `Ranks(0, 1)` is alone: all of this is then nothing to do."""

    rank: int
    size: int

    def share(self, items: int) -> slice:
        """The part of so many items in a row that is this process's: sizes differ by one at most, and may be 0."""
        return slice(self.rank * items // self.size, (self.rank + 1) * items // self.size)

    def dealt(self, items: Sequence[T]) -> Sequence[T]:
        """Item i is for rank i mod size."""
        return items[self.rank :: self.size]

    def sum_(self, values: Tensor) -> None:
        """The sum over all processes, in place; the same bits in each of them."""
        if self.size > 1:
            with _together():
                dist.all_reduce(values)

    def largest(self, number: int) -> int:
        """Of all processes' numbers."""
        if self.size == 1:
            return number
        values = torch.tensor([number])
        with _together():
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return int(values)

    def gather(self, tensors: Tensors) -> list[Tensors]:
        """What each process has, by rank, on the CPU; every process gets all of it."""
        if self.size == 1:
            return [tensors]
        mine = _packed(tensors)
        sizes = [torch.zeros(1, dtype=torch.long) for _ in range(self.size)]
        with _together():
            dist.all_gather(sizes, torch.tensor([len(mine)]))
            padded = torch.zeros(int(max(sizes)), dtype=torch.uint8)
            padded[: len(mine)] = mine
            parts = [torch.empty_like(padded) for _ in range(self.size)]
            dist.all_gather(parts, padded)
        return [_unpacked(part[: int(size)]) for part, size in zip(parts, sizes, strict=True)]

    def broadcast(self, state: State | None) -> State | None:
        """What rank 0 has, tensors on the CPU and what JSON can hold; the others' argument does not matter."""
        if self.size == 1:
            return state
        content = torch.empty(0, dtype=torch.uint8)
        if self.rank == 0 and state:
            text = json.dumps(state[1]).encode()
            content = _packed({**state[0], NUMBERS: torch.frombuffer(bytearray(text), dtype=torch.uint8)})
        size = torch.tensor([len(content)])
        with _together():
            dist.broadcast(size, 0)
            if size == 0:
                return None
            content = content if self.rank == 0 else torch.empty(int(size), dtype=torch.uint8)
            dist.broadcast(content, 0)
        tensors = _unpacked(content)
        return tensors, json.loads(tensors.pop(NUMBERS).numpy().tobytes())


ALONE = Ranks(0, 1)


def _packed(tensors: Tensors) -> Tensor:
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return torch.frombuffer(bytearray(save(contiguous)), dtype=torch.uint8)


def _unpacked(content: Tensor) -> Tensors:
    return load(content.numpy().tobytes())


@contextmanager
def _together() -> Iterator[None]:
    """What breaks in here was broken by another process, or by the way to it."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise PeerLostError(f"the processes of this stage have lost each other: {reason}") from error


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Join the processes of this stage, where it was started as several; rank 0 alone then writes to stdout.

    Raises:
        PeerLostError: when another one has ended.
    """
    if "RANK" not in os.environ:
        yield ALONE
        return
    with _together():
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    ranks = Ranks(dist.get_rank(), dist.get_world_size())
    if ranks.rank == 0:
        yield ranks
    else:
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
            yield ranks
    # Not where the block failed: it waits for what the others may never send. They are told by this process's end.
    dist.destroy_process_group()


def launch(processes: int, device: torch.device) -> bool:
    """Run this very stage as so many processes; whether that was done, so that nothing is left to do in this one.

    False where one process is asked for, and in a process that was started by this or by torchrun. The first of
    them that fails ends the others; its message and its exit code are then those of this process. Each gets its
    share of this one's threads, and one GPU.

    Raises:
        UserError: when there are not as many GPUs.
        KeyboardInterrupt: when this process was interrupted; the others have saved their work and ended.
    """
    if processes == 1 or "RANK" in os.environ:
        return False
    there = torch.cuda.device_count() if device.type == "cuda" else processes
    if processes > there:
        raise UserError(
            f"runtime.processes = {processes}: each needs a GPU of its own, and there "
            f"{'is 1' if there == 1 else f'are {there}'}; use runtime.processes = {there}, or runtime.device = cpu"
        )
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    stage = sys.modules["__main__"].__spec__
    assert stage
    os.environ["OMP_NUM_THREADS"] = str(max(1, torch.get_num_threads() // processes))
    # All of them are on this machine, whose name may have no address; NCCL finds its own way.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
    # A broken connection is told once, by the process that broke it.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    quiet = logging.getLogger("torch.distributed.elastic")
    quiet.addHandler(logging.NullHandler())
    quiet.propagate = False
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with tempfile.TemporaryDirectory() as folder:
        config = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=processes, max_restarts=0, run_id=str(os.getpid()),
            rdzv_backend="c10d", rdzv_endpoint="127.0.0.1:0", rdzv_configs={"is_host": True}, local_addr="127.0.0.1",
            signals_to_handle="SIGTERM,SIGINT", logs_specs=DefaultLogsSpecs(log_dir=folder),
        )  # fmt: skip
        try:
            elastic_launch(config, sys.executable)("-m", stage.name, *sys.argv[1:])
        except SignalException as interruption:
            raise KeyboardInterrupt(int(interruption.sigval)) from None
        except ChildFailedError as error:
            told = _cause(Path(folder), {rank: failure.exitcode for rank, failure in error.failures.items()})
            print(told.message, file=sys.stderr)
            raise SystemExit(told.code) from None
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return True


def _cause(folder: Path, codes: dict[int, int]) -> Told:
    """What the first of them said; where none did, how one ended. What others said of its end, or were told to, last.

    Args:
        codes: exit codes by rank; negative where a signal ended a process.
    """
    effects = {PeerLostError.exit_code, 128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGTERM}
    told = [Told.read(path) for path in sorted(folder.rglob("error.json"), key=lambda path: path.stat().st_mtime_ns)]
    for rank, code in sorted(codes.items(), key=lambda item: item[1] < 0):
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        # One that hangs when another has ended is killed in the end, so a signal counts last.
        told.append(Told(f"error: process {rank} of this stage {how}", code))
    cause = min(told, key=lambda one: one.code in effects)
    return cause._replace(code=cause.code if cause.code > 0 else 128 - cause.code)
