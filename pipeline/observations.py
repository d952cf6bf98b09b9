"""Observation models p(x | z): what a pixel is, and how likely it is given the decoder's output.

A family is a module that turns the decoder's last layer into a distribution over images, with
`mean`, `sample`, `log_prob` and `pairwise_log_prob`. It says in `features` how many numbers a pixel needs, and in
`link` what makes the mean of them.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn


def dequantise(
    images: UInt8[Tensor, "*batch pixels"], levels: int, generator: torch.Generator
) -> Float[Tensor, "*batch pixels"]:
    """x = (v + u) / levels with u ~ U[0, 1): discrete pixels become a density on [0, 1] (Uria et al. 2013).

    Args:
        images: pixel values v in 0 .. levels − 1.
        levels: number of grey levels, 256 for bytes.
        generator: source of u, on the images' device. u has 16 bits: all that float32 keeps of it beside a byte.
    """
    words = torch.empty(math.ceil(images.numel() / 4), dtype=torch.int64, device=images.device)
    bits = words.random_(-(2**63), None, generator=generator).view(torch.int16)[: images.numel()]
    # v + u − ½ has no more bits than float32.
    centred = images.float().add_(bits.view_as(images), alpha=2.0**-16)
    return torch.add(torch.full((), 0.5 / levels, device=images.device), centred, alpha=1 / levels)


def dequantised(
    images: UInt8[Tensor, "images height width"], levels: int, seed: int
) -> Float[Tensor, "images height*width"]:
    """Images as vectors, dequantised by noise drawn on the CPU: the same densities on every device."""
    return dequantise(images.flatten(1), levels, torch.Generator().manual_seed(seed))


def gaussian_ceiling(pixels: int, sigma: float) -> float:
    """−D/2 · ln 2πσ², the log-density of N(f, σ² I) at f, in nats: no image can be likelier under this σ."""
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
        """log p(x | z) of each image, `x` broadcast against the mean."""
        return self._ceiling - (x - self.mean).square().sum(-1) / (2 * self.sigma**2)

    def score(self, x: Float[Tensor, "*#batch pixels"]) -> Float[Tensor, "*batch pixels"]:
        """∂ log p(x | mean) / ∂ mean, a pixel at a time."""
        return (x - self.mean) / self.sigma**2

    @property
    def fisher(self) -> Float[Tensor, "*batch pixels"]:
        """Fisher information about the mean of each pixel."""
        return torch.full_like(self.mean, self.sigma**-2)

    def information(self, x: Float[Tensor, "*#batch pixels"]) -> Float[Tensor, "*#batch pixels"]:
        """−∂² log p(x | mean) / ∂ mean² of each pixel, whose mean over x is Fisher's; here it is the same for all x."""
        return self.fisher

    def pairwise_log_prob(self, x: Float[Tensor, "images pixels"]) -> Float[Tensor, "samples images"]:
        """log p(x_j | z_i) of every image under every one of this distribution's means (2-D).

        One matrix product instead of a samples × images × pixels array: ‖x − f‖² = ‖x‖² − 2 f·x + ‖f‖².
        Both are centred on mid-grey first, which halves the cancellation in float32.
        """
        f, x = self.mean - 0.5, x - 0.5
        squares = torch.addmm(x.square().sum(-1), f, x.T, alpha=-2.0) + f.square().sum(-1, keepdim=True)
        return self._ceiling - squares.clamp(min=0) / (2 * self.sigma**2)

    @property
    def _ceiling(self) -> float:
        return gaussian_ceiling(self.mean.shape[-1], self.sigma)


class GaussianObservation(nn.Module):
    """The family N(f(z), σ² I) with f = link(last layer), the sigmoid, and a fixed σ, in pixel units."""

    features = 1

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma
        self.link: nn.Module = nn.Sigmoid()

    def forward(self, features: Float[Tensor, "*batch pixels"]) -> Gaussian:
        return Gaussian(self.link(features), self.sigma)
