"""Baselines: Gaussian densities with closed forms, fitted to the training images, to compare log p(x) with.

They are densities of dequantised pixels x = (v + u) / levels with u ~ U[0, 1), as the model's log p(x) is. The mean and
covariance over u are known, so fitting draws no noise. To add one, write a function here and enter it in `BASELINES`.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

CHUNK = 10_000  # images converted to float64 at once


class Moments(NamedTuple):
    """Mean and covariance of the dequantised training images, float64."""

    mean: Float[Tensor, " pixels"]
    covariance: Float[Tensor, "pixels pixels"]


def moments(images: UInt8[Tensor, "images pixels"], levels: int) -> Moments:
    """Moments of (v + u) / levels: u adds ½ to the mean of v, and 1/12 to the variance of each pixel."""
    mean = images.double().mean(0)
    scatter = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for part in images.split(CHUNK):
        centred = part.double() - mean
        scatter += centred.T @ centred
    covariance = scatter / len(images) + torch.eye(len(mean), dtype=torch.float64) / 12
    return Moments((mean + 0.5) / levels, covariance / levels**2)


def independent(train: Moments, sigma: float, latent: int) -> "Gaussian":
    """N(mean, σ² I): the model's own observation model without a latent variable."""
    return Gaussian(train.mean, torch.full_like(train.mean, sigma**2), torch.eye(len(train.mean)).double())


def ppca(train: Moments, sigma: float, latent: int) -> "Gaussian":
    """Probabilistic PCA, N(mean, WWᵀ + σ² I): the best linear decoder with the model's latent dimensions and σ.

    For a given σ the maximum-likelihood W has the leading eigenvectors as columns, with squared lengths
    max(λ − σ², 0) (Tipping & Bishop 1999, appendix A). So the covariance has the eigenvalues max(λ, σ²) for these
    eigenvectors, and σ² for the others.
    """
    eigenvalues, vectors = torch.linalg.eigh(train.covariance)
    variances = torch.full_like(eigenvalues, sigma**2)
    leading = slice(max(0, len(eigenvalues) - latent), None)
    variances[leading] = eigenvalues[leading].clamp(min=sigma**2)
    return Gaussian(train.mean, variances, vectors)


def variances(train: Moments, sigma: float, latent: int) -> "Gaussian":
    """Independent pixels, each with its own mean and variance. Unlike the others it is not limited by the model's σ."""
    return Gaussian(train.mean, train.covariance.diagonal(), torch.eye(len(train.mean)).double())


class Gaussian(NamedTuple):
    """N(mean, V diag(variances) Vᵀ) with orthonormal columns V; float64."""

    mean: Float[Tensor, " pixels"]
    variances: Float[Tensor, " pixels"]
    vectors: Float[Tensor, "pixels pixels"]

    def log_prob(self, x: Float[Tensor, "images pixels"]) -> Float[Tensor, " images"]:
        """log p(x) of each image in nats; float64 on the CPU."""
        constant = self.variances.log().sum() + len(self.mean) * math.log(2 * math.pi)
        rotated = [(part.cpu().double() - self.mean) @ self.vectors for part in x.split(CHUNK)]
        return torch.cat([-0.5 * (constant + (part.square() / self.variances).sum(-1)) for part in rotated])


BASELINES: dict[str, Callable[[Moments, float, int], Gaussian]] = {
    "independent": independent,
    "ppca": ppca,
    "variances": variances,
}
