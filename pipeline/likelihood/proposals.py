"""Proposals r(z | x) for importance sampling: a batch of distributions over z with exact `sample` and `log_prob`.

Randomness is handed in as `Noise`, so that it belongs to the image. `proposal[rows]` is that of some images.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from scipy.special import gammaincinv
from torch import Tensor

from pipeline.likelihood import laplace
from pipeline.likelihood.adaptation import adapt
from pipeline.likelihood.noise import Noise
from pipeline.vae import VAE, diagonal_gaussian

Rows = Int[Tensor, " rows"]


@dataclass(frozen=True)
class Gaussian:
    """N(mean, (LLᵀ)⁻¹), L the Cholesky factor of the precision."""

    mean: Float[Tensor, "batch latent"]
    cholesky: Float[Tensor, "batch latent latent"]

    def sample(self, noise: Noise) -> Float[Tensor, "samples batch latent"]:
        """z = mean + L⁻ᵀ ε."""
        columns = noise.normal.permute(1, 2, 0)  # (batch, latent, samples)
        moved = torch.linalg.solve_triangular(self.cholesky.mT, columns, upper=True)
        return self.mean + moved.permute(2, 0, 1)

    def log_prob(self, z: Float[Tensor, "samples batch latent"]) -> Float[Tensor, "samples batch"]:
        """½ log |LLᵀ| − ½ ‖Lᵀ(z − mean)‖² − n/2 log 2π."""
        whitened = self.cholesky.mT @ (z - self.mean).permute(1, 2, 0)
        log_determinant = self.cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = 0.5 * self.mean.shape[-1] * math.log(2 * math.pi)
        return (log_determinant[:, None] - 0.5 * whitened.square().sum(1) - constant).T

    def __getitem__(self, rows: Rows) -> "Gaussian":
        return replace(self, mean=self.mean[rows], cholesky=self.cholesky[rows])


@dataclass(frozen=True)
class StudentT(Gaussian):
    """The same location and shape with Student's t tails: z = mean + L⁻ᵀ ε √(ν / χ²_ν)."""

    degrees_of_freedom: float

    def sample(self, noise: Noise) -> Float[Tensor, "samples batch latent"]:
        """χ² by its inverse distribution function, of the uniform noise."""
        uniform = noise.uniform.cpu().double().clamp(2.0**-25, 1 - 2.0**-25).numpy()
        chi_squared = torch.from_numpy(2 * gammaincinv(self.degrees_of_freedom / 2, uniform)).to(noise.normal)
        stretch = (self.degrees_of_freedom / chi_squared).sqrt()
        return super().sample(noise._replace(normal=noise.normal * stretch[..., None]))

    def log_prob(self, z: Float[Tensor, "samples batch latent"]) -> Float[Tensor, "samples batch"]:
        """log Γ((ν+n)/2) − log Γ(ν/2) − n/2 log νπ + ½ log |LLᵀ| − (ν+n)/2 log(1 + ‖Lᵀ(z − mean)‖²/ν)."""
        nu, n = self.degrees_of_freedom, self.mean.shape[-1]
        whitened = self.cholesky.mT @ (z - self.mean).permute(1, 2, 0)
        log_determinant = self.cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = math.lgamma((nu + n) / 2) - math.lgamma(nu / 2) - 0.5 * n * math.log(nu * math.pi)
        tail = 0.5 * (nu + n) * torch.log1p(whitened.square().sum(1) / nu)
        return (constant + log_determinant[:, None] - tail).T


@dataclass(frozen=True)
class Diagonal:
    """N(mean, diag scale²)."""

    mean: Float[Tensor, "batch latent"]
    scale: Float[Tensor, "batch latent"]

    def sample(self, noise: Noise) -> Float[Tensor, "samples batch latent"]:
        return self.mean + self.scale * noise.normal

    def log_prob(self, z: Float[Tensor, "samples batch latent"]) -> Float[Tensor, "samples batch"]:
        return diagonal_gaussian(self.mean, self.scale).log_prob(z)

    def __getitem__(self, rows: Rows) -> "Diagonal":
        return Diagonal(self.mean[rows], self.scale[rows])


@dataclass(frozen=True)
class Proposal:
    """Σ_j π_j r_j: each sample comes from one component and is weighed under all (the balance heuristic).

    With w = p / Σ_j π_j r_j a weight is at most p / (π_j r_j) for every j, so that one bad component cannot
    spoil an image (Veach & Guibas 1995; Owen & Zhou 2000). One component is the plain proposal.
    """

    shares: tuple[float, ...]
    components: tuple[Gaussian | Diagonal, ...]
    adaptable: bool  # whether pilot samples may move and reshape the first component

    def sample(self, noise: Noise) -> Float[Tensor, "samples batch latent"]:
        """u chooses the component, ε makes z."""
        # Given that u chose the first component, u / π₁ is uniform again.
        z = self.components[0].sample(noise._replace(uniform=noise.uniform / self.shares[0]))
        below = self.shares[0]
        for share, component in zip(self.shares[1:], self.components[1:], strict=True):
            z = torch.where((noise.uniform >= below)[..., None], component.sample(noise), z)
            below += share
        return z

    def log_prob(self, z: Float[Tensor, "samples batch latent"]) -> Float[Tensor, "samples batch"]:
        each = [math.log(s) + c.log_prob(z) for s, c in zip(self.shares, self.components, strict=True)]
        return torch.stack(each).logsumexp(0)

    def adapted(self, vae: VAE, x: Float[Tensor, "batch pixels"], rows: Rows, noise: Noise) -> "Proposal":
        """With the first component of some images moved and reshaped to where gradients say the posterior is."""
        first = self.components[0]
        assert isinstance(first, Gaussian)
        mean, cholesky = adapt(vae, x[rows], first.mean[rows], first.cholesky[rows] * INFLATION, noise.normal)
        adapted = replace(
            first,
            mean=first.mean.index_copy(0, rows, mean),
            cholesky=first.cholesky.index_copy(0, rows, cholesky / INFLATION),
        )
        return replace(self, components=(adapted, *self.components[1:]))

    def __getitem__(self, rows: Rows) -> "Proposal":
        return replace(self, components=tuple(component[rows] for component in self.components))


# Shares of Laplace, encoder and prior. The first gets nearly all samples; the others bound the weights where it fails.
SHARES = (0.9, 0.05, 0.05)

# The fitted proposal's standard deviations are made this much larger: tails that are too light cost far more
# than tails that are too heavy.
INFLATION = 1.15


class Fit(NamedTuple):
    """A proposal for a batch of images, and how it was found."""

    proposal: Proposal
    converged: Bool[Tensor, " batch"]  # whether the mode that it rests on was found
    evaluations: Int[Tensor, " batch"]  # of the decoder; a tangent or a gradient counts as one more


def propose(name: str, vae: VAE, x: Float[Tensor, "batch pixels"], degrees_of_freedom: float | None = None) -> Fit:
    """The proposal called `name` for a batch of images.

    Args:
        degrees_of_freedom: of Student's t tails for the fitted component; None for Gaussian tails.
    """
    found = torch.ones(len(x), dtype=torch.bool, device=x.device)
    nothing = torch.zeros(len(x), dtype=torch.long, device=x.device)
    if name == "prior":
        return Fit(Proposal((1.0,), (_prior(vae, len(x)),), adaptable=False), found, nothing)
    encoder = _encoder(vae, x)
    if name == "encoder":
        return Fit(Proposal((1.0,), (encoder,), adaptable=False), found, nothing)
    mode, cholesky, converged, evaluations = laplace.fit(vae, x, encoder.mean)
    factor = cholesky.to(x) / INFLATION
    fitted = StudentT(mode, factor, degrees_of_freedom) if degrees_of_freedom else Gaussian(mode, factor)
    if name == "laplace":
        proposal = Proposal((1.0,), (fitted,), adaptable=True)
    else:
        proposal = Proposal(SHARES, (fitted, encoder, _prior(vae, len(x))), adaptable=True)
    return Fit(proposal, converged, evaluations)


def _prior(vae: VAE, batch: int) -> Diagonal:
    mean, scale = vae.prior.mean.expand(batch, -1), vae.prior.stddev.expand(batch, -1)
    return Diagonal(mean, scale)


@torch.no_grad()
def _encoder(vae: VAE, x: Float[Tensor, "batch pixels"]) -> Diagonal:
    q = vae.encoder(x)
    return Diagonal(q.mean, q.stddev)
