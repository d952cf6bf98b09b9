"""The categorical observation model: each pixel has a probability for every grey level."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from logpx.observations.cells import grey_levels, uniform_in_cells


@dataclass(frozen=True)
class Categorical:
    """Independent pixels with a probability for each of `levels` grey levels. The parameters are the logits.

    x is in [0, 1], and log p(x | z) is its log-density there: constant in each of the `levels` cells of a pixel,
    log P(v) + log levels. So it compares with the densities of continuous models.

    >>> import logpx, torch
    >>> logpx.Categorical(4).log_prob(torch.rand(3), torch.zeros(12)).item()  # a uniform density
    0.0
    """

    levels: int = 256
    discrete = True

    @property
    def features(self) -> int:
        return self.levels

    def ceiling(self, pixels: int) -> float:
        """D ln levels, the log-density of an image whose levels are certain, in nats."""
        return pixels * math.log(self.levels)

    def mean(self, parameters: Float[Tensor, "*batch parameters"]) -> Float[Tensor, "*batch pixels"]:
        """The mean of x: cell v has its middle at (v + ½) / levels."""
        middles = (torch.arange(self.levels).to(parameters) + 0.5) / self.levels
        # Not a matmul, which autocast would round to bfloat16.
        return (self._logits(parameters).softmax(-2) * middles[:, None]).sum(-2)

    def sample(
        self, parameters: Float[Tensor, "*batch parameters"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch pixels"]:
        """Draw a cell by Gumbel's method, and x uniformly in it."""
        logits = self._logits(parameters)
        gumbel = -torch.empty_like(logits).exponential_(generator=generator).log()
        return uniform_in_cells((logits + gumbel).argmax(-2).to(logits), self.levels, generator)

    def log_prob(
        self, x: Float[Tensor, "*#batch pixels"], parameters: Float[Tensor, "*#batch parameters"]
    ) -> Float[Tensor, "*batch"]:
        """log p(x | z) of each image, in nats."""
        log_p = self._logits(parameters).log_softmax(-2)
        cell = grey_levels(x, self.levels).unsqueeze(-2)
        batch = torch.broadcast_shapes(log_p.shape[:-2], cell.shape[:-2])
        chosen = log_p.expand(*batch, -1, -1).gather(-2, cell.expand(*batch, -1, -1))
        return chosen.squeeze(-2).sum(-1) + x.shape[-1] * math.log(self.levels)

    def _logits(self, parameters: Float[Tensor, "*batch parameters"]) -> Float[Tensor, "*batch levels pixels"]:
        return parameters.unflatten(-1, (self.levels, -1))
