"""The Gaussian observation model p(x | z) = N(f(z), σ² I)."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


def gaussian_ceiling(pixels: int, sigma: float) -> float:
    """−D/2 · ln 2πσ², the log-density of N(f, σ² I) at f, in nats. No image can be likelier under this σ."""
    return -0.5 * pixels * math.log(2 * math.pi * sigma**2)


@dataclass(frozen=True)
class Gaussian:
    """N(mean, diag σ²) with the same σ for all images: one number, or one per pixel. The parameters are the means.

    A σ that is learned is a tensor: a scalar, or one value per pixel. Gradients flow to it.

    >>> import logpx, torch
    >>> round(logpx.Gaussian(1.0).log_prob(torch.zeros(3), torch.zeros(3)).item(), 4)  # −3/2 ln 2π
    -2.7568
    """

    sigma: float | Float[Tensor, ""] | Float[Tensor, " pixels"]
    features = 1
    discrete = False

    def ceiling(self, pixels: int) -> float:
        """−D/2 · ln 2πσ², the log-density of an image that is equal to the mean, in nats."""
        if isinstance(self.sigma, Tensor):
            return self._constant(self.sigma, pixels).item()
        return gaussian_ceiling(pixels, self.sigma)

    def mean(self, parameters: Float[Tensor, "*batch pixels"]) -> Float[Tensor, "*batch pixels"]:
        return parameters

    def sample(
        self, parameters: Float[Tensor, "*batch pixels"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "*batch pixels"]:
        """Draw x = mean + σ ε, ε ~ N(0, I)."""
        return parameters + self.sigma * torch.empty_like(parameters).normal_(generator=generator)

    def log_prob(
        self, x: Float[Tensor, "*#batch pixels"], parameters: Float[Tensor, "*#batch pixels"]
    ) -> Float[Tensor, "*batch"]:
        """log p(x | z) of each image, in nats."""
        pixels = parameters.shape[-1]
        if isinstance(self.sigma, Tensor):
            constant = self._constant(self.sigma, pixels)
            if self.sigma.ndim:
                return constant - 0.5 * ((x - parameters) / self.sigma).square().sum(-1)
        else:
            constant = gaussian_ceiling(pixels, self.sigma)
        # One σ enters after the sum over pixels. Its gradient is then a sum of few numbers, which threads do not share,
        # so that it has the same bytes with any number of them.
        return constant - (x - parameters).square().sum(-1) / (2 * self.sigma**2)

    def pairwise_log_prob(
        self, x: Float[Tensor, "images pixels"], parameters: Float[Tensor, "samples pixels"]
    ) -> Float[Tensor, "samples images"]:
        """log p(x_j | z_i) of every image under every mean, for one σ.

        One matmul instead of a samples × images × pixels array: ‖x − f‖² = ‖x‖² − 2 f·x + ‖f‖².
        Both are centred on mid-grey first, which halves the cancellation in float32.
        """
        assert not isinstance(self.sigma, Tensor)
        f, x = parameters - 0.5, x - 0.5
        squares = torch.addmm(x.square().sum(-1), f, x.T, alpha=-2.0) + f.square().sum(-1, keepdim=True)
        return gaussian_ceiling(x.shape[-1], self.sigma) - squares.clamp(min=0) / (2 * self.sigma**2)

    @staticmethod
    def _constant(sigma: Tensor, pixels: int) -> Float[Tensor, ""]:
        """−Σ (ln σ + ½ ln 2π) over all pixels."""
        return -(sigma.log() + 0.5 * math.log(2 * math.pi)).expand(pixels).sum()
