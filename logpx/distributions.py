"""The distributions that proposals are made of: batches over z, in coordinates ε in which they are standard.

`unwhiten` maps steps from ε to z, `whiten_gradient` maps gradients from z to ε.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from scipy.special import gammaincinv
from torch import Tensor
from torch.distributions import Independent, Normal

from logpx.noise import Noise

Rows = Int[Tensor, " rows"] | Bool[Tensor, " batch"] | slice
Samples = Float[Tensor, "samples batch latent"]


def diagonal_normal(mean: Float[Tensor, "*batch latent"], scale: Float[Tensor, "*batch latent"]) -> Independent:
    """N(mean, diag scale²) as PyTorch's distribution, unchecked."""
    return Independent(Normal(mean, scale, validate_args=False), 1, validate_args=False)


def cholesky(matrix: Float[Tensor, "batch latent latent"]) -> Float[Tensor, "batch latent latent"]:
    """Cholesky factors of precision matrices that may be numerically indefinite.

    If σ is too small for float32, rounding can make a precision indefinite. Its factor is then that of the matrix with
    the smallest sufficient ridge, or the identity. Samples of any proposal are weighed correctly; their weights show
    how well it fits.
    """
    factor, failed = torch.linalg.cholesky_ex(matrix)
    for ridge in (1e-8, 1e-6, 1e-4, 1e-2):
        if not failed.any():
            return factor
        again, still = torch.linalg.cholesky_ex(matrix + ridge * torch.diag_embed(matrix.diagonal(dim1=-2, dim2=-1)))
        factor = torch.where((failed > 0)[:, None, None], again, factor)
        failed = torch.where(failed > 0, still, failed)
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return torch.where((failed > 0)[:, None, None], eye, factor)


@dataclass(frozen=True)
class Gaussian:
    """N(mean, (LLᵀ)⁻¹), L the Cholesky factor of the precision; z = mean + L⁻ᵀ ε."""

    mean: Float[Tensor, "batch latent"]
    cholesky: Float[Tensor, "batch latent latent"]

    def unwhiten(self, steps: Samples) -> Samples:
        """L⁻ᵀ times each step."""
        columns = steps.permute(1, 2, 0)  # (batch, latent, samples)
        return torch.linalg.solve_triangular(self.cholesky.mT, columns, upper=True).permute(2, 0, 1)

    def whiten(self, z: Samples) -> Samples:
        """ε = Lᵀ (z − mean)."""
        return (self.cholesky.mT @ (z - self.mean).permute(1, 2, 0)).permute(2, 0, 1)

    def whiten_gradient(self, gradient: Samples) -> Samples:
        """∇_ε = L⁻¹ ∇_z."""
        columns = gradient.permute(1, 2, 0)
        return torch.linalg.solve_triangular(self.cholesky, columns, upper=False).permute(2, 0, 1)

    def reshaped(
        self, mean: Float[Tensor, "batch latent"], precision: Float[Tensor, "batch latent latent"]
    ) -> "Gaussian":
        """The same kind of distribution with another mean and precision, given in coordinates ε; float64."""
        factor = self.cholesky.double()
        step = torch.linalg.solve_triangular(factor.mT, mean[..., None], upper=True)[..., 0]
        reshaped = cholesky(factor @ precision @ factor.mT)
        return replace(self, mean=self.mean + step.to(self.mean), cholesky=reshaped.to(self.cholesky))

    def sample(self, noise: Noise) -> Samples:
        return self.mean + self.unwhiten(noise.normal)

    def log_prob(self, z: Samples) -> Float[Tensor, "samples batch"]:
        """½ log |LLᵀ| − ½ ‖Lᵀ(z − mean)‖² − n/2 log 2π."""
        constant = 0.5 * self.mean.shape[-1] * math.log(2 * math.pi)
        return (self._log_determinant - 0.5 * self._squared_distance(z) - constant).T

    @property
    def _log_determinant(self) -> Float[Tensor, "batch 1"]:
        return self.cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1, keepdim=True)

    def _squared_distance(self, z: Samples) -> Float[Tensor, "batch samples"]:
        return (self.cholesky.mT @ (z - self.mean).permute(1, 2, 0)).square().sum(1)

    def __getitem__(self, rows: Rows) -> "Gaussian":
        return replace(self, mean=self.mean[rows], cholesky=self.cholesky[rows])


@dataclass(frozen=True)
class StudentT(Gaussian):
    """The same location and shape with Student's t tails: z = mean + L⁻ᵀ ε √(ν / χ²_ν)."""

    degrees_of_freedom: float

    def sample(self, noise: Noise) -> Samples:
        """χ² is the inverse distribution function of the uniform noise."""
        uniform = noise.uniform.cpu().double().clamp(2.0**-25, 1 - 2.0**-25).numpy()
        chi_squared = torch.from_numpy(2 * gammaincinv(self.degrees_of_freedom / 2, uniform)).to(noise.normal)
        stretch = (self.degrees_of_freedom / chi_squared).sqrt()
        return super().sample(noise._replace(normal=noise.normal * stretch[..., None]))

    def log_prob(self, z: Samples) -> Float[Tensor, "samples batch"]:
        """log Γ((ν+n)/2) − log Γ(ν/2) − n/2 log νπ + ½ log |LLᵀ| − (ν+n)/2 log(1 + ‖Lᵀ(z − mean)‖²/ν)."""
        nu, n = self.degrees_of_freedom, self.mean.shape[-1]
        constant = math.lgamma((nu + n) / 2) - math.lgamma(nu / 2) - 0.5 * n * math.log(nu * math.pi)
        tail = 0.5 * (nu + n) * torch.log1p(self._squared_distance(z) / nu)
        return (constant + self._log_determinant - tail).T


@dataclass(frozen=True)
class Diagonal:
    """N(mean, diag scale²); z = mean + scale ε."""

    mean: Float[Tensor, "batch latent"]
    scale: Float[Tensor, "batch latent"]

    def unwhiten(self, steps: Samples) -> Samples:
        return self.scale * steps

    def whiten_gradient(self, gradient: Samples) -> Samples:
        return self.scale * gradient

    def sample(self, noise: Noise) -> Samples:
        return self.mean + self.unwhiten(noise.normal)

    def log_prob(self, z: Samples) -> Float[Tensor, "samples batch"]:
        return diagonal_normal(self.mean, self.scale).log_prob(z)

    def __getitem__(self, rows: Rows) -> "Diagonal":
        return Diagonal(self.mean[rows], self.scale[rows])


D = TypeVar("D", bound=Gaussian | Diagonal)


def concatenate(parts: Sequence[D]) -> D:
    """One batch of consecutive batches of the same kind of distribution."""
    tensors = [field.name for field in fields(parts[0]) if isinstance(getattr(parts[0], field.name), Tensor)]
    return replace(parts[0], **{name: torch.cat([getattr(part, name) for part in parts]) for name in tensors})
