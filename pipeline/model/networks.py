"""Networks that return distributions: the encoder gives q(z | x), the decoder p(x | z).

To add a kind of network, write its two functions in a module here and enter them in `NETWORKS`.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Independent

from logpx.observations.cells import grey_levels
from logpx.observations.distribution import ImageDistribution, Observation
from logpx.observations.gaussian import Gaussian
from pipeline.config import Model
from pipeline.data.image_format import ImageFormat
from pipeline.model import conv, mlp
from pipeline.model.labels import Labels, with_label
from pipeline.model.prior import diagonal_gaussian


class Network(NamedTuple):
    """A kind of network: two functions of the settings, the images' format, the number of classes and another number.

    Attributes:
        encoder: makes a module from x and the one-hot label (n, pixels + classes) to (n, outputs).
        decoder: makes a module from z and the one-hot label (n, latent + classes) to (n, features · pixels): one
            feature of all pixels after another.
    """

    encoder: Callable[[Model, ImageFormat, int, int], nn.Module]
    decoder: Callable[[Model, ImageFormat, int, int], nn.Module]


NETWORKS: dict[str, Network] = {
    "mlp": Network(mlp.encoder, mlp.decoder),
    "conv": Network(conv.Encoder, conv.Decoder),
}


FIRST_SIGMA = 0.25  # of a σ that is learned: about the standard deviation of a pixel


class Encoder(nn.Module):
    """q(z | x) = N(μ(x), diag s²(x)), the approximate posterior. The network computes μ and log s.

    Kingma & Welling 2014, appendix C.2. In a model with classes it is q(z | x, y), and the network sees the label too.

    Args:
        classes: their number; 0 for a model without.
        discrete: whether p(x | z) depends on the level v = ⌊levels · x⌋ of each pixel only. The network then sees
            v / (levels − 1), so that q(z | x) too depends on v only; black is 0 and white is 1.
    """

    def __init__(self, settings: Model, images: ImageFormat, classes: int, discrete: bool) -> None:
        super().__init__()
        self.classes = classes
        self.network = NETWORKS[settings.network].encoder(settings, images, classes, 2 * settings.latent)
        self.levels = images.levels if discrete else None

    def forward(self, x: Float[Tensor, "*batch pixels"], y: Labels = None) -> Independent:
        seen = x if self.levels is None else grey_levels(x, self.levels) / (self.levels - 1)
        # Under mixed precision only the network computes in bfloat16, the distribution in the precision of x.
        inputs = with_label(seen, y, self.classes)
        outputs = self.network(inputs.reshape(-1, inputs.shape[-1])).to(x.dtype)
        mu, log_s = outputs.reshape(*x.shape[:-1], outputs.shape[-1]).chunk(2, dim=-1)
        return diagonal_gaussian(mu, log_s.exp())


class Decoder(nn.Module):
    """p(x | z), the likelihood. A network computes the parameters of an observation model.

    In a model with classes it is p(x | z, y), and the network sees the label too.

    Args:
        classes: their number; 0 for a model without.
        observation: the family of distributions over images.
    """

    def __init__(self, settings: Model, images: ImageFormat, classes: int, observation: Observation) -> None:
        super().__init__()
        self.classes = classes
        self.network = NETWORKS[settings.network].decoder(settings, images, classes, observation.features)
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

    def forward(self, z: Float[Tensor, "*batch latent"], y: Labels = None) -> ImageDistribution:
        inputs = with_label(z, y, self.classes)
        # Under mixed precision only the network computes in bfloat16.
        parameters = self.network(inputs.reshape(-1, inputs.shape[-1])).to(z.dtype)
        return ImageDistribution(self.observation, self.link(parameters).reshape(*z.shape[:-1], parameters.shape[-1]))
