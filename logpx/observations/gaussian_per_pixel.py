"""The Gaussian observation model whose σ depends on z too: p(x | z) = N(m(z), diag σ²(z))."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from logpx.observations.gaussian import gaussian_ceiling


@dataclass(frozen=True)
class GaussianPerPixel:
    """Independent pixels N(m, σ²), with m and σ of each pixel computed by the decoder.

    The parameters are two numbers per pixel, l and r: m = sigmoid(l) and σ = σ₀ + softplus(r). σ₀ = 1 / (levels √12) is
    the standard deviation of U[0, 1) / levels, the noise that dequantisation adds to a grey level.

    Without a least σ the likelihood has no maximum: it grows without bound as a component fits an image and its σ goes
    to 0 (Mattei & Frellsen 2018, "Leveraging the exact likelihood of deep latent variable models", section 2). Below σ₀
    nothing about v is left to learn, since x varies by σ₀ within the cell of each grey level.
    """

    levels: int = 256
    features = 2
    discrete = False

    @property
    def least_sigma(self) -> float:
        """σ₀, in units of x."""
        return 1 / (self.levels * math.sqrt(12))

    def ceiling(self, pixels: int) -> float:
        """−D/2 · ln 2πσ₀², the log-density at the mean with the least σ, in nats."""
        return gaussian_ceiling(pixels, self.least_sigma)

    def mean(self, parameters: Float[Tensor, "*batch parameters"]) -> Float[Tensor, "*batch pixels"]:
        return self._split(parameters)[0]

    def sample(
        self, parameters: Float[Tensor, "*batch parameters"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch pixels"]:
        """Draw x = m + σ ε, ε ~ N(0, I)."""
        mean, sigma = self._split(parameters)
        return mean + sigma * torch.empty_like(mean).normal_(generator=generator)

    def log_prob(
        self, x: Float[Tensor, "*#batch pixels"], parameters: Float[Tensor, "*#batch parameters"]
    ) -> Float[Tensor, "*batch"]:
        """log p(x | z) of each image, in nats."""
        mean, sigma = self._split(parameters)
        squares = ((x - mean) / sigma).square()
        return -(0.5 * squares + sigma.log() + 0.5 * math.log(2 * math.pi)).sum(-1)

    def _split(self, parameters: Float[Tensor, "*batch parameters"]) -> tuple[Tensor, Tensor]:
        """m and σ. −log sigmoid(−r) is softplus(r), without PyTorch's jump of 2e-9 at r = 20."""
        logit, raw = parameters.chunk(2, -1)
        return logit.sigmoid(), self.least_sigma - logsigmoid(-raw)
