"""How two sets of images differ, by features of each image: Fréchet distance, precision, recall, density and coverage.

Features are vectors; here they are the judge's. All computations are in float64, except the distances.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from numpy.typing import NDArray
from torch import Tensor

BLOCKS = 20  # that the jackknife leaves out in turn
NEIGHBOURS = 5  # k: the ball around an image reaches to its k-th neighbour
ROWS = 500  # of a matrix of distances in memory at once
COLUMNS = 10_000  # training images as numbers with 4 bytes per pixel at once


class Sums(NamedTuple):
    """Number of vectors, their sum, and the sum of their outer products, from which moments follow; float64."""

    images: int
    first: Float[Tensor, " features"]
    second: Float[Tensor, "features features"]

    @classmethod
    def of(cls, features: Float[Tensor, "images features"]) -> "Sums":
        values = features.double()
        return cls(len(values), values.sum(0), values.mT @ values)

    def __sub__(self, other: "Sums") -> "Sums":
        """The sums without those of a part."""
        return Sums(self.images - other.images, self.first - other.first, self.second - other.second)

    @property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean μ and covariance Σ, divided by the number of vectors less one."""
        mean = self.first / self.images
        return mean, (self.second - self.images * mean.outer(mean)) / max(1, self.images - 1)


def frechet(features: Sums, reference: Sums) -> float:
    """|μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₂^½ Σ₁ Σ₂^½)^½), the squared distance of two Gaussians (Heusel et al. 2017).

    It is that of Wasserstein between Gaussians with the moments of the two sets. It grows as the sets get smaller, so
    compare only distances of sets of equal size.
    """
    mean, covariance = features.moments
    reference_mean, reference_covariance = reference.moments
    eigenvalues, vectors = torch.linalg.eigh(reference_covariance)
    root = vectors * eigenvalues.clamp(min=0).sqrt() @ vectors.mT
    cross = torch.linalg.eigvalsh(root @ covariance @ root).clamp(min=0).sqrt().sum()
    traces = covariance.trace() + reference_covariance.trace()
    return float((mean - reference_mean).square().sum() + traces - 2 * cross)


def frechet_and_error(
    features: Float[Tensor, "images features"], reference: Float[Tensor, "others features"]
) -> tuple[float, float]:
    """The Fréchet distance, and its standard error over the images; the reference is fixed."""
    whole, fixed = Sums.of(features), Sums.of(reference)
    left_out = [frechet(whole - Sums.of(block), fixed) for block in blocks(features)]
    return frechet(whole, fixed), jackknife_error(left_out)


def total_variation(classes: Int[Tensor, " images"], shares: Sequence[float]) -> tuple[float, float]:
    """½ Σ_c |share of class c among the images − share_c|, from 0 to 1, and its standard error over the images."""
    expected = torch.tensor(shares, dtype=torch.float64)

    def distance(counts: Tensor) -> float:
        return 0.5 * float((counts / counts.sum() - expected).abs().sum())

    def count(part: Tensor) -> Tensor:
        return part.bincount(minlength=len(expected)).double()

    whole = count(classes)
    left_out = [distance(whole - count(block)) for block in blocks(classes)]
    return distance(whole), jackknife_error(left_out)


def blocks(values: Shaped[Tensor, "images *dim"]) -> tuple[Tensor, ...]:
    """The images in `BLOCKS` random blocks, or one each if they are fewer. Their order may be by class or source."""
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(0))
    return values[order].tensor_split(min(BLOCKS, len(values)))


def jackknife_error(left_out: Sequence[float]) -> float:
    """√((B − 1) Σ_b (θ_b − θ̄)² / B) of a statistic θ_b without block b, for each of B blocks; NaN for fewer than two.

    Efron & Stein 1981, with blocks in place of single images.
    """
    return math.sqrt((len(left_out) - 1) * float(np.var(left_out))) if len(left_out) > 1 else math.nan


class Neighbourhoods(NamedTuple):
    """Shares of images in the balls of the other set, as one value per image; their means are the metrics.

    Attributes:
        precision: whether a sample lies in the ball of a reference image (Kynkäänniemi et al. 2019).
        density: number of reference images in whose ball a sample lies, divided by k (Naeem et al. 2020).
        recall: whether a reference image lies in the ball of a sample (Kynkäänniemi et al. 2019).
        coverage: whether the ball of a reference image contains a sample (Naeem et al. 2020).
    """

    precision: NDArray[np.float64]
    density: NDArray[np.float64]
    recall: NDArray[np.float64]
    coverage: NDArray[np.float64]


def neighbourhoods(
    samples: Float[Tensor, "samples features"], reference: Float[Tensor, "reference features"], k: int = NEIGHBOURS
) -> Neighbourhoods:
    """Precision, density, recall and coverage; the ball of an image reaches to its k-th neighbour in its own set."""
    k = min(k, len(samples) - 1, len(reference) - 1)
    own, others = squared_radii(samples, k), squared_radii(reference, k)
    inside, recalled = [], torch.zeros(len(reference), dtype=torch.bool)
    covered = recalled.clone()
    for part, radii in zip(samples.split(ROWS), own.split(ROWS), strict=True):
        distances = squared_distances(part, reference)
        in_others: Bool[Tensor, "samples reference"] = distances <= others
        inside.append(in_others.sum(1))
        covered |= in_others.any(0)
        recalled |= (distances <= radii[:, None]).any(0)
    count = torch.cat(inside).double()
    columns = (count > 0, count / max(1, k), recalled, covered)
    return Neighbourhoods(*(column.double().numpy() for column in columns))


def squared_radii(features: Float[Tensor, "images features"], k: int) -> Float[Tensor, " images"]:
    """Squared distance of each image to its k-th neighbour among the others; 0 for k = 0."""
    radii = []
    for start in range(0, len(features), ROWS):
        distances = squared_distances(features[start : start + ROWS], features)
        # The image itself comes first, or ties with its copies.
        radii.append(distances.topk(k + 1, largest=False).values[:, k])
    return torch.cat(radii)


def squared_distances(
    a: Float[Tensor, "rows features"], b: Float[Tensor, "columns features"]
) -> Float[Tensor, "rows columns"]:
    """|a|² + |b|² − 2 a·b, at least 0."""
    inner = torch.addmm(b.square().sum(1).expand(len(a), -1), a, b.mT, alpha=-2)
    return inner.add_(a.square().sum(1, keepdim=True)).clamp_(min=0)


class Nearest(NamedTuple):
    """The training image nearest to each image: its index, and its distance, the root mean square over pixels."""

    distance: Float[Tensor, " images"]
    image: Int[Tensor, " images"]


def nearest(grey: Float[Tensor, "images pixels"], training: UInt8[Tensor, "training pixels"], levels: int) -> Nearest:
    """The nearest training image of each image with pixels in [0, 1]."""
    found: list[Nearest] = []
    for first, part in zip(range(0, len(training), COLUMNS), training.split(COLUMNS), strict=True):
        others = part.to(grey.device).float() / (levels - 1)
        parts = [squared_distances(rows, others).min(1) for rows in grey.split(ROWS)]
        values, indices = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        found.append(Nearest(values, indices + first))
    distances = torch.stack([part.distance for part in found])
    best = distances.min(0)
    index = torch.stack([part.image for part in found]).gather(0, best.indices[None])[0]
    return Nearest((best.values / grey.shape[1]).sqrt().cpu(), index.cpu())
