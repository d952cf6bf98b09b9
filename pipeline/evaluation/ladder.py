"""Where a model stands: its log p(x) among baselines, the ceiling of its observation model, and published models.

All are on one scale: nats are log-densities of dequantised pixels on [0, 1]^pixels, averaged over test images. A
published probability P(v) of discrete pixels is such a density too, of pixels · ln levels + ln P(v) nats. The nats of
binarised images are ln P(v) itself.
"""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

from pipeline.data.image_format import Binarise, ImageFormat
from pipeline.evaluation.baselines import BASELINES


class Rung(NamedTuple):
    """A density of the test images.

    Attributes:
        nats: mean per image.
        bits_per_dim: the same in bits per pixel; smaller is better.
        error: standard error of the nats over images, or None if it is unknown, or if nothing was estimated.
        note: for a published one, what kind of number it is, its source, and how it was measured.
    """

    name: str
    nats: float
    bits_per_dim: float
    error: float | None
    kind: Literal["baseline", "this model", "published", "ceiling"]
    note: str = ""


class Published(NamedTuple):
    """A published result for the test images of a data set.

    Attributes:
        value: as published, in `unit`: nats are log p(x), so larger is better; bits/dim are a code length.
        number: log p(x), an estimate or exact, or ELBO, a lower bound of it.
        error: standard error of the nats, if published.
        pixels: what the authors divide by for bits/dim, if it is not the number of pixels.
    """

    name: str
    value: float
    unit: Literal["nats", "bits/dim"]
    number: Literal["log p(x)", "ELBO"]
    source: str
    note: str
    error: float | None = None
    pixels: int | None = None


# Bits/dim are published with two decimals: ± 0.005 is ± 2.7 nats for 784 pixels.
GREY_MNIST = (
    Published(
        "VAE-50, σ² = 0.005",
        991.4,
        "nats",
        "log p(x)",
        "Wu et al. 2017, table 2",
        "annealed importance sampling, 1 000 test images",
        error=6.5,
    ),
    Published(
        "BB-ANS: one-layer VAE, beta-binomial",
        1.39,
        "bits/dim",
        "ELBO",
        "Townsend et al. 2019",
        "50 latent dimensions",
    ),
    Published(
        "Bit-Swap: VAE with eight latent layers, logistic",
        1.27,
        "bits/dim",
        "ELBO",
        "F. Kingma et al. 2019",
        "published as 1.27 bits/dim: the authors' code adds a black border and divides by 32 × 32 pixels, so 1.66 bits "
        "per pixel of the image",
        pixels=32 * 32,
    ),
    Published(
        "RealNVP",
        1.06,
        "bits/dim",
        "log p(x)",
        "Dinh et al. 2017, as reported by Grathwohl et al. 2019",
        "exact density of dequantised pixels",
    ),
    Published(
        "Glow",
        1.05,
        "bits/dim",
        "log p(x)",
        "D. Kingma & Dhariwal 2018, as reported by Grathwohl et al. 2019",
        "exact density of dequantised pixels",
    ),
    Published(
        "FFJORD",
        0.99,
        "bits/dim",
        "log p(x)",
        "Grathwohl et al. 2019",
        "unbiased estimate of the density of dequantised pixels, by a numerical solver",
    ),
    Published(
        "Residual Flow",
        0.97,
        "bits/dim",
        "log p(x)",
        "Chen et al. 2019",
        "unbiased estimate of the density of dequantised pixels",
    ),
)

BINARISED_MNIST = (
    Published(
        "VAE, one latent layer",
        -86.76,
        "nats",
        "log p(x)",
        "Burda et al. 2016, table 1",
        "importance-weighted bound with 5 000 samples",
    ),
    Published(
        "IWAE, one latent layer, k = 50",
        -84.78,
        "nats",
        "log p(x)",
        "Burda et al. 2016, table 1",
        "importance-weighted bound with 5 000 samples",
    ),
    Published(
        "IWAE, two latent layers, k = 50",
        -82.90,
        "nats",
        "log p(x)",
        "Burda et al. 2016, table 1",
        "importance-weighted bound with 5 000 samples",
    ),
    Published(
        "NVAE, without flow",
        -78.01,
        "nats",
        "log p(x)",
        "Vahdat & Kautz 2020, table 1",
        "importance-weighted bound with 1 000 samples",
    ),
)

# Images binarised with a threshold are other data than dynamically binarised ones. Nothing in this table is about them.
PUBLISHED: dict[tuple[str, Binarise], tuple[Published, ...]] = {
    ("mnist", "none"): GREY_MNIST,
    ("mnist", "dynamic"): BINARISED_MNIST,
}
MNIST = (28, 28, 256)  # height, width, grey levels


def published(dataset: str, binarise: Binarise) -> list[Rung]:
    """Published results for a data set that is binarised in this way; an empty list if the table has none.

    >>> [(rung.name, round(rung.nats), round(rung.bits_per_dim, 2)) for rung in published("mnist", "none")][-1]
    ('Residual Flow', 3820, 0.97)
    """
    images = ImageFormat(*MNIST, binarise)
    return [_on_the_scale(row, images) for row in PUBLISHED.get((dataset, binarise), ())]


def rungs(
    dataset: str,
    images: ImageFormat,
    compare: Mapping[str, int | float],
    log_px: float | None,
    error: float | None,
    ceiling: float,
) -> list[Rung]:
    """All that is known about these images, from the least to the largest log-density.

    Args:
        compare: the metrics of stage compare. A baseline `NAME` has the nats NAME, and if it was measured on more than
            one image the standard error NAME_se; one that is missing is left out.
        log_px: the model's mean log p(x) in nats, or None if it is not finite. Then the model is left out.
        error: its standard error over images, if it has one.
        ceiling: the largest log-density of any image under the model's observation model, in nats. It is a rung if it
            is below that of P(v) = 1, which no code for v can exceed.
    """
    found = [
        _rung(images, baseline.label, compare[name], compare.get(f"{name}_se"), "baseline")
        for name, baseline in BASELINES.items()
        if name in compare
    ]
    if log_px is not None and math.isfinite(log_px):
        found.append(_rung(images, "this model", log_px, error, "this model"))
    certain = _nats(images, bits_per_dim=0.0)  # P(v) = 1
    if math.isfinite(ceiling) and ceiling < certain and not math.isclose(ceiling, certain, rel_tol=1e-6):
        found.append(_rung(images, "ceiling of the observation model", ceiling, None, "ceiling"))
    return sorted(found + published(dataset, images.binarise), key=lambda rung: rung.nats)


def _rung(
    images: ImageFormat,
    name: str,
    nats: float,
    error: float | None,
    kind: Literal["baseline", "this model", "published", "ceiling"],
    note: str = "",
) -> Rung:
    return Rung(name, nats, images.bits_per_dim(nats), error, kind, note)


def _on_the_scale(row: Published, images: ImageFormat) -> Rung:
    bits = row.value * (row.pixels or images.pixels)
    nats = row.value if row.unit == "nats" else _nats(images, bits / images.pixels)
    return _rung(images, row.name, nats, row.error, "published", f"{row.number}; {row.source}; {row.note}")


def _nats(images: ImageFormat, bits_per_dim: float) -> float:
    """The inverse of `ImageFormat.bits_per_dim`."""
    return (images.bits_per_dim(0.0) - bits_per_dim) * images.pixels * math.log(2)
