"""The discretised logistic observation model (Salimans et al. 2017, PixelCNN++, equation 2, one component)."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from logpx.observations.categorical import grey_levels

LEAST_LOG_SCALE = -7.0  # a smaller scale only sharpens a cell that has all the probability already


@dataclass(frozen=True)
class DiscretisedLogistic:
    """Independent pixels: a logistic distribution's mass in each of `levels` cells of [0, 1].

    The parameters are the location, in [0, 1] inside, and the log-scale; a log-scale below `LEAST_LOG_SCALE` counts as
    that. The lowest cell reaches to −∞ and the highest to ∞. x is in [0, 1], and log p(x | z) is its log-density
    there, log P(v) + log levels, so it compares with the densities of continuous models.
    """

    levels: int = 256
    features = 2

    def mean(self, parameters: Float[Tensor, "*batch parameters"]) -> Float[Tensor, "*batch pixels"]:
        """The mean of x: Σ_v P(v) (v + ½) / levels, summed by parts."""
        location, scale = self._split(parameters)
        edges = torch.arange(1, self.levels).to(parameters) / self.levels
        above = ((location[..., None] - edges) / scale[..., None]).sigmoid().sum(-1)  # Σ_v P(V ≥ v)
        return (above + 0.5) / self.levels

    def sample(
        self, parameters: Float[Tensor, "*batch parameters"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch pixels"]:
        """Draw a cell by inverting the distribution function, and x uniformly in it."""
        location, scale = self._split(parameters)
        u, inside = (
            torch.rand(location.shape, generator=generator, dtype=location.dtype, device=location.device)
            for _ in range(2)
        )
        cell = ((location + scale * u.logit(1e-7)) * self.levels).floor().clamp(0, self.levels - 1)
        return (cell + inside) / self.levels

    def log_prob(
        self, x: Float[Tensor, "*#batch pixels"], parameters: Float[Tensor, "*#batch parameters"]
    ) -> Float[Tensor, "*batch"]:
        """log p(x | z) of each image, in nats.

        With edges a < b of a cell in units of the scale, the mass is σ(b) − σ(a) = σ(b) σ(−a) (1 − e^(a − b)): a
        product, which does not cancel in the tails.
        """
        location, scale = self._split(parameters)
        cell = grey_levels(x, self.levels).to(location)
        upper = (((cell + 1) / self.levels) - location) / scale
        lower = ((cell / self.levels) - location) / scale
        below_top = cell < self.levels - 1
        above_bottom = cell > 0
        width = 1 / (self.levels * scale)
        log_p = torch.where(below_top, logsigmoid(upper), 0) + torch.where(above_bottom, -softplus(lower), 0)
        log_p = log_p + torch.where(below_top & above_bottom, torch.log(-torch.expm1(-width)), 0)
        return log_p.sum(-1) + x.shape[-1] * math.log(self.levels)

    def _split(self, parameters: Float[Tensor, "*batch parameters"]) -> tuple[Tensor, Tensor]:
        location, log_scale = parameters.chunk(2, -1)
        return location, log_scale.clamp(min=LEAST_LOG_SCALE).exp()
