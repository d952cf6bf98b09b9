"""What the estimator needs of a latent-variable model, and what follows from it: log-weights and the log-joint."""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Independent

from logpx.observations.gaussian import Gaussian, GaussianObservation


@runtime_checkable
class Decoder(Protocol):
    """p(x | z): a chain of linear layers and elementwise functions, and the observation model at its end."""

    @property
    def network(self) -> nn.Sequential: ...
    @property
    def observation(self) -> GaussianObservation: ...
    def __call__(self, z: Float[Tensor, "*batch latent"], /) -> Gaussian: ...


@runtime_checkable
class Model(Protocol):
    """A latent-variable model: prior p(z), decoder p(x | z), and an encoder q(z | x) to start from.

    `latent` is the number of dimensions of z.
    """

    latent: int

    @property
    def prior(self) -> Independent: ...
    @property
    def encoder(self) -> Callable[[Tensor], Independent]: ...
    @property
    def decoder(self) -> Decoder: ...


@runtime_checkable
class Density(Protocol):
    """What importance sampling needs of a proposal to weigh its samples."""

    def log_prob(self, z: Float[Tensor, "samples batch latent"], /) -> Float[Tensor, "samples batch"]: ...


class LogWeights(NamedTuple):
    """log w = log p(x | z) + log p(z) − log r(z | x), term by term; nats."""

    likelihood: Float[Tensor, "samples batch"]
    prior: Float[Tensor, "samples batch"]
    proposal: Float[Tensor, "samples batch"]

    @property
    def value(self) -> Float[Tensor, "samples batch"]:
        return self.likelihood + self.prior - self.proposal


def log_weights(
    model: Model,
    x: Float[Tensor, "batch pixels"],
    proposal: Density,
    z: Float[Tensor, "samples batch latent"],
    at_once: int | None = None,
) -> LogWeights:
    """Log-weights of samples z ~ r(z | x) of a proposal.

    E[w] = p(x) for any r that covers the posterior. With r = q(z | x), E[log w] is the ELBO
    (Burda et al. 2016, equation 8).

    Args:
        at_once: samples of each image that are decoded together; None decodes all at once.
    """
    likelihood = torch.cat([model.decoder(part).log_prob(x) for part in z.split(at_once or len(z))])
    return LogWeights(likelihood, model.prior.log_prob(z), proposal.log_prob(z))


def log_joint(
    model: Model, x: Float[Tensor, "*#batch pixels"], z: Float[Tensor, "*batch latent"]
) -> Float[Tensor, "*batch"]:
    """log p(x, z) = log p(x | z) + log p(z), nats."""
    return model.decoder(z).log_prob(x) + model.prior.log_prob(z)


def log_joint_gradient(
    model: Model, x: Float[Tensor, "*#batch pixels"], z: Float[Tensor, "*batch latent"]
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch latent"]]:
    """log p(x, z) and its gradient in z. The model's parameters get no gradient."""
    return with_gradient(lambda z: log_joint(model, x, z), z)


def with_gradient(
    log_density: Callable[[Tensor], Tensor], z: Float[Tensor, "*batch latent"]
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch latent"]]:
    """A log-density at each z and its gradient there."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        value = log_density(z)
        (gradient,) = torch.autograd.grad(value.sum(), z)
    return value.detach(), gradient
