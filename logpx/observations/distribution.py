"""What an observation model offers, and p(x | z) as a distribution over images.

An observation model is a family of distributions over images. Its parameters are what a decoder computes: a tensor
(*batch, features · pixels), which holds the first parameter of all pixels, then the second, and so on.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Observation(Protocol):
    """A family of distributions over images. `features` is its number of parameters per pixel.

    The estimator needs `log_prob` only: log p(x | z) of each image in nats, x and parameters broadcast.
    """

    features: int

    def log_prob(self, x: Tensor, parameters: Tensor, /) -> Tensor: ...
    def mean(self, parameters: Tensor, /) -> Tensor: ...
    def sample(self, parameters: Tensor, /, generator: torch.Generator | None = None) -> Tensor: ...


@dataclass(frozen=True)
class ImageDistribution:
    """p(x | z): an observation model with its parameters."""

    observation: Observation
    parameters: Float[Tensor, "*batch parameters"]

    @property
    def mean(self) -> Float[Tensor, "*batch pixels"]:
        return self.observation.mean(self.parameters)

    def log_prob(self, x: Float[Tensor, "*#batch pixels"]) -> Float[Tensor, "*batch"]:
        """log p(x | z) of each image, in nats."""
        return self.observation.log_prob(x, self.parameters)

    def sample(self, generator: torch.Generator | None = None) -> Float[Tensor, "*batch pixels"]:
        return self.observation.sample(self.parameters, generator)
