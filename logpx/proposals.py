"""Proposals r(z | x) for importance sampling: batches of distributions over z with exact `sample` and `log_prob`.

Randomness is passed in as `Noise`, so that it belongs to the image. `proposal[rows]` is the proposal of some images.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from logpx import distributions, laplace
from logpx.data import Data, count, device_of
from logpx.distributions import Diagonal, Gaussian, Rows, StudentT
from logpx.model import Model, Moments
from logpx.noise import Noise
from logpx.refinement import refine

# Fractions of the encoder, if there is one, and of the prior in the mixture. The fitted component gets nearly all
# samples; the others bound the weights of samples in regions that it misses.
DEFENSIVE_SHARE = 0.05

# The fitted proposal's standard deviations are enlarged by this fraction: tails that are too light cost far more than
# tails that are too heavy. Images whose weights showed heavy tails (`hard`) get more samples, and a wider proposal.
EXCESS, EXCESS_OF_HARD = 0.15, 0.265

# Far from all training images the encoder's scale can overflow float32, and a scale of 0 or ∞ is no density.
ENCODER_SCALES = 1e-9, 1e4


@dataclass(frozen=True)
class Proposal:
    """Σ_j π_j r_j: each sample comes from one component and is weighed under all (the balance heuristic).

    With w = p / Σ_j π_j r_j a weight is at most p / (π_j r_j) for every j, so that one bad component cannot
    spoil an image (Veach & Guibas 1995; Owen & Zhou 2000). One component is the plain proposal.
    """

    shares: tuple[float, ...]
    components: tuple[Gaussian | Diagonal, ...]
    adaptable: bool  # whether gradients at pilot samples may move and reshape the first component
    widening: float = 1.0  # factor by which the first component is wider than the Gaussian that was fitted

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

    def refined(self, model: Model, x: Data, noise: Noise, *, hard: bool = False) -> "Proposal":
        """The same proposal with its first component moved and reshaped by gradients at samples of it.

        Args:
            hard: whether the images' weights have shown heavy tails; then the component is made wider.
        """
        first = self.components[0]
        assert isinstance(first, Gaussian)
        latent = first.mean.shape[-1]
        # Gradients are evaluated at samples of the Gaussian itself; importance samples come from the widened one.
        new = refine(model, x, replace(first, cholesky=first.cholesky * self.widening), noise.normal)
        widening = inflation(latent, hard=hard)
        wider = replace(new, cholesky=new.cholesky / widening)
        return replace(self, components=(wider, *self.components[1:]), widening=widening)

    def __getitem__(self, rows: Rows) -> "Proposal":
        return replace(self, components=tuple(component[rows] for component in self.components))


def concatenate(parts: Sequence[Proposal]) -> Proposal:
    """The proposal of consecutive batches."""
    components = zip(*(part.components for part in parts), strict=True)
    return replace(parts[0], components=tuple(distributions.concatenate(batches) for batches in components))


def inflation(latent: int, *, hard: bool = False) -> float:
    """Factor by which the fitted proposal is widened in each of its dimensions.

    An excess δ in d dimensions costs a factor of about exp(2 d δ²) in effective samples. So beyond 16 dimensions
    δ falls as 1/√d.
    """
    return 1 + (EXCESS_OF_HARD if hard else EXCESS) * min(1.0, (16 / latent) ** 0.5)


class Fit(NamedTuple):
    """A proposal fitted to a batch of images, and its cost."""

    proposal: Proposal
    converged: Bool[Tensor, " batch"]  # whether the mode that the proposal rests on was found
    evaluations: Int[Tensor, " batch"]  # decoder evaluations; a tangent or a gradient counts as one


def propose(
    name: str,
    model: Model,
    x: Data,
    prior: Moments,
    encoder: Moments | None,
    starts: Sequence[Float[Tensor, "#batch latent"]],
    degrees_of_freedom: float | None = None,
) -> Fit:
    """The proposal called `name` for a batch of images: prior, encoder, laplace or mixture.

    Args:
        prior: its mean and standard deviation; a Gaussian with these stands for it.
        encoder: mean and standard deviation of q(z | x) of each image. None leaves it out of the mixture.
        starts: where the search for the mode starts: one z per image, or one for all.
        degrees_of_freedom: of Student's t tails for the fitted component; None for Gaussian tails.
    """
    images, device = count(x), device_of(x)
    found = torch.ones(images, dtype=torch.bool, device=device)
    nothing = torch.zeros(images, dtype=torch.long, device=device)
    wide = [Diagonal(*(moment.expand(images, -1) for moment in prior))]
    if name == "prior":
        return Fit(Proposal((1.0,), tuple(wide), adaptable=False), found, nothing)
    if encoder is not None:
        wide.insert(0, Diagonal(encoder.mean, encoder.scale.clamp(*ENCODER_SCALES)))
    if name == "encoder":
        return Fit(Proposal((1.0,), (wide[0],), adaptable=False), found, nothing)
    mode, cholesky, converged, evaluations = laplace.fit(model, x, starts)
    widening = inflation(mode.shape[-1])
    # Contiguous, so that an image's rounding does not depend on how its block was split.
    factor = (cholesky.to(mode) / widening).contiguous()
    fitted = StudentT(mode, factor, degrees_of_freedom) if degrees_of_freedom else Gaussian(mode, factor)
    if name == "laplace":
        wide = []
    shares = (1 - DEFENSIVE_SHARE * len(wide), *[DEFENSIVE_SHARE] * len(wide))
    return Fit(Proposal(shares, (fitted, *wide), adaptable=True, widening=widening), converged, evaluations)
