"""Proposals r(z | x) for importance sampling: batches of distributions over z with exact `sample` and `log_prob`.

Randomness is passed in as `Noise`, so that it belongs to the image. `proposal[rows]` is the proposal of some images.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from logpx import distributions
from logpx.data import Data, select
from logpx.distributions import Diagonal, Gaussian, Rows, StudentT
from logpx.model import Model, Moments
from logpx.modes import Modes
from logpx.noise import Noise
from logpx.refinement import refine

# Fractions of the encoder, if there is one, and of the prior in the mixture. The fitted components get nearly all
# samples; the others bound the weights of samples in regions that those miss.
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

    Attributes:
        shares: π_j of each image; 0 for a component that the image lacks.
        fitted: number of the first components that gradients at samples may move and reshape.
        widening: factor by which the fitted components are wider than the Gaussians that were fitted.
    """

    shares: Float[Tensor, "batch components"]
    components: tuple[Gaussian | Diagonal, ...]
    fitted: int = 0
    widening: float = 1.0

    @property
    def adaptable(self) -> bool:
        return self.fitted > 0

    def sample(self, noise: Noise) -> Float[Tensor, "samples batch latent"]:
        """u chooses the component, ε makes z."""
        below = torch.zeros_like(self.shares[:, 0])
        z = None
        for share, component in zip(self.shares.T, self.components, strict=True):
            # Given that u chose the component, (u − below) / share is uniform again.
            uniform = ((noise.uniform - below) / share.clamp(min=1e-12)).clamp(0, 1)
            drawn = component.sample(noise._replace(uniform=uniform))
            chosen = (noise.uniform >= below) & (share > 0)
            z = drawn if z is None else torch.where(chosen[..., None], drawn, z)
            below = below + share
        assert z is not None
        return z

    def log_prob(self, z: Float[Tensor, "samples batch latent"]) -> Float[Tensor, "samples batch"]:
        each = [share.log() + c.log_prob(z) for share, c in zip(self.shares.T, self.components, strict=True)]
        return torch.stack(each).logsumexp(0)

    def refined(self, model: Model, x: Data, noise: Noise, *, hard: bool = False) -> "Proposal":
        """The same proposal with its fitted components moved and reshaped by gradients at samples of them.

        Args:
            hard: whether the images' weights have shown heavy tails; then the components are made wider.
        """

        def fit(rows: Tensor, component: Gaussian) -> Gaussian:
            return refine(model, select(x, rows), component, noise.normal[:, rows])

        return self.refitted(fit, inflation(noise.normal.shape[-1], hard=hard))

    def refitted(self, fit: Callable[[Tensor, Gaussian], Gaussian], widening: float) -> "Proposal":
        """The same proposal with its fitted components replaced.

        Args:
            fit: makes a new Gaussian from the one that was fitted, without its widening, for the images (rows) that
                have the component.
            widening: factor by which the new components are wider than what `fit` returns.
        """
        components = list(self.components)
        for number, component in enumerate(components[: self.fitted]):
            assert isinstance(component, Gaussian)
            rows = (self.shares[:, number] > 0).nonzero().squeeze(1)
            if len(rows) == 0:
                continue
            new = fit(rows, replace(component, cholesky=component.cholesky * self.widening)[rows])
            components[number] = replace(
                component,
                mean=component.mean.index_copy(0, rows, new.mean),
                cholesky=component.cholesky.index_copy(0, rows, new.cholesky / widening),
            )
        return replace(self, components=tuple(components), widening=widening)

    def __getitem__(self, rows: Rows) -> "Proposal":
        return replace(self, shares=self.shares[rows], components=tuple(each[rows] for each in self.components))


def concatenate(parts: Sequence[Proposal]) -> Proposal:
    """The proposal of consecutive batches."""
    components = zip(*(part.components for part in parts), strict=True)
    return replace(
        parts[0],
        shares=torch.cat([part.shares for part in parts]),
        components=tuple(distributions.concatenate(batches) for batches in components),
    )


def inflation(latent: int, *, hard: bool = False) -> float:
    """Factor by which the fitted proposal is widened in each of its dimensions.

    An excess δ in d dimensions costs a factor of about exp(2 d δ²) in effective samples. So beyond 16 dimensions
    δ falls as 1/√d.
    """
    return 1 + (EXCESS_OF_HARD if hard else EXCESS) * min(1.0, (16 / latent) ** 0.5)


def of_prior(prior: Moments, images: int) -> Diagonal:
    """A Gaussian with the prior's mean and standard deviation, for each image."""
    return Diagonal(*(moment.expand(images, -1) for moment in prior))


def of_encoder(encoder: Moments) -> Diagonal:
    """q(z | x)."""
    return Diagonal(encoder.mean, encoder.scale.clamp(*ENCODER_SCALES))


def plain(component: Gaussian | Diagonal) -> Proposal:
    """A proposal of one component that is not fitted."""
    return Proposal(torch.ones_like(component.mean[:, :1]), (component,))


def from_modes(modes: Modes, degrees_of_freedom: float | None, defensive: Sequence[Diagonal] = ()) -> Proposal:
    """A Gaussian, or Student's t, at each mode, mixed with some defensive components.

    Args:
        modes: their masses decide how much of the mixture each gets.
        degrees_of_freedom: of Student's t tails for the fitted components; None for Gaussian tails.
        defensive: each has the share `DEFENSIVE_SHARE`.
    """
    widening = inflation(modes.peaks[0].mode.shape[-1])
    log_masses = torch.stack([peak.log_mass for peak in modes.peaks], 1)
    masses = log_masses.nan_to_num(neginf=-1e30).softmax(1).to(modes.peaks[0].mode)
    share = torch.full_like(masses[:, :1], DEFENSIVE_SHARE)
    shares = torch.cat([masses * (1 - DEFENSIVE_SHARE * len(defensive)), *[share] * len(defensive)], 1)
    fitted: list[Gaussian] = []
    for peak in modes.peaks:
        # Contiguous, so that an image's rounding does not depend on how its block was split.
        factor = (peak.cholesky.to(peak.mode) / widening).contiguous()
        gaussian = Gaussian(peak.mode, factor)
        fitted.append(StudentT(peak.mode, factor, degrees_of_freedom) if degrees_of_freedom else gaussian)
    return Proposal(shares, (*fitted, *defensive), fitted=len(fitted), widening=widening)
