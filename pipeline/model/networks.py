"""Networks that return distributions: the encoder gives q(z | x), the decoder p(x | z)."""

from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from logpx.observations.distribution import ImageDistribution
from logpx.observations.gaussian import Gaussian

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


def diagonal_gaussian(loc: Float[Tensor, "*batch dim"], scale: Float[Tensor, "*batch dim"]) -> Independent:
    """N(loc, diag scale²), a distribution over vectors: `log_prob` sums over the last dimension."""
    return Independent(Normal(loc, scale, validate_args=False), 1, validate_args=False)


def mlp(sizes: Sequence[int], activation: str) -> nn.Sequential:
    """Linear layers from each size to the next, with the activation between layers but not after the last."""
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        if i > 0:
            layers.append(ACTIVATIONS[activation]())
        layers.append(nn.Linear(inputs, outputs))
    return nn.Sequential(*layers)


class Encoder(nn.Module):
    """q(z | x) = N(μ(x), diag s²(x)), the approximate posterior. The network computes μ and log s.

    Kingma & Welling 2014, appendix C.2.

    Args:
        pixels: pixels of an image.
        hidden: sizes of the hidden layers, from the image to z.
        latent: dimensions of z.
        activation: a key of `ACTIVATIONS`.
    """

    def __init__(self, pixels: int, hidden: Sequence[int], latent: int, activation: str) -> None:
        super().__init__()
        self.network = mlp([pixels, *hidden, 2 * latent], activation)

    def forward(self, x: Float[Tensor, "*batch pixels"]) -> Independent:
        # Under mixed precision only the network computes in bfloat16, the distribution in the precision of x.
        mu, log_s = self.network(x).to(x.dtype).chunk(2, dim=-1)
        return diagonal_gaussian(mu, log_s.exp())


class Decoder(nn.Module):
    """p(x | z), the likelihood. A network computes the parameters of an observation model.

    Args:
        latent: dimensions of z.
        hidden: sizes of the hidden layers, from z to the image.
        pixels: pixels of an image.
        activation: a key of `ACTIVATIONS`.
        observation: the family of distributions over images; it takes `observation.features` parameters per pixel.
    """

    def __init__(self, latent: int, hidden: Sequence[int], pixels: int, activation: str, observation: Gaussian) -> None:
        super().__init__()
        self.network = mlp([latent, *hidden, pixels * observation.features], activation)
        self.observation = observation
        self.link: nn.Module = nn.Sigmoid()  # means lie in [0, 1]

    def forward(self, z: Float[Tensor, "*batch latent"]) -> ImageDistribution:
        # Under mixed precision only the network computes in bfloat16.
        return ImageDistribution(self.observation, self.link(self.network(z).to(z.dtype)))
