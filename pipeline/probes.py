"""Images that are not what the model was trained on, to ask its density about.

Each kind is made from test images and their classes. To add one: a function here and its name in `PROBES`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor


class Digits(NamedTuple):
    """Test images with their classes, and what new ones are made with."""

    images: UInt8[Tensor, "images height width"]
    labels: UInt8[Tensor, " images"]
    levels: int
    generator: torch.Generator


Images = UInt8[Tensor, "images height width"]


def uniform_noise(digits: Digits) -> Images:
    """Each pixel any grey level."""
    size = digits.images.shape
    return torch.randint(0, digits.levels, size, generator=digits.generator, dtype=torch.uint8)


def permuted(digits: Digits) -> Images:
    """The pixels of each image in an order of its own: the same ink, and no shape."""
    flat = digits.images.flatten(1)
    order = torch.rand(flat.shape, generator=digits.generator).argsort(1)
    return flat.gather(1, order).view_as(digits.images)


def upside_down(digits: Digits) -> Images:
    """Turned by half a circle: strokes as before, in places where some classes have none."""
    return digits.images.flip(1, 2)


def chimeras(digits: Digits) -> Images:
    """The left half of an image beside the right half of one of another class (of any, where there is one class)."""
    other = digits.labels[:, None] != digits.labels
    other |= ~other.any(1, keepdim=True)
    partner = torch.multinomial(other.float(), 1, generator=digits.generator).squeeze(1)
    half = digits.images.shape[-1] // 2
    return torch.cat([digits.images[..., :half], digits.images[partner][..., half:]], -1)


def blank(digits: Digits) -> Images:
    """No ink: they differ by dequantisation's noise alone."""
    return torch.zeros_like(digits.images)


PROBES: dict[str, Callable[[Digits], Images]] = {
    "uniform noise": uniform_noise,
    "permuted pixels": permuted,
    "upside down": upside_down,
    "chimeras": chimeras,
    "blank": blank,
}
