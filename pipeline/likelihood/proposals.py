"""Proposals r(z | x) for importance sampling: a batch of distributions over z with exact `sample` and `log_prob`.

Randomness is handed in as `Noise`, so that it belongs to the image. `proposal[rows]` is that of some images.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.likelihood import laplace
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
        return Gaussian(self.mean[rows], self.cholesky[rows])


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
    movable: bool  # whether pilot samples may move the first component's mean

    def sample(self, noise: Noise) -> Float[Tensor, "samples batch latent"]:
        """u chooses the component, ε makes z."""
        z = self.components[0].sample(noise)
        below = self.shares[0]
        for share, component in zip(self.shares[1:], self.components[1:], strict=True):
            z = torch.where((noise.uniform >= below)[..., None], component.sample(noise), z)
            below += share
        return z

    def log_prob(self, z: Float[Tensor, "samples batch latent"]) -> Float[Tensor, "samples batch"]:
        each = [math.log(s) + c.log_prob(z) for s, c in zip(self.shares, self.components, strict=True)]
        return torch.stack(each).logsumexp(0)

    def moved(self, rows: Rows, mean: Float[Tensor, "rows latent"]) -> "Proposal":
        """With the first component of some images at another mean, if it is movable."""
        if not self.movable:
            return self
        first = self.components[0]
        means = first.mean.index_copy(0, rows, mean)
        return replace(self, components=(replace(first, mean=means), *self.components[1:]))

    def __getitem__(self, rows: Rows) -> "Proposal":
        return replace(self, components=tuple(component[rows] for component in self.components))


# Shares of Laplace, encoder and prior. The first gets nearly all samples; the others bound the weights where it fails.
SHARES = (0.9, 0.05, 0.05)

# The Laplace proposal's standard deviations are made this much larger: tails that are too light cost far more
# than tails that are too heavy.
INFLATION = 1.1


def propose(name: str, vae: VAE, x: Float[Tensor, "batch pixels"]) -> tuple[Proposal, Bool[Tensor, " batch"]]:
    """The proposal called `name` for a batch of images, and whether the mode that it rests on was found."""
    found = torch.ones(len(x), dtype=torch.bool, device=x.device)
    if name == "prior":
        return Proposal((1.0,), (_prior(vae, len(x)),), movable=False), found
    encoder = _encoder(vae, x)
    if name == "encoder":
        return Proposal((1.0,), (encoder,), movable=False), found
    fit = laplace.fit(vae, x, encoder.mean)
    inflated = Gaussian(fit.mode, fit.cholesky.to(x) / INFLATION)
    if name == "laplace":
        return Proposal((1.0,), (inflated,), movable=True), fit.converged
    return Proposal(SHARES, (inflated, encoder, _prior(vae, len(x))), movable=True), fit.converged


def _prior(vae: VAE, batch: int) -> Diagonal:
    mean, scale = vae.prior.mean.expand(batch, -1), vae.prior.stddev.expand(batch, -1)
    return Diagonal(mean, scale)


@torch.no_grad()
def _encoder(vae: VAE, x: Float[Tensor, "batch pixels"]) -> Diagonal:
    q = vae.encoder(x)
    return Diagonal(q.mean, q.stddev)
