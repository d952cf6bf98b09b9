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
    """A family of distributions over images. The estimator needs `log_prob` only.

    Attributes:
        features: number of parameters per pixel.
        discrete: whether p(x | z) depends on the level v = ⌊levels · x⌋ of each pixel only.
    """

    @property
    def features(self) -> int: ...
    @property
    def discrete(self) -> bool: ...

    def log_prob(self, x: Tensor, parameters: Tensor, /) -> Tensor:
        """log p(x | z) of each image in nats; the leading dimensions of x and parameters broadcast."""
        ...

    def mean(self, parameters: Tensor, /) -> Tensor:
        """The mean image, to show."""
        ...

    def sample(self, parameters: Tensor, /, generator: torch.Generator | None = None) -> Tensor:
        """Draw x, as a model receives it: (v + u) / levels of a discrete family."""
        ...

    def ceiling(self, pixels: int, /) -> float:
        """The largest log p(x | z) that an image with that many pixels can have, whatever the parameters; nats."""
        ...


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
