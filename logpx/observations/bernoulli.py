"""The Bernoulli observation model for pixels that are 0 or 1."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from logpx.observations.cells import grey_levels, uniform_in_cells


@dataclass(frozen=True)
class Bernoulli:
    """Independent pixels v in {0, 1} with P(v = 1) = sigmoid(logit). The parameters are the logits.

    x is 0 or 1, or (v + u) / 2 with any noise u in [0, 1): v = ⌊2x⌋, and at most 1. The result is the log-probability
    of v, as published for binarised images. It does not compare with densities of grey images.

    >>> import logpx, torch
    >>> round(logpx.Bernoulli().log_prob(torch.tensor([1.0, 0.0]), torch.zeros(2)).item(), 4)  # 2 ln ½
    -1.3863
    """

    features = 1
    discrete = True

    def ceiling(self, pixels: int) -> float:
        """0, the log-probability of an image that is certain."""
        return 0.0

    def mean(self, parameters: Float[Tensor, "*batch pixels"]) -> Float[Tensor, "*batch pixels"]:
        """P(v = 1): the mean of v, to show as a grey level. (The mean of x = (v + u) / 2 is (P(v = 1) + ½) / 2.)"""
        return parameters.sigmoid()

    def sample(
        self, parameters: Float[Tensor, "*batch pixels"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch pixels"]:
        """Draw v, and x = (v + u) / 2 uniformly in its cell, as the other discrete models do. v = ⌊2x⌋."""
        return uniform_in_cells(parameters.sigmoid().bernoulli(generator=generator), 2, generator)

    def log_prob(
        self, x: Float[Tensor, "*#batch pixels"], parameters: Float[Tensor, "*#batch pixels"]
    ) -> Float[Tensor, "*batch"]:
        """log P(v | z) of each image, in nats: Σ log sigmoid(±logit), + for v = 1 and − for v = 0."""
        sign = 2 * grey_levels(x, 2).to(parameters) - 1
        return logsigmoid(sign * parameters).sum(-1)
