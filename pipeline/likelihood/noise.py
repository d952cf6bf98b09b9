"""Noise that belongs to an image: it depends on the seed, the image's index, a stream and a block, on nothing else."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

# Samples of one image that are drawn together. Part of what the noise depends on, so not a parameter.
BLOCK = 128

# The noise that belongs to no image: the prior's samples, which all images share.
SHARED = 2**64 - 1


class Noise(NamedTuple):
    """What a proposal turns into samples: ε ~ N(0, I), and u ~ U[0, 1) to choose a mixture's component."""

    normal: Float[Tensor, "samples batch latent"]
    uniform: Float[Tensor, "samples batch"]


def draw(seed: int, images: Sequence[int], stream: int, block: int, samples: int, latent: int) -> Noise:
    """The first `samples` of a block of each image's noise; float32 on the CPU.

    Philox (Salmon et al. 2011) is counter-based: (seed, image) is its key, stream and block are words of its
    counter, so that no batch, chunk, order or device changes the noise of an image.
    """
    normal = np.empty((len(images), samples, latent), dtype=np.float32)
    uniform = np.empty((len(images), samples), dtype=np.float32)
    for i, image in enumerate(images):
        for kind, out in enumerate((normal[i], uniform[i])):
            counter = np.array([0, kind, stream, block], np.uint64)
            generator = np.random.Generator(np.random.Philox(key=np.array([seed, image], np.uint64), counter=counter))
            if kind == 0:
                generator.standard_normal(out=out, dtype=np.float32)
            else:
                generator.random(out=out, dtype=np.float32)
    return Noise(torch.from_numpy(normal).transpose(0, 1), torch.from_numpy(uniform).T)


def ranges(images: int, size: int) -> list[range]:
    """All images, in ranges of at most `size` (and at least one)."""
    size = max(1, size)
    return [range(start, min(start + size, images)) for start in range(0, images, size)]


def blocks(samples: int) -> Iterator[tuple[int, int]]:
    """The number and the size of each block that so many samples are drawn in."""
    for block, start in enumerate(range(0, samples, BLOCK)):
        yield block, min(BLOCK, samples - start)
