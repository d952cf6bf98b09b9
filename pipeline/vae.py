"""The variational autoencoder (Kingma & Welling 2014): networks that return distributions.

`vae.encoder(x)` is q(z | x), `vae.decoder(z)` is p(x | z), `vae.prior` is p(z).
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from pipeline.config import Model
from pipeline.observations import Gaussian, GaussianObservation

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


def diagonal_gaussian(loc: Float[Tensor, "*batch dim"], scale: Float[Tensor, "*batch dim"]) -> Independent:
    """N(loc, diag scale²) over the last dimension, as one event."""
    return Independent(Normal(loc, scale, validate_args=False), 1, validate_args=False)


def mlp(sizes: Sequence[int], activation: str) -> nn.Sequential:
    """Linear layers between `sizes`, with the activation between them and none at the end."""
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        if i > 0:
            layers.append(ACTIVATIONS[activation]())
        layers.append(nn.Linear(inputs, outputs))
    return nn.Sequential(*layers)


class Encoder(nn.Module):
    """q(z | x) = N(μ(x), diag s²(x)); the network gives μ and log s."""

    def __init__(self, pixels: int, hidden: Sequence[int], latent: int, activation: str) -> None:
        super().__init__()
        self.network = mlp([pixels, *hidden, 2 * latent], activation)

    def forward(self, x: Float[Tensor, "*batch pixels"]) -> Independent:
        # Under mixed precision the distribution's own arithmetic stays in float32.
        mu, log_s = self.network(x).to(x.dtype).chunk(2, dim=-1)
        return diagonal_gaussian(mu, log_s.exp())


class Decoder(nn.Module):
    """p(x | z): a network and the observation model that reads its output."""

    def __init__(
        self, latent: int, hidden: Sequence[int], pixels: int, activation: str, observation: GaussianObservation
    ) -> None:
        super().__init__()
        self.network = mlp([latent, *hidden, pixels * observation.features], activation)
        self.observation = observation

    def mean(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch pixels"]:
        """f(z), the mean image."""
        return self(z).mean

    def forward(self, z: Float[Tensor, "*batch latent"]) -> Gaussian:
        return self.observation(self.network(z).to(z.dtype))


class VAE(nn.Module):
    """Prior N(0, I), encoder q(z | x) and decoder p(x | z), for images of `pixels` numbers in [0, 1]."""

    def __init__(self, settings: Model, pixels: int) -> None:
        super().__init__()
        self.latent = settings.latent
        self.encoder = Encoder(pixels, settings.encoder, settings.latent, settings.activation)
        self.decoder = Decoder(
            settings.latent, settings.decoder, pixels, settings.activation, GaussianObservation(settings.sigma)
        )
        # Buffers move with the model; not persistent, since they are no result of training.
        self.register_buffer("zero", torch.zeros(settings.latent), persistent=False)
        self.register_buffer("one", torch.ones(settings.latent), persistent=False)
        self.zero: Tensor
        self.one: Tensor

    @property
    def prior(self) -> Independent:
        """p(z) = N(0, I)."""
        return diagonal_gaussian(self.zero, self.one)
