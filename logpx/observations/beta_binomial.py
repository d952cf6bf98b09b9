"""The beta-binomial observation model (Townsend, Bird & Barber 2019, BB-ANS, section 3.1)."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn.functional import softplus

from logpx.observations.cells import grey_levels, uniform_in_cells

LEAST = 1e-3  # of a and b, added: a distribution whose a and b vanish has no density


@dataclass(frozen=True)
class BetaBinomial:
    """Independent pixels: v of `levels` − 1 trials, whose success probability is Beta(a, b).

    The parameters are two numbers per pixel, which softplus turns into a and b. x is in [0, 1], and log p(x | z) is its
    log-density there, log P(v) + log levels, so it compares with the densities of continuous models.
    """

    levels: int = 256
    features = 2
    discrete = True

    def ceiling(self, pixels: int) -> float:
        """D ln levels, the log-density of an image whose levels are certain, in nats."""
        return pixels * math.log(self.levels)

    def mean(self, parameters: Float[Tensor, "*batch parameters"]) -> Float[Tensor, "*batch pixels"]:
        """The mean of x: E[v] = (levels − 1) a / (a + b)."""
        a, b = self._split(parameters)
        return ((self.levels - 1) * a / (a + b) + 0.5) / self.levels

    def sample(
        self, parameters: Float[Tensor, "*batch parameters"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch pixels"]:
        """Draw a cell by inverting the distribution function, and x uniformly in it."""
        a, b = self._split(parameters)
        u = torch.rand(a.shape, generator=generator, dtype=a.dtype, device=a.device)
        v, a, b, n = torch.zeros_like(a), a.double(), b.double(), self.levels - 1
        below, log_p = torch.zeros_like(a), self._log_probability(v, a, b)
        # One level k after another: memory does not grow with their number.
        for k in range(n):
            below = below + log_p.exp()  # P(V ≤ k)
            v = v + (u >= below)
            # P(k + 1) / P(k) = (n − k) (k + a) / ((k + 1) (n − k − 1 + b))
            log_p = log_p + ((n - k) * (k + a) / ((k + 1) * (n - k - 1 + b))).log()
        return uniform_in_cells(v, self.levels, generator)

    def log_prob(
        self, x: Float[Tensor, "*#batch pixels"], parameters: Float[Tensor, "*#batch parameters"]
    ) -> Float[Tensor, "*batch"]:
        """log p(x | z) of each image, in nats."""
        a, b = self._split(parameters)
        log_p = self._log_probability(grey_levels(x, self.levels).to(a), a, b).to(a)
        return log_p.sum(-1) + x.shape[-1] * math.log(self.levels)

    def _log_probability(
        self, v: Float[Tensor, "*#shape"], a: Float[Tensor, "*#shape"], b: Float[Tensor, "*#shape"]
    ) -> Float64[Tensor, "*shape"]:
        """log P(v) = log C(n, v) + log B(v + a, n − v + b) − log B(a, b), n = levels − 1.

        In float64: for large a and b the terms are of the order a log a and cancel to a few nats.
        """
        n = self.levels - 1
        v, a, b = v.double(), a.double(), b.double()
        choose = math.lgamma(n + 1) - torch.lgamma(v + 1) - torch.lgamma(n - v + 1)
        return choose + _log_beta(v + a, n - v + b) - _log_beta(a, b)

    def _split(self, parameters: Float[Tensor, "*batch parameters"]) -> tuple[Tensor, Tensor]:
        a, b = softplus(parameters).chunk(2, -1)
        return a + LEAST, b + LEAST


def _log_beta(a: Float64[Tensor, "*shape"], b: Float64[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
    return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
