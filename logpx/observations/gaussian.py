"""The Gaussian observation model p(x | z) = N(f(z), σ² I).

An observation model is a module that turns the decoder's last layer into a distribution over images. `features` is
the number of outputs it needs per pixel, and `link` is the elementwise function that turns them into the mean.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn


def gaussian_ceiling(pixels: int, sigma: float) -> float:
    """−D/2 · ln 2πσ², the log-density of N(f, σ² I) at f, in nats. No image can be likelier under this σ."""
    return -0.5 * pixels * math.log(2 * math.pi * sigma**2)


@dataclass(frozen=True)
class Gaussian:
    """p(x | z) = N(mean, σ² I) over the last dimension; log-densities in nats."""

    mean: Float[Tensor, "*batch pixels"]
    sigma: float

    def sample(self, generator: torch.Generator | None = None) -> Float[Tensor, "*batch pixels"]:
        """Draw x = mean + σ ε, ε ~ N(0, I)."""
        noise = torch.empty_like(self.mean).normal_(generator=generator)
        return self.mean + self.sigma * noise

    def log_prob(self, x: Float[Tensor, "*#batch pixels"]) -> Float[Tensor, "*batch"]:
        """log p(x | z) of each image; `x` is broadcast against the mean."""
        return self._ceiling - (x - self.mean).square().sum(-1) / (2 * self.sigma**2)

    def score(self, x: Float[Tensor, "*#batch pixels"]) -> Float[Tensor, "*batch pixels"]:
        """∂ log p(x | mean) / ∂ mean, for each pixel."""
        return (x - self.mean) / self.sigma**2

    @property
    def fisher(self) -> Float[Tensor, "*batch pixels"]:
        """Fisher information about the mean of each pixel."""
        return torch.full_like(self.mean, self.sigma**-2)

    def information(self, x: Float[Tensor, "*#batch pixels"]) -> Float[Tensor, "*#batch pixels"]:
        """−∂² log p(x | mean) / ∂ mean² of each pixel. Its mean over x is `fisher`; for a Gaussian it is constant."""
        return self.fisher

    def pairwise_log_prob(self, x: Float[Tensor, "images pixels"]) -> Float[Tensor, "samples images"]:
        """log p(x_j | z_i) of every image under every one of this distribution's means (2-D).

        One matmul instead of a samples × images × pixels array: ‖x − f‖² = ‖x‖² − 2 f·x + ‖f‖².
        Both are centred on mid-grey first, which halves the cancellation in float32.
        """
        f, x = self.mean - 0.5, x - 0.5
        squares = torch.addmm(x.square().sum(-1), f, x.T, alpha=-2.0) + f.square().sum(-1, keepdim=True)
        return self._ceiling - squares.clamp(min=0) / (2 * self.sigma**2)

    @property
    def _ceiling(self) -> float:
        return gaussian_ceiling(self.mean.shape[-1], self.sigma)


class GaussianObservation(nn.Module):
    """The family N(f(z), σ² I) with f = sigmoid(last layer) and a fixed σ, in pixel units."""

    features = 1

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma
        self.link: nn.Module = nn.Sigmoid()

    def forward(self, features: Float[Tensor, "*batch pixels"]) -> Gaussian:
        return Gaussian(self.link(features), self.sigma)
