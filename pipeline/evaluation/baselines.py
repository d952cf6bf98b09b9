"""Baselines: densities without a network, fitted to the training images, to compare log p(x) with.

They are on the scale of the model's log p(x): log-densities of dequantised pixels x = (v + u) / levels, u ~ U[0, 1), in
nats, and log P(v) for binarised images. The moments of x over u are known, so fitting draws no noise. A model of digits
has learned something about digits if it is above `histogram`, which knows single pixels only.

To add one, write a function here and enter it in `BASELINES`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from logpx.observations.cells import grey_levels

CHUNK = 10_000  # images converted to 8 bytes per pixel at once
MOST_PIXELS = 4_096  # whose covariances are computed: a matrix of 134 MB, whose eigenvectors take a minute or so
RIDGE = 1e-6  # added to the variance of each pixel of x, so that no direction of training images has almost none


@runtime_checkable
class Density(Protocol):
    """A density of images with a closed form."""

    def log_prob(self, x: Float[Tensor, "images pixels"], /) -> Float[Tensor, " images"]:
        """log p(x) of each image in nats; float64 on the CPU."""
        ...


class Moments(NamedTuple):
    """Mean and covariance of the dequantised training images, float64."""

    mean: Float[Tensor, " pixels"]
    covariance: Float[Tensor, "pixels pixels"]


@dataclass(frozen=True)
class Training:
    """What a baseline is fitted to: the training images, and what it takes over from the model.

    Attributes:
        images: values v in 0 .. levels − 1, after binarisation.
        sigma: σ of the model's observation model N(f(z), σ² I), or None if it has no fixed σ.
        latent: the model's latent dimensions.
    """

    images: UInt8[Tensor, "images pixels"]
    levels: int
    binarised: bool
    sigma: float | None
    latent: int

    @property
    def pixels(self) -> int:
        return self.images.shape[1]

    @cached_property
    def moments(self) -> Moments:
        return moments(self.images, self.levels)

    @cached_property
    def mean(self) -> Float[Tensor, " pixels"]:
        return (_mean(self.images) + 0.5) / self.levels

    @cached_property
    def variances(self) -> Float[Tensor, " pixels"]:
        if self.pixels <= MOST_PIXELS:  # other baselines need the covariance too
            return self.moments.covariance.diagonal()
        mean, squares = _mean(self.images), torch.zeros(self.pixels, dtype=torch.float64)
        for part in self.images.split(CHUNK):
            squares += (part.double() - mean).square().sum(0)
        return (squares / len(self.images) + 1 / 12) / self.levels**2

    @cached_property
    def principal(self) -> tuple[Float[Tensor, " pixels"], Float[Tensor, "pixels pixels"]]:
        """Eigenvalues of the covariance in ascending order, and the eigenvectors as columns."""
        eigenvalues, vectors = torch.linalg.eigh(self.moments.covariance)
        return eigenvalues, vectors


def moments(images: UInt8[Tensor, "images pixels"], levels: int) -> Moments:
    """Moments of (v + u) / levels: u adds ½ to the mean of v, and 1/12 to the variance of each pixel."""
    mean = _mean(images)
    scatter = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for part in images.split(CHUNK):
        centred = part.double() - mean
        scatter += centred.T @ centred
    covariance = scatter / len(images) + torch.eye(len(mean), dtype=torch.float64) / 12
    return Moments((mean + 0.5) / levels, covariance / levels**2)


def _mean(images: UInt8[Tensor, "images pixels"]) -> Float[Tensor, " pixels"]:
    """Mean of v; float64."""
    total = torch.zeros(images.shape[1], dtype=torch.int64)
    for part in images.split(CHUNK):
        total += part.sum(0)
    return total.double() / len(images)


@dataclass(frozen=True)
class Uniform:
    """All images are equally likely: density 1 on [0, 1]^pixels, or P(v) = 2^−pixels for binarised images."""

    nats: float

    def log_prob(self, x: Float[Tensor, "images pixels"]) -> Float[Tensor, " images"]:
        """log p(x) of each image in nats; float64 on the CPU."""
        return torch.full((len(x),), self.nats, dtype=torch.float64)


@dataclass(frozen=True)
class Gaussian:
    """N(mean, V diag(variances) Vᵀ) with orthonormal columns V; V = I if `vectors` is None. All are float64."""

    mean: Float[Tensor, " pixels"]
    variances: Float[Tensor, " pixels"]
    vectors: Float[Tensor, "pixels pixels"] | None = None

    def log_prob(self, x: Float[Tensor, "images pixels"]) -> Float[Tensor, " images"]:
        """log p(x) of each image in nats; float64 on the CPU."""
        constant = self.variances.log().sum() + len(self.mean) * math.log(2 * math.pi)
        return torch.cat([-0.5 * (constant + self._distances(part)) for part in x.split(CHUNK)])

    def _distances(self, x: Float[Tensor, "images pixels"]) -> Float[Tensor, " images"]:
        """(x − mean)ᵀ C⁻¹ (x − mean) for the covariance C."""
        centred = x.cpu().double() - self.mean
        rotated = centred if self.vectors is None else centred @ self.vectors
        return (rotated.square() / self.variances).sum(-1)


@dataclass(frozen=True)
class Histogram:
    """Independent pixels, each with a probability for every level; float64.

    Attributes:
        log_p: log P_i(v) of pixel i.
        offset: nats to add to log P(v): pixels · ln levels makes it the log-density of x.
    """

    log_p: Float[Tensor, "levels pixels"]
    offset: float

    def log_prob(self, x: Float[Tensor, "images pixels"]) -> Float[Tensor, " images"]:
        """Σ log P_i(v_i) + offset of each image in nats, with v = ⌊levels · x⌋; float64 on the CPU."""
        values = (grey_levels(part.cpu(), len(self.log_p)) for part in x.split(CHUNK))
        return torch.cat([self.log_p.gather(0, v).sum(-1) for v in values]) + self.offset


def uniform(train: Training) -> Uniform:
    """0 nats for every image, or −pixels · ln 2 for binarised ones. Any model should be above it."""
    return Uniform(-train.pixels * math.log(2) if train.binarised else 0.0)


def independent(train: Training) -> Gaussian | None:
    """N(mean, σ² I): the model's own observation model without a latent variable. None if the model has no fixed σ."""
    if train.sigma is None:
        return None
    mean = train.mean
    return Gaussian(mean, torch.full_like(mean, train.sigma**2))


def ppca(train: Training) -> Gaussian | None:
    """Probabilistic PCA, N(mean, WWᵀ + σ² I): the best linear decoder with the model's latent dimensions, and its σ.

    For a given σ the maximum-likelihood W has the leading eigenvectors as columns, with squared lengths
    max(λ − σ², 0) (Tipping & Bishop 1999, appendix A). So the covariance has the eigenvalues max(λ, σ²) for these
    eigenvectors, and σ² for the others. If the model has no fixed σ, then σ² has its maximum-likelihood value too: the
    mean of the other eigenvalues (equation 8).

    None if an image has more than `MOST_PIXELS` numbers.
    """
    if train.pixels > MOST_PIXELS:
        return None
    eigenvalues, vectors = train.principal
    if train.sigma is None:
        # σ² is a mean of at least one eigenvalue. With only one left the covariance is that of the training images.
        others = max(train.pixels - train.latent, 1)
        variance = float(eigenvalues[:others].mean())
    else:
        others = max(train.pixels - train.latent, 0)
        variance = train.sigma**2
    variances = eigenvalues.clamp(min=variance)
    variances[:others] = variance
    return Gaussian(train.moments.mean, variances, vectors)


def variances(train: Training) -> Gaussian:
    """Independent pixels, each with its own mean and variance."""
    return Gaussian(train.mean, train.variances)


def covariance(train: Training) -> Gaussian | None:
    """A Gaussian with a mean for each pixel and a covariance for each pair of them, plus `RIDGE` · I.

    None if an image has more than `MOST_PIXELS` numbers.
    """
    if train.pixels > MOST_PIXELS:
        return None
    eigenvalues, vectors = train.principal
    return Gaussian(train.moments.mean, eigenvalues + RIDGE, vectors)


def histogram(train: Training) -> Histogram:
    """Independent pixels: P_i(v) = (images with v at pixel i + ½) / (images + levels / 2).

    The ½ keeps each probability above zero: it is the posterior mean under Jeffreys' prior (Krichevsky & Trofimov
    1981).
    """
    counts = torch.zeros(train.levels * train.pixels, dtype=torch.int64)
    for part in train.images.split(CHUNK):
        # Each (value, pixel) has its own bin.
        bins = part.long() * train.pixels + torch.arange(train.pixels)
        counts += bins.flatten().bincount(minlength=len(counts))
    probability = (counts.view(train.levels, train.pixels) + 0.5).double() / (len(train.images) + train.levels / 2)
    return Histogram(probability.log(), 0.0 if train.binarised else train.pixels * math.log(train.levels))


class Baseline(NamedTuple):
    """A row of the table of baselines.

    Attributes:
        label: what it is, for a reader of the report.
        fit: fits it; None if it does not apply to this model.
        binarised: whether it applies to binarised images. A Gaussian density of black and white pixels says nothing.
    """

    label: str
    fit: Callable[[Training], Density | None]
    binarised: bool = False


BASELINES: dict[str, Baseline] = {
    "uniform": Baseline("all images equally likely", uniform, binarised=True),
    "independent": Baseline("independent pixels, the model's σ", independent),
    "ppca": Baseline("probabilistic PCA, the model's latent dimensions", ppca),
    "variances": Baseline("independent pixels, a variance each", variances),
    "covariance": Baseline("Gaussian with full covariance", covariance),
    "histogram": Baseline("independent pixels, a histogram each", histogram, binarised=True),
}


def baselines(
    train: UInt8[Tensor, "images pixels"], levels: int, binarised: bool, sigma: float | None, latent: int
) -> dict[str, Density]:
    """Fit all baselines that apply, by their names in `BASELINES`.

    Args:
        train: values v in 0 .. levels − 1 of the training images; 0 and 1 if they are binarised.
        levels: of these values: 2 if they are binarised.
        binarised: whether results are log P(v), as the model's are for binarised images.
        sigma: σ of the model's observation model N(f(z), σ² I), or None if it has no fixed σ.
        latent: the model's latent dimensions.
    """
    training = Training(train, levels, binarised, sigma, latent)
    fitted = {name: row.fit(training) for name, row in BASELINES.items() if row.binarised or not binarised}
    return {name: density for name, density in fitted.items() if density is not None}
