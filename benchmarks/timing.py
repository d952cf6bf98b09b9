"""What the benchmarks share: contenders that take turns, and the matrix multiplications that a network needs."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

from pipeline.training.cuda_graph import capture


def alternating(contenders: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Median rate of each contender over several rounds; in each round all contenders run once, one after another."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            rates[name].append(run())
    return {name: statistics.median(values) for name, values in rates.items()}


def rate(count: float, work: Callable[[], object]) -> Callable[[], float]:
    """Time `work`, which does `count` things: things per second, until the device has finished them."""

    def run() -> float:
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return count / (time.perf_counter() - start)

    return run


def as_installed(work: Callable[[], object]) -> Callable[[], None]:
    """The same with the matmul library that PyTorch chooses by default."""

    def run() -> None:
        matmul = torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]
        before, matmul.fp32_precision = matmul.fp32_precision, "ieee"
        try:
            work()
        finally:
            matmul.fp32_precision = before

    return run


def on_device(work: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """The same; on a GPU as a captured graph, whose kernels follow each other without waiting for the host."""
    if device.type == "cpu":
        return work
    work()  # loads the kernels, which is not allowed during a capture
    return capture(work, torch.Generator(device))


def forward_matmuls(layers: Sequence[tuple[int, int]], rows: int, device: torch.device) -> Callable[[], None]:
    """y = x Wᵀ of each layer, into buffers allocated in advance."""
    with device:
        tensors = [(torch.randn(rows, i), torch.randn(o, i), torch.empty(rows, o)) for i, o in layers]

    def run() -> None:
        for x, weight, y in tensors:
            torch.mm(x, weight.T, out=y)

    return on_device(run, device)


def training_matmuls(
    layers: Sequence[tuple[int, int]], first: int, rows: int, device: torch.device
) -> Callable[[], None]:
    """y = x Wᵀ, ∂W = ∂yᵀ x and ∂x = ∂y W of each layer, into buffers allocated in advance.

    On a GPU each is launched by itself, so the host's launches count.

    Args:
        first: the layer whose x are images, which need no ∂x.
    """
    with device:
        tensors = [
            (torch.randn(rows, i), torch.randn(o, i), torch.randn(rows, o), torch.empty(rows, i), torch.empty(o, i))
            for i, o in layers
        ]

    def run() -> None:
        for number, (x, weight, y, dx, dweight) in enumerate(tensors):
            torch.mm(x, weight.T, out=y)
            torch.mm(y.T, x, out=dweight)
            if number != first:
                torch.mm(y, weight, out=dx)

    return run
