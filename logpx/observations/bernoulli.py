"""The Bernoulli observation model for pixels that are 0 or 1."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus


@dataclass(frozen=True)
class Bernoulli:
    """Independent pixels in {0, 1} with P(x = 1) = sigmoid(logit). The parameters are the logits.

    The result is a log-probability. It does not compare with densities of grey images.

    >>> import logpx, torch
    >>> round(logpx.Bernoulli().log_prob(torch.tensor([1.0, 0.0]), torch.zeros(2)).item(), 4)  # 2 ln ½
    -1.3863
    """

    features = 1

    def mean(self, parameters: Float[Tensor, "*batch pixels"]) -> Float[Tensor, "*batch pixels"]:
        return parameters.sigmoid()

    def sample(
        self, parameters: Float[Tensor, "*batch pixels"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch pixels"]:
        return parameters.sigmoid().bernoulli(generator=generator)

    def log_prob(
        self, x: Float[Tensor, "*#batch pixels"], parameters: Float[Tensor, "*#batch pixels"]
    ) -> Float[Tensor, "*batch"]:
        """log P(x | z) = Σ x · logit − log(1 + e^logit) of each image, in nats."""
        return (x * parameters - softplus(parameters)).sum(-1)
