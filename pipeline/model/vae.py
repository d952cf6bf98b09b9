"""The variational autoencoder (Kingma & Welling 2014).

`vae.prior` is p(z), `vae.decoder(z)` is p(x | z) and `vae.encoder(x)` is q(z | x). Each is a distribution.
"""

import torch
from torch import Tensor, nn
from torch.distributions import Independent

from logpx.observations.gaussian import Gaussian
from pipeline.config import Model
from pipeline.model.networks import Decoder, Encoder, diagonal_gaussian


class VAE(nn.Module):
    """Prior p(z) = N(0, I), decoder p(x | z) = N(f(z), σ² I) and encoder q(z | x) = N(μ(x), diag s²(x)).

    Args:
        settings: sizes of the networks, and σ.
        pixels: pixels of an image; their values lie in [0, 1].
    """

    def __init__(self, settings: Model, pixels: int) -> None:
        super().__init__()
        self.latent, self.pixels = settings.latent, pixels
        self.encoder = Encoder(pixels, settings.encoder, settings.latent, settings.activation)
        self.decoder = Decoder(settings.latent, settings.decoder, pixels, settings.activation, Gaussian(settings.sigma))
        # Buffers move to a device with the model. They are not saved, since training does not change them.
        self.register_buffer("zero", torch.zeros(settings.latent), persistent=False)
        self.register_buffer("one", torch.ones(settings.latent), persistent=False)
        self.zero: Tensor
        self.one: Tensor

    @property
    def prior(self) -> Independent:
        """p(z) = N(0, I)."""
        return diagonal_gaussian(self.zero, self.one)
