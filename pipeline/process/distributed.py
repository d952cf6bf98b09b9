"""The processes of one stage and their collectives.

`pipeline.process.launcher` starts several processes on this machine. Processes on several machines are started by
`torchrun --nnodes ... -m stages.NAME ...`. Messages are raw tensors or safetensors, so that received data cannot run
code.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor

from pipeline.errors import UserError
from pipeline.process.lifecycle import WORKER_FOLDER

T = TypeVar("T")
Tensors = dict[str, Tensor]
State = tuple[Tensors, dict[str, Any]]

# How long a process waits for the others: long enough for slower ones to finish their share of the images. A dead
# process is noticed at once by its closed connection; this limit is for one that hangs, or whose machine is gone.
TIMEOUT = timedelta(hours=1)
JSON = "json"  # the entry of a message that holds the JSON part of a state


class PeerLostError(UserError):
    """A collective failed because another process of the stage died, and that process has the cause; or it hangs."""

    exit_code = os.EX_TEMPFAIL


class Group(NamedTuple):
    """The processes of a stage, as seen by the process with number `rank`. With one process each method is a no-op.

    Every process must call the collectives (`all_reduce_*`, `gather`, `broadcast`) in the same order.

    Raises:
        PeerLostError: in each collective, if another process has died or does not answer within `TIMEOUT`.
    """

    rank: int
    size: int

    def shard(self, items: int) -> slice:
        """This process's part of `items` consecutive items. The sizes of parts differ by at most 1, and may be 0."""
        return slice(self.rank * items // self.size, (self.rank + 1) * items // self.size)

    def round_robin(self, items: Sequence[T]) -> Sequence[T]:
        """This process's items: item i belongs to rank i mod size."""
        return items[self.rank :: self.size]

    def all_reduce_sum_(self, values: Tensor) -> None:
        """Replace the values by their sum over all processes, with the same bits in each."""
        if self.size > 1:
            with _peer_lost():
                dist.all_reduce(values)

    def all_reduce_max(self, number: int) -> int:
        """The largest number of all processes."""
        if self.size == 1:
            return number
        values = torch.tensor([number])
        with _peer_lost():
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return int(values)

    def gather(self, tensors: Tensors) -> list[Tensors]:
        """The tensors of all processes, by rank, on the CPU. Every process gets all of them."""
        if self.size == 1:
            return [tensors]
        mine = _pack(tensors)
        sizes = [torch.zeros(1, dtype=torch.long) for _ in range(self.size)]
        with _peer_lost():
            dist.all_gather(sizes, torch.tensor([len(mine)]))
            padded = torch.zeros(int(max(sizes)), dtype=torch.uint8)
            padded[: len(mine)] = mine
            parts = [torch.empty_like(padded) for _ in range(self.size)]
            dist.all_gather(parts, padded)
        return [_unpack(part[: int(size)]) for part, size in zip(parts, sizes, strict=True)]

    def broadcast(self, state: State | None) -> State | None:
        """The state of rank 0, its tensors on the CPU. The argument of other ranks is ignored."""
        if self.size == 1:
            return state
        content = torch.empty(0, dtype=torch.uint8)
        if self.rank == 0 and state:
            text = json.dumps(state[1]).encode()
            content = _pack({**state[0], JSON: torch.frombuffer(bytearray(text), dtype=torch.uint8)})
        size = torch.tensor([len(content)])
        with _peer_lost():
            dist.broadcast(size, 0)
            if size == 0:
                return None
            content = content if self.rank == 0 else torch.empty(int(size), dtype=torch.uint8)
            dist.broadcast(content, 0)
        tensors = _unpack(content)
        return tensors, json.loads(tensors.pop(JSON).numpy().tobytes())


SINGLE = Group(0, 1)


def _pack(tensors: Tensors) -> Tensor:
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return torch.frombuffer(bytearray(save(contiguous)), dtype=torch.uint8)


def _unpack(content: Tensor) -> Tensors:
    return load(content.numpy().tobytes())


@contextmanager
def _peer_lost() -> Iterator[None]:
    """Turn a failed collective into `PeerLostError`."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        if re.search(r"timed? ?out", reason, re.IGNORECASE):
            raise PeerLostError(
                f"another process of this stage did not answer for {TIMEOUT}: it hangs, or its machine cannot be "
                f"reached; end it and start the stage again, which resumes ({reason})"
            ) from error
        raise PeerLostError(f"this process lost the connection to another process of its stage: {reason}") from error


@contextmanager
def join(device: torch.device) -> Iterator[Group]:
    """Join the processes of this stage, if it was started as several. Only rank 0 then writes to stdout.

    Raises:
        PeerLostError: if another process has died.
    """
    if "RANK" not in os.environ:
        yield SINGLE
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    folder = os.environ.get(WORKER_FOLDER)
    group = Group(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    with _peer_lost():
        dist.init_process_group(
            backend, f"file://{folder}/store" if folder else "env://", TIMEOUT, rank=group.rank, world_size=group.size
        )
    if group.rank == 0:
        yield group
    else:
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
            yield group
    # Only after success: after a failure it would wait for messages that never come. The others notice when this
    # process ends.
    dist.destroy_process_group()
