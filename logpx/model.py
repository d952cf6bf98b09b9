"""What a latent-variable model must offer, and a model made of a decoder network and an observation model."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from logpx.data import Data, count, device_of, like, parts_of, select

# Layers whose result depends on the other images of a batch, or on chance, while they are in training mode.
NOISY_IN_TRAINING = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)


@runtime_checkable
class Model(Protocol):
    """A latent-variable model p(z | x's context) p(x | z), as three functions.

    x has `batch` images, as one tensor or a tuple of tensors, all with `batch` as their first dimension. z is
    (*samples, batch, latent): samples of each image. Log-densities are (*samples, batch), in nats. Usually the prior
    ignores x; if x holds a label y, it can be p(z | y).
    """

    def log_prior(self, z: Tensor, x: Any, /) -> Tensor: ...
    def log_likelihood(self, x: Any, z: Tensor, /) -> Tensor: ...
    def sample_prior(self, shape: tuple[int, ...], x: Any, /) -> Tensor: ...


@runtime_checkable
class HasLogProb(Protocol):
    """An observation model, as far as the estimator needs it: any object with this method."""

    def log_prob(self, x: Tensor, parameters: Tensor, /) -> Tensor: ...


@runtime_checkable
class Prior(Protocol):
    """A distribution over z: `log_prob` of (*batch, latent) is (*batch)."""

    def log_prob(self, z: Tensor, /) -> Tensor: ...
    def sample(self, shape: Any, /) -> Tensor: ...


@runtime_checkable
class Density(Protocol):
    """What importance sampling needs of a proposal to weigh its samples."""

    def log_prob(self, z: Float[Tensor, "samples batch latent"], /) -> Float[Tensor, "samples batch"]: ...


@dataclass(frozen=True)
class Decoder:
    """p(z) and p(x | z) from a network and an observation model; x is one tensor (batch, ...).

    Args:
        decode: z (n, latent) → the observation model's parameters (n, ...), or a tuple of them, one per feature. They
            are flattened: all pixels of the first feature, then of the second.
        observation: anything with `log_prob(x, parameters)` of flat images (..., pixels).
        prior: anything with `log_prob` and `sample`; None is N(0, I).

    Raises:
        ValueError: if a layer of `decode` is in training mode and its result then depends on the batch or on chance.

    >>> import logpx, torch
    >>> model = logpx.Decoder(torch.nn.Linear(2, 5), logpx.Bernoulli())
    >>> model.log_likelihood(torch.ones(3, 5), torch.zeros(10, 3, 2)).shape
    torch.Size([10, 3])
    """

    decode: Callable[[Tensor], Any]
    observation: HasLogProb
    prior: Prior | None = None

    def __post_init__(self) -> None:
        for name, layer in self.decode.named_modules() if isinstance(self.decode, nn.Module) else ():
            if layer.training and isinstance(layer, NOISY_IN_TRAINING):
                raise ValueError(
                    f"decode: layer {name or 'decode'} ({type(layer).__name__}) is in training mode, so that p(x | z) "
                    "would depend on the batch or on chance; call decode.eval() first"
                )

    def parameters(self, z: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch parameters"]:
        """The observation model's parameters, flat."""
        decoded = self.decode(z.reshape(-1, z.shape[-1]))
        parts = decoded if isinstance(decoded, tuple) else (decoded,)
        return torch.cat([part.flatten(1) for part in parts], 1).unflatten(0, z.shape[:-1])

    def log_likelihood(self, x: Tensor, z: Float[Tensor, "*samples batch latent"]) -> Float[Tensor, "*samples batch"]:
        """log p(x | z), nats."""
        return self.observation.log_prob(x.flatten(1), self.parameters(z))

    def log_prior(self, z: Float[Tensor, "*samples batch latent"], x: Any = None) -> Float[Tensor, "*samples batch"]:
        """log p(z), nats."""
        if self.prior is None:
            return -0.5 * (z.square().sum(-1) + z.shape[-1] * math.log(2 * math.pi))
        return self.prior.log_prob(z)

    def sample_prior(self, shape: tuple[int, ...], x: Data) -> Tensor:
        """z ~ p(z) for each image of x: (*shape, batch, latent)."""
        if self.prior is None:
            raise ValueError(
                "sample_prior: a Decoder does not know the dimensions of its default prior N(0, I); use torch.randn"
            )
        return self.prior.sample((*shape, count(x)))


def log_joint(model: Model, x: Data, z: Float[Tensor, "*samples batch latent"]) -> Float[Tensor, "*samples batch"]:
    """log p(x, z) = log p(x | z) + log p(z), nats."""
    return model.log_likelihood(x, z) + model.log_prior(z, x)


class LogWeights(NamedTuple):
    """log w = log p(x | z) + log p(z) − log r(z | x), term by term; nats."""

    likelihood: Float[Tensor, "samples batch"]
    prior: Float[Tensor, "samples batch"]
    proposal: Float[Tensor, "samples batch"]

    @property
    def value(self) -> Float[Tensor, "samples batch"]:
        return self.likelihood + self.prior - self.proposal


def log_weights(
    model: Model, x: Data, proposal: Density, z: Float[Tensor, "samples batch latent"], at_once: int | None = None
) -> LogWeights:
    """Log-weights of samples z ~ r(z | x) of a proposal.

    E[w] = p(x) for any r that covers the posterior. With r = q(z | x), E[log w] is the ELBO
    (Burda et al. 2016, equation 8).

    Args:
        at_once: samples of each image that are decoded together; None decodes all at once.
    """
    likelihood = torch.cat([model.log_likelihood(x, part) for part in z.split(at_once or len(z))])
    return LogWeights(likelihood, model.log_prior(z, x), proposal.log_prob(z))


def with_gradient(
    log_density: Callable[[Tensor], Tensor], z: Float[Tensor, "*batch latent"]
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch latent"]]:
    """A log-density at each z and its gradient there. A model's parameters get no gradient."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        value = log_density(z)
        (gradient,) = torch.autograd.grad(value.sum(), z)
    return value.detach(), gradient


def log_joint_gradient(
    model: Model, x: Data, z: Float[Tensor, "*samples batch latent"]
) -> tuple[Float[Tensor, "*samples batch"], Float[Tensor, "*samples batch latent"]]:
    """log p(x, z) and its gradient in z."""
    return with_gradient(lambda z: log_joint(model, x, z), z)


class Moments(NamedTuple):
    """Mean and standard deviation of a distribution over z, per image or one row for all; per coordinate."""

    mean: Float[Tensor, "#batch latent"]
    scale: Float[Tensor, "#batch latent"]


PRIOR_SAMPLES = 1024  # of a prior that is not N(0, I), for its moments


def check(model: Model, x: Data, latent: int) -> None:
    """Try the model on two samples of one image.

    Raises:
        ValueError: if x or the model's results have the wrong shape.
    """
    parts = parts_of(x)
    if any(part.ndim == 0 or len(part) != len(parts[0]) for part in parts):
        raise ValueError(f"x: all parts need the same first dimension, not {[tuple(part.shape) for part in parts]}")
    one = select(x, slice(1))
    z = torch.zeros(2, 1, latent).to(like(x))
    with torch.no_grad():
        for name, value in ("log_likelihood", model.log_likelihood(one, z)), ("log_prior", model.log_prior(z, one)):
            if value.shape != (2, 1):
                raise ValueError(
                    f"{name} of z {tuple(z.shape)} and one image has the shape {tuple(value.shape)}; (2, 1) is needed: "
                    "one log-density for each sample of each image"
                )


@torch.no_grad()
def prior_moments(model: Model, x: Data, latent: int, seed: int) -> Moments:
    """Mean and standard deviation of the prior: exact for N(0, I), of `PRIOR_SAMPLES` samples for any other.

    Each image gets the same noise whatever the batch.
    """
    if isinstance(model, Decoder) and model.prior is None:
        return Moments(torch.zeros(1, latent).to(like(x)), torch.ones(1, latent).to(like(x)))
    device = device_of(x)
    images = 1 if isinstance(model, Decoder) else count(x)  # a decoder's prior ignores x
    drawn = []
    for image in range(images):
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            drawn.append(model.sample_prior((PRIOR_SAMPLES,), select(x, slice(image, image + 1))))
    z = torch.cat(drawn, 1)
    return Moments(z.mean(0), z.std(0))
