"""Splitting work: blocks of images that are measured together, and chunks of decoder evaluations held in memory."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from logpx.data import Data, device_of, like, parts_of, select
from logpx.model import Model
from logpx.noise import BLOCK

CACHED = 2**21  # numbers of a layer's output that fit a CPU's cache


def ranges(count: int, size: int) -> list[range]:
    """0 .. count − 1 in consecutive ranges of at most `size` (at least one) numbers."""
    size = max(1, size)
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def splits(count: int, size: int) -> list[slice]:
    """`ranges` as slices, to index tensors with."""
    return [slice(part.start, part.stop) for part in ranges(count, size)]


def noise_blocks(samples: int) -> Iterator[tuple[int, int]]:
    """Number and size of each block of noise that `samples` samples are drawn in."""
    for block, part in enumerate(ranges(samples, BLOCK)):
        yield block, len(part)


def chunk_size(model: Model, x: Data, latent: int) -> int:
    """Decoder evaluations to hold in memory at once, as suits the model and its device.

    The widest output of the model's layers, and the image itself, count. On a CPU the output of a chunk's layer stays
    in the cache, where the functions between the matmuls find it. On a GPU the layers of a chunk with their derivatives
    take an eighth of the memory.
    """
    widths = _widths(model, x, latent)
    device = device_of(x)
    if device.type == "cuda":
        floats = torch.cuda.get_device_properties(device).total_memory // 8 // 4
        chunk = floats // (4 * sum(widths))
    else:
        chunk = CACHED // max(widths)
    return max(BLOCK, chunk // BLOCK * BLOCK)


@torch.no_grad()
def _widths(model: Model, x: Data, latent: int) -> list[int]:
    """Numbers that each layer computes for one z; for a model without modules, those of the image."""
    one = select(x, slice(1))
    widths = [max(1, parts_of(one)[0].numel())]
    modules = [part for part in vars(model).values() if isinstance(part, nn.Module)]
    if isinstance(model, nn.Module):
        modules = [model]

    def record(_: nn.Module, __: object, output: object) -> None:
        if isinstance(output, Tensor):
            widths.append(output.numel())

    layers = [layer for module in modules for layer in module.modules() if not list(layer.children())]
    handles = [layer.register_forward_hook(record) for layer in layers]
    try:
        model.log_likelihood(one, torch.zeros(1, 1, latent).to(like(x)))
    finally:
        for handle in handles:
            handle.remove()
    return widths
