"""The beta-binomial observation model (Townsend, Bird & Barber 2019, BB-ANS, section 3.1)."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from logpx.observations.categorical import grey_levels

LEAST = 1e-3  # of a and b, added: a distribution whose a and b vanish has no density


@dataclass(frozen=True)
class BetaBinomial:
    """Independent pixels: v of `levels` − 1 trials, whose success probability is Beta(a, b).

    The parameters are two numbers per pixel, which softplus turns into a and b. x is in [0, 1], and log p(x | z) is its
    log-density there, log P(v) + log levels, so it compares with the densities of continuous models.
    """

    levels: int = 256
    features = 2

    def mean(self, parameters: Float[Tensor, "*batch parameters"]) -> Float[Tensor, "*batch pixels"]:
        a, b = self._split(parameters)
        return ((self.levels - 1) * a / (a + b) + 0.5) / self.levels

    def sample(
        self, parameters: Float[Tensor, "*batch parameters"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch pixels"]:
        """Draw a cell by inverting the distribution function, and x uniformly in it."""
        a, b = self._split(parameters)
        v = torch.arange(self.levels).to(a)
        below = self._log_probability(v, a[..., None], b[..., None]).exp().cumsum(-1)
        u, inside = (torch.rand(a.shape, generator=generator, dtype=a.dtype, device=a.device) for _ in range(2))
        cell = (u[..., None] > below).sum(-1).clamp(max=self.levels - 1)
        return (cell + inside) / self.levels

    def log_prob(
        self, x: Float[Tensor, "*#batch pixels"], parameters: Float[Tensor, "*#batch parameters"]
    ) -> Float[Tensor, "*batch"]:
        """log p(x | z) of each image, in nats."""
        a, b = self._split(parameters)
        log_p = self._log_probability(grey_levels(x, self.levels).to(a), a, b)
        return log_p.sum(-1) + x.shape[-1] * math.log(self.levels)

    def _log_probability(self, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """log C(n, v) + log B(v + a, n − v + b) − log B(a, b)."""
        n = self.levels - 1
        choose = math.lgamma(n + 1) - torch.lgamma(v + 1) - torch.lgamma(n - v + 1)
        return choose + _log_beta(v + a, n - v + b) - _log_beta(a, b)

    def _split(self, parameters: Float[Tensor, "*batch parameters"]) -> tuple[Tensor, Tensor]:
        a, b = softplus(parameters).chunk(2, -1)
        return a + LEAST, b + LEAST


def _log_beta(a: Tensor, b: Tensor) -> Tensor:
    return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
