"""Networks that return distributions: the encoder gives q(z | x), the decoder p(x | z).

To add a kind of network, write its two functions in a module here and enter them in `NETWORKS`.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from logpx.observations.cells import grey_levels
from logpx.observations.distribution import ImageDistribution, Observation
from logpx.observations.gaussian import Gaussian
from pipeline.config import Model
from pipeline.data.image_format import ImageFormat
from pipeline.model import conv, mlp


class Network(NamedTuple):
    """A kind of network, as two functions of the settings, the images' format and a number.

    Attributes:
        encoder: makes a module from x (n, pixels) to (n, outputs).
        decoder: makes a module from z (n, latent) to (n, features · pixels): one feature of all pixels after another.
    """

    encoder: Callable[[Model, ImageFormat, int], nn.Module]
    decoder: Callable[[Model, ImageFormat, int], nn.Module]


NETWORKS: dict[str, Network] = {
    "mlp": Network(mlp.encoder, mlp.decoder),
    "conv": Network(conv.Encoder, conv.Decoder),
}


FIRST_SIGMA = 0.25  # of a σ that is learned: about the standard deviation of a pixel


def diagonal_gaussian(loc: Float[Tensor, "*batch dim"], scale: Float[Tensor, "*batch dim"]) -> Independent:
    """N(loc, diag scale²), a distribution over vectors: `log_prob` sums over the last dimension."""
    return Independent(Normal(loc, scale, validate_args=False), 1, validate_args=False)


class Encoder(nn.Module):
    """q(z | x) = N(μ(x), diag s²(x)), the approximate posterior. The network computes μ and log s.

    Kingma & Welling 2014, appendix C.2.

    Args:
        discrete: whether p(x | z) depends on the level v = ⌊levels · x⌋ of each pixel only. The network then sees
            (v + ½) / levels, so that q(z | x) too depends on v only.
    """

    def __init__(self, settings: Model, images: ImageFormat, discrete: bool) -> None:
        super().__init__()
        self.network = NETWORKS[settings.network].encoder(settings, images, 2 * settings.latent)
        self.levels = images.levels if discrete else None

    def forward(self, x: Float[Tensor, "*batch pixels"]) -> Independent:
        seen = x if self.levels is None else (grey_levels(x, self.levels) + 0.5) / self.levels
        # Under mixed precision only the network computes in bfloat16, the distribution in the precision of x.
        outputs = self.network(seen.reshape(-1, x.shape[-1])).to(x.dtype)
        mu, log_s = outputs.reshape(*x.shape[:-1], outputs.shape[-1]).chunk(2, dim=-1)
        return diagonal_gaussian(mu, log_s.exp())


class Decoder(nn.Module):
    """p(x | z), the likelihood. A network computes the parameters of an observation model.

    Args:
        observation: the family of distributions over images.
    """

    def __init__(self, settings: Model, images: ImageFormat, observation: Observation) -> None:
        super().__init__()
        self.network = NETWORKS[settings.network].decoder(settings, images, observation.features)
        learned = settings.observation == "gaussian" and settings.sigma == "learned"
        # Means of gaussian pixels lie in [0, 1]; the other observation models take any number.
        self.link: nn.Module = nn.Sigmoid() if settings.observation == "gaussian" else nn.Identity()
        self.log_sigma = nn.Parameter(torch.tensor(math.log(FIRST_SIGMA))) if learned else None
        self._observation = observation

    @property
    def observation(self) -> Observation:
        """The family of distributions over images. If σ is learned, it has the current σ."""
        if self.log_sigma is None:
            return self._observation
        sigma = self.log_sigma.exp()
        return Gaussian(sigma if self.training else sigma.item())

    def forward(self, z: Float[Tensor, "*batch latent"]) -> ImageDistribution:
        # Under mixed precision only the network computes in bfloat16.
        parameters = self.network(z.reshape(-1, z.shape[-1])).to(z.dtype)
        return ImageDistribution(self.observation, self.link(parameters).reshape(*z.shape[:-1], parameters.shape[-1]))
