"""The discretised logistic observation model (Salimans et al. 2017, PixelCNN++, equation 2, one component)."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from logpx.observations.cells import grey_levels, uniform_in_cells

LEAST_LOG_SCALE = -7.0  # a smaller scale only sharpens a cell that has all the probability already
MOST_LOG_SCALE = 7.0  # with a larger scale, too, each of the two end cells has half of the probability

# Takes the place of an infinite edge, whose product with a derivative of 0 would be NaN. Divided by the largest scale
# it still has a sigmoid of 1 in float64. It is a number in float16.
FAR = 6e4


def scale_of(log_scale: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The scale, in units of x. A log-scale counts as at least `LEAST_LOG_SCALE` and at most `MOST_LOG_SCALE`."""
    return log_scale.clamp(LEAST_LOG_SCALE, MOST_LOG_SCALE).exp()


def log_mass(
    v: Float[Tensor, "*#shape"], location: Float[Tensor, "*#shape"], scale: Float[Tensor, "*#shape"], levels: int
) -> Float[Tensor, "*shape"]:
    """log P(v): the log-mass of the logistic distribution in cell v. The end cells reach to −∞ and ∞.

    Let a and b be the distances of the location from the cell's edges, inwards, in units of the scale, and w = a + b
    the cell's width. The mass is σ(a) σ(b) (1 − e^−w), a product, which does not cancel in the tails. With
    log σ(a) = log σ(|a|) + min(a, 0), no factor underflows, and 1 − e^−w = 2 t / (1 + t) with t = tanh(w / 2).

    Sigmoid, tanh and log are several times faster than PyTorch's logsigmoid and expm1 on CPUs.
    """
    bottom, top = v <= 0, v >= levels - 1
    low, high = (v / levels).masked_fill(bottom, -FAR), ((v + 1) / levels).masked_fill(top, FAR)
    half_width = torch.full_like(v, 0.5 / levels).masked_fill(bottom | top, FAR)
    steepness = 1 / scale
    a, b = (location - low) * steepness, (high - location) * steepness
    a_outside, b_outside = a.clamp(max=0), b.clamp(max=0)
    # |a| = a − 2 min(a, 0), which at a = 0 gives log σ its derivative ½.
    inside = torch.sub(a, a_outside, alpha=2).sigmoid() * torch.sub(b, b_outside, alpha=2).sigmoid()
    t = (half_width * steepness).tanh()
    return (2 * inside * t / (1 + t)).log() + a_outside + b_outside


def mean_of_x(
    location: Float[Tensor, "*shape"], scale: Float[Tensor, "*shape"], levels: int
) -> Float[Tensor, "*shape"]:
    """The mean of x: Σ_v P(v) (v + ½) / levels, summed by parts, Σ_v P(v) v = Σ_{v ≥ 1} P(V ≥ v).

    One edge after another, so that memory does not grow with the number of levels.
    """
    above = torch.zeros_like(location)
    for v in range(1, levels):
        above = above + ((location - v / levels) / scale).sigmoid()
    return (above + 0.5) / levels


def sample_x(
    location: Float[Tensor, "*batch pixels"],
    scale: Float[Tensor, "*batch pixels"],
    levels: int,
    generator: torch.Generator | None,
) -> Float[Tensor, "*batch pixels"]:
    """Draw a cell by inverting the distribution function, and x uniformly in it."""
    u = torch.rand(location.shape, generator=generator, dtype=location.dtype, device=location.device)
    # u = 0 gives −∞, which is in the lowest cell.
    v = ((location + scale * u.logit()) * levels).floor().clamp(0, levels - 1)
    return uniform_in_cells(v, levels, generator)


@dataclass(frozen=True)
class DiscretisedLogistic:
    """Independent pixels: a logistic distribution's mass in each of `levels` cells of [0, 1].

    The parameters are the location, in [0, 1] inside, and the log-scale, which counts as at least `LEAST_LOG_SCALE` and
    at most `MOST_LOG_SCALE`. The lowest cell reaches to −∞ and the highest to ∞. x is in [0, 1], and log p(x | z) is
    its log-density there, log P(v) + log levels, so it compares with the densities of continuous models.
    """

    levels: int = 256
    features = 2
    discrete = True

    def ceiling(self, pixels: int) -> float:
        """D ln levels, the log-density of an image whose levels are certain, in nats."""
        return pixels * math.log(self.levels)

    def mean(self, parameters: Float[Tensor, "*batch parameters"]) -> Float[Tensor, "*batch pixels"]:
        """The mean of x."""
        return mean_of_x(*self._split(parameters), self.levels)

    def sample(
        self, parameters: Float[Tensor, "*batch parameters"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch pixels"]:
        """Draw a cell by inverting the distribution function, and x uniformly in it."""
        return sample_x(*self._split(parameters), self.levels, generator)

    def log_prob(
        self, x: Float[Tensor, "*#batch pixels"], parameters: Float[Tensor, "*#batch parameters"]
    ) -> Float[Tensor, "*batch"]:
        """log p(x | z) of each image, in nats."""
        location, scale = self._split(parameters)
        log_p = log_mass(grey_levels(x, self.levels).to(location), location, scale, self.levels)
        return log_p.sum(-1) + x.shape[-1] * math.log(self.levels)

    def _split(self, parameters: Float[Tensor, "*batch parameters"]) -> tuple[Tensor, Tensor]:
        """Location and scale."""
        location, log_scale = parameters.chunk(2, -1)
        return location, scale_of(log_scale)
