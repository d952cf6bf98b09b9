"""Probes: images unlike the training data, to see whether the model gives them a lower log p(x).

Each kind is made from test images. To add one, write a function here and enter it in `PROBES`.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Integer, UInt8
from numpy.typing import NDArray
from torch import Tensor


class Digits(NamedTuple):
    """Test images with their classes, and the source of randomness for the probes made from them."""

    images: UInt8[Tensor, "images *shape"]
    labels: Integer[Tensor, " images"]
    levels: int
    generator: torch.Generator


Images = UInt8[Tensor, "images *shape"]


def uniform_noise(digits: Digits) -> Images:
    """Pixels drawn independently and uniformly from all grey levels."""
    size = digits.images.shape
    return torch.randint(0, digits.levels, size, generator=digits.generator, dtype=torch.uint8)


def permuted(digits: Digits) -> Images:
    """The pixels of each image in a random order: the same ink without the shape."""
    flat = digits.images.flatten(-2)
    order = torch.rand(len(flat), flat.shape[-1], generator=digits.generator).argsort(1)
    order = order if flat.ndim == 2 else order[:, None].expand_as(flat)  # the colours of a pixel stay together
    return flat.gather(-1, order).view_as(digits.images)


def upside_down(digits: Digits) -> Images:
    """Each image turned by 180 degrees: real strokes, in places where some classes have none."""
    return digits.images.flip(-2, -1)


def chimeras(digits: Digits) -> Images:
    """The left half of each image beside the right half of one of another class (of any class if there is only one)."""
    other = digits.labels[:, None] != digits.labels
    other |= ~other.any(1, keepdim=True)
    partner = torch.multinomial(other.float(), 1, generator=digits.generator).squeeze(1)
    half = digits.images.shape[-1] // 2
    return torch.cat([digits.images[..., :half], digits.images[partner][..., half:]], -1)


def blank(digits: Digits) -> Images:
    """Empty images, which differ only in their dequantisation noise."""
    return torch.zeros_like(digits.images)


PROBES: dict[str, Callable[[Digits], Images]] = {
    "uniform noise": uniform_noise,
    "permuted pixels": permuted,
    "upside down": upside_down,
    "chimeras": chimeras,
    "blank": blank,
}


def examples(
    images: UInt8[Tensor, "images *shape"], labels: Integer[Tensor, " images"], levels: int
) -> dict[str, NDArray[np.floating]]:
    """One image of each kind, to show; pixels in [0, 1]."""
    digits = Digits(images, labels, levels, torch.Generator().manual_seed(0))
    return {name: make(digits)[0].numpy() / (levels - 1) for name, make in PROBES.items()}
