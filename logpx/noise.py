"""Noise that belongs to an image: it depends on the seed, the image's index, a stream and a block, on nothing else.

Philox-4x32 with ten rounds (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") is counter-based: the
seed is its key; image, stream, block and position are its counter. So an image's noise is the same in any batch, chunk
or order and on any device, and the noise of a whole batch is drawn at once, on its device.

PyTorch has the same generator in `torch.func._random`, still private. Once that is public it can replace `philox`.
"""

import math
from enum import IntEnum
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Samples of one image that are drawn together. The noise depends on it, so it is not a parameter.
BLOCK = 128

# The index of noise that all images share: the prior's samples.
SHARED = 2**32 - 1

NORMAL, UNIFORM = 0, 1
LEVELS = 8  # most levels of the adaptive estimator; each has its own streams

WORD = 2**32 - 1
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85  # what a round adds to the key
ROUNDS = 10


class Stream(IntEnum):
    """What an image's noise is used for. Each use has its own stream, so that no two uses share a number.

    `ESTIMATE` and the streams of a rescue are each the first of `LEVELS` consecutive numbers, one per level.
    `REFINEMENT` is the first of 2 · `LEVELS`, two per level. `of(level)` gives the number of a level.
    """

    ELBO = 0
    ESTIMATE = 1
    REFINEMENT = 65
    STARTS = 88
    DRAWS = 89
    BEST_GAUSSIAN_STEPS = 80
    BEST_GAUSSIAN_RESULT = 81
    ANNEALING_TUNING = 96
    ANNEALING_FORWARD = 97
    ANNEALING_REVERSE = 98
    RESCUE_CHAINS = 104
    RESCUE_ESTIMATE = 112
    RESCUE_ANNEALING = 120

    def of(self, level: int, part: int = 0) -> int:
        """The number of this stream at a level, and for `REFINEMENT` of a round at that level."""
        return self + (2 * level + part if self is Stream.REFINEMENT else level)


class Noise(NamedTuple):
    """What a proposal turns into samples: ε ~ N(0, I), and u ~ U[0, 1) to choose a mixture's component."""

    normal: Float[Tensor, "samples batch latent"]
    uniform: Float[Tensor, "samples batch"]

    def to(self, x: Tensor) -> "Noise":
        """With the dtype and on the device of `x`."""
        return Noise(self.normal.to(x), self.uniform.to(x))


def draw(seed: int, images: Int[Tensor, " batch"], stream: int, block: int, samples: int, latent: int) -> Noise:
    """The first `samples` of a block of each image's noise; float32, on the device of `images`.

    Args:
        images: indices of the images in their data set.
        stream: a `Stream`, or one of its levels.
        block: number of the block of `BLOCK` samples.
    """
    quads = math.ceil(latent / 4)  # a counter gives four words
    words = _words(seed, images, stream, block, NORMAL, samples * quads)
    normal = _normal(*words).view(len(images), samples, 4 * quads)[..., :latent]
    words = _words(seed, images, stream, block, UNIFORM, math.ceil(samples / 4))
    # 24 bits, as many as float32 holds: every value below 1 can occur, and 1 cannot.
    uniform = (torch.stack(words, -1).view(len(images), -1)[:, :samples] >> 8).float() * 2.0**-24
    return Noise(normal.transpose(0, 1), uniform.T)


Words = tuple[Int[Tensor, "batch counters"], ...]


def philox(counter: Words, key: tuple[int, int]) -> Words:
    """Four words of 32 random bits for each counter, which is itself four such words; stored as int64."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        # Products of 32-bit words fill 64 bits: as signed numbers they wrap, and the bits are right. Only the lower
        # halves of c1 and c3 count; they are masked at the end.
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0 = (p1 >> 32).bitwise_xor_(c1).bitwise_xor_(k0).bitwise_and_(WORD)
        c2 = (p0 >> 32).bitwise_xor_(c3).bitwise_xor_(k1).bitwise_and_(WORD)
        c1, c3 = p1, p0
        k0, k1 = (k0 + WEYL[0]) & WORD, (k1 + WEYL[1]) & WORD
    return c0, c1 & WORD, c2, c3 & WORD


def _words(seed: int, images: Int[Tensor, " batch"], stream: int, block: int, kind: int, counters: int) -> Words:
    place = torch.arange(counters, device=images.device).expand(len(images), -1)
    image = images[:, None].expand(-1, counters)
    use, part = torch.full_like(place, 2 * stream + kind), torch.full_like(place, block)
    return philox((place, part, use, image), (seed & WORD, seed >> 32))


def _normal(*words: Int[Tensor, "batch counters"]) -> Float[Tensor, "batch counters 4"]:
    """Standard normal numbers by Box & Muller (1958): √(−2 ln u) cos 2πv and √(−2 ln u) sin 2πv."""
    u, v, u2, v2 = words
    radius = torch.stack([u, u2], -1).float().add_(0.5).mul_(2.0**-32).log_().mul_(-2).sqrt_()
    angle = torch.stack([v, v2], -1).float().mul_(2 * math.pi * 2.0**-32)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], -1)
