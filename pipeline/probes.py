"""Images that are not what the model was trained on, to ask its density about, and what it answers.

Each kind is made from test images and their classes. To add one: a function here and its name in `PROBES`.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
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


def examples(
    images: UInt8[Tensor, "images height width"], labels: UInt8[Tensor, " images"], levels: int
) -> dict[str, NDArray[np.floating]]:
    """An image of each kind, pixels in [0, 1], to show."""
    digits = Digits(images, labels, levels, torch.Generator().manual_seed(0))
    return {name: make(digits)[0].numpy() / (levels - 1) for name, make in PROBES.items()}


class Auroc(NamedTuple):
    """How often a digit is likelier than another image: 1 always, ½ a coin's toss, 0 never."""

    value: float
    standard_error: float


def auroc(digits: NDArray[np.floating], others: NDArray[np.floating]) -> Auroc:
    """Area under the ROC curve: the mean, over the others, of the share of digits likelier (a tie counts half).

    Its error is that of this mean. The digits' own part in it is left out, since they are many more.
    """
    ordered = np.sort(digits)
    not_likelier = (np.searchsorted(ordered, others, "left") + np.searchsorted(ordered, others, "right")) / 2
    likelier = 1 - not_likelier / len(ordered)
    # One image has no spread to tell an error from.
    spread = likelier.std(ddof=1) if len(others) > 1 else np.nan
    return Auroc(float(likelier.mean()), float(spread / np.sqrt(len(others))))


class Row(NamedTuple):
    """What was found of one kind of images; nats."""

    kind: str
    images: int
    median: float
    trusted: float
    auroc: float
    auroc_se: float


def summary(table: pd.DataFrame, digits: NDArray[np.floating]) -> list[Row]:
    """Each kind of images, in the order of the table: `kind`, `log_px`, `trusted`, beside the digits' log p(x).

    Images without a finite log p(x) are in no number but `images` and `trusted`; a kind of such alone is left out.
    """
    rows = []
    for kind, part in table.groupby("kind", sort=False):
        log_px = part["log_px"].to_numpy(dtype=np.float64)
        log_px = log_px[np.isfinite(log_px)]
        if not len(log_px):
            continue
        trusted = float(part["trusted"].to_numpy(dtype=bool).mean())
        rows.append(Row(str(kind), len(part), float(np.median(log_px)), trusted, *auroc(digits, log_px)))
    return rows
