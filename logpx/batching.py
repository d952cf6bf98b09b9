"""Splitting work: blocks of images that are measured together, and chunks of decoder evaluations held in memory."""

from collections.abc import Iterator

import torch
from torch import nn

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


def image_blocks(images: int, latent: int, chunk: int) -> list[range]:
    """Blocks of images for which one tangent per latent coordinate is at most `chunk` decoder evaluations."""
    return ranges(images, chunk // latent)


def noise_blocks(samples: int) -> Iterator[tuple[int, int]]:
    """Number and size of each block of noise that `samples` samples are drawn in."""
    for block, part in enumerate(ranges(samples, BLOCK)):
        yield block, len(part)


def chunk_size(model: Model) -> int:
    """Decoder evaluations to hold in memory at once, as suits the model and its device.

    On a CPU the output of a chunk's layer stays in the cache, where the functions between the matmuls find it.
    On a GPU the layers of a chunk with their derivatives take an eighth of the memory.
    """
    widths = [layer.out_features for layer in model.decoder.network if isinstance(layer, nn.Linear)]
    device = model.prior.mean.device
    if device.type == "cuda":
        floats = torch.cuda.get_device_properties(device).total_memory // 8 // 4
        chunk = floats // (4 * sum(widths))
    else:
        chunk = CACHED // max(widths)
    return max(BLOCK, chunk // BLOCK * BLOCK)
