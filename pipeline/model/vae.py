"""The variational autoencoder (Kingma & Welling 2014).

`vae.prior` is p(z), `vae.decoder(z)` is p(x | z) and `vae.encoder(x)` is q(z | x). Each is a distribution.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Independent

from pipeline.config import Model
from pipeline.data.image_format import ImageFormat
from pipeline.model.networks import Decoder, Encoder, diagonal_gaussian
from pipeline.model.observations import OBSERVATIONS

ENCODED_AT_ONCE = 1_000  # images; convolutions need much memory for each


class VAE(nn.Module):
    """Prior p(z) = N(0, I), decoder p(x | z) and encoder q(z | x) = N(μ(x), diag s²(x)).

    Args:
        settings: networks and observation model.
        images: their size and grey levels.
    """

    def __init__(self, settings: Model, images: ImageFormat) -> None:
        super().__init__()
        self.latent, self.images = settings.latent, images
        observation = OBSERVATIONS[settings.observation](settings, images)
        self.encoder = Encoder(settings, images, observation.discrete)
        self.decoder = Decoder(settings, images, observation)
        # Buffers move to a device with the model. They are not saved, since training does not change them.
        self.register_buffer("zero", torch.zeros(settings.latent), persistent=False)
        self.register_buffer("one", torch.ones(settings.latent), persistent=False)
        self.zero: Tensor
        self.one: Tensor
        if settings.network == "conv":
            self.to(memory_format=torch.channels_last)

    @property
    def prior(self) -> Independent:
        """p(z) = N(0, I)."""
        return diagonal_gaussian(self.zero, self.one)

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "images pixels"]) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(z | x), each (images, latent), without gradients; any number of images."""
        parts = [self.encoder(part) for part in x.split(ENCODED_AT_ONCE)]
        return torch.cat([q.mean for q in parts]), torch.cat([q.stddev for q in parts])
