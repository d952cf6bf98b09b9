"""Proposals r(z | x) for importance sampling: a batch of distributions over z with exact `sample` and `log_prob`.

Randomness is handed in as `Noise`, so that it belongs to the image. `proposal[rows]` is that of some images.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.likelihood import laplace
from pipeline.likelihood.adaptation import adapt
from pipeline.likelihood.components import Diagonal, Gaussian, Rows, StudentT
from pipeline.likelihood.noise import Noise
from pipeline.vae import VAE


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

    def adapted(
        self, vae: VAE, x: Float[Tensor, "batch pixels"], rows: Rows, noise: Noise, *, hard: bool = False
    ) -> "Proposal":
        """With the first component of some images moved and reshaped to where gradients say the posterior is.

        Args:
            hard: whether they have shown heavy tails before, and get a wider proposal.
        """
        first = self.components[0]
        assert isinstance(first, Gaussian)
        part = first[rows]
        # The gradients are taken where the posterior is thought to be, the samples from somewhat farther out.
        new = adapt(vae, x[rows], replace(part, cholesky=part.cholesky * inflation(vae.latent)), noise.normal)
        adapted = replace(
            first,
            mean=first.mean.index_copy(0, rows, new.mean),
            cholesky=first.cholesky.index_copy(0, rows, new.cholesky / inflation(vae.latent, hard=hard)),
        )
        return replace(self, components=(adapted, *self.components[1:]))

    def __getitem__(self, rows: Rows) -> "Proposal":
        return replace(self, components=tuple(component[rows] for component in self.components))


# Shares of Laplace, encoder and prior. The first gets nearly all samples; the others bound the weights where it fails.
SHARES = (0.9, 0.05, 0.05)

# The fitted proposal's standard deviations are made larger by this share: tails that are too light cost far more
# than tails that are too heavy. Hard images get more samples, which can afford more.
EXCESS, EXCESS_OF_HARD = 0.15, 0.265


def inflation(latent: int, *, hard: bool = False) -> float:
    """How much wider the fitted proposal is made, in each of its dimensions.

    An excess δ in d dimensions costs a factor of about exp(2 d δ²) in effective samples, so that beyond 16 dimensions
    δ falls as 1/√d.
    """
    return 1 + (EXCESS_OF_HARD if hard else EXCESS) * min(1.0, (16 / latent) ** 0.5)


# Far from all training images the encoder's s may leave what float32 can hold, and s = 0 or ∞ makes no density.
ENCODER_SCALES = 1e-9, 1e4


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
    factor = cholesky.to(x) / inflation(vae.latent)
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
    return Diagonal(q.mean, q.stddev.clamp(*ENCODER_SCALES))
