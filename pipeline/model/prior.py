"""The prior p(z), or p(z | y): the distribution of z = g(ε), ε ~ N(0, I).

To add one, write its case in `Prior`, and add its name to `pipeline/config.py`.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from pipeline.config import Model
from pipeline.model.flow import Flow
from pipeline.model.labels import Labels


class Prior(nn.Module):
    """p(z), or p(z | y) of a model with classes.

    normal: N(0, I), whatever the class; g is the identity. flow: g is a normalising flow, which depends on the class.

    Args:
        classes: number of classes that the prior depends on; 0 for a model without.
    """

    def __init__(self, settings: Model, classes: int) -> None:
        super().__init__()
        self.flow = Flow(settings.latent, settings.couplings, classes) if settings.prior == "flow" else None
        # Buffers move to a device with the model. They are not saved, since training does not change them.
        self.register_buffer("zero", torch.zeros(settings.latent), persistent=False)
        self.register_buffer("one", torch.ones(settings.latent), persistent=False)
        self.zero: Tensor
        self.one: Tensor

    def forward(self, y: Labels = None) -> "Independent | FlowDistribution":
        """p(z | y) for labels (*batch): `log_prob` of z (*samples, *batch, latent)."""
        normal = diagonal_gaussian(self.zero, self.one)
        return normal if self.flow is None else FlowDistribution(self.flow, normal, y)

    def from_noise(self, noise: Float[Tensor, "*batch latent"], y: Labels = None) -> Float[Tensor, "*batch latent"]:
        """z = g(ε)."""
        return noise if self.flow is None else self.flow.from_noise(noise, y)

    def to_noise(self, z: Float[Tensor, "*batch latent"], y: Labels = None) -> Float[Tensor, "*batch latent"]:
        """ε = g⁻¹(z)."""
        return z if self.flow is None else self.flow.to_noise(z, y)[0]


@dataclass(frozen=True)
class FlowDistribution:
    """The distribution of z = g(ε), ε ~ `normal`, for labels y (*batch)."""

    flow: Flow
    normal: Independent
    y: Labels

    def log_prob(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch"]:
        """log N(g⁻¹(z)) + log |det ∂g⁻¹/∂z|, in nats."""
        noise, log_determinant = self.flow.to_noise(z, self.y)
        return self.normal.log_prob(noise) + log_determinant

    def sample(self, shape: tuple[int, ...]) -> Float[Tensor, "*shape latent"]:
        """Draw z with the global generator; the last dimension of `shape` is that of the labels."""
        return self.flow.from_noise(self.normal.sample(shape), self.y)


class DiagonalGaussian(Independent):
    """A normal distribution per coordinate. PyTorch's own class fails for an empty batch, which a process may have."""

    def log_prob(self, value: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        return self.base_dist.log_prob(value).sum(-1)


def diagonal_gaussian(loc: Float[Tensor, "*batch dim"], scale: Float[Tensor, "*batch dim"]) -> Independent:
    """N(loc, diag scale²), a distribution over vectors: `log_prob` sums over the last dimension."""
    return DiagonalGaussian(Normal(loc, scale, validate_args=False), 1, validate_args=False)
