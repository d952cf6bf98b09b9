"""Log-weights, and the lower bounds on log p(x) made of them: one value an image, in nats, larger is better."""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from pipeline.vae import VAE


class Elbo(NamedTuple):
    """The two terms of ELBO(x) = E_q[log p(x | z)] − KL[q(z | x) ‖ p(z)], nats an image; or their means."""

    reconstruction: Float[Tensor, "*batch"]
    kl: Float[Tensor, "*batch"]

    @property
    def value(self) -> Float[Tensor, "*batch"]:
        return self.reconstruction - self.kl


def reparameterise(
    q: Independent, noise: Float[Tensor, "samples batch latent"]
) -> Float[Tensor, "samples batch latent"]:
    """z = μ + s ε with ε ~ N(0, I) given: randomness stays in the caller's hand."""
    return q.mean + q.stddev * noise


def elbo(vae: VAE, x: Float[Tensor, "batch pixels"], noise: Float[Tensor, "samples batch latent"]) -> Elbo:
    """The ELBO's terms: the expectation by reparameterised sampling, the KL in closed form.

    Kingma & Welling 2014, equation 10.
    """
    q = vae.encoder(x)
    return Elbo(vae.decoder(reparameterise(q, noise)).log_prob(x).mean(0), kl_to_prior(vae, q))


def kl_to_prior(vae: VAE, q: Independent) -> Float[Tensor, " batch"]:
    """KL[q(z | x) ‖ p(z)] in closed form, nats."""
    # Of the coordinates: that of Independent distributions fails where there is no image.
    return kl_divergence(q.base_dist, vae.prior.base_dist).sum(-1)


@runtime_checkable
class Density(Protocol):
    """What a proposal must give for its samples to be weighed."""

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
    vae: VAE,
    x: Float[Tensor, "batch pixels"],
    proposal: Density,
    z: Float[Tensor, "samples batch latent"],
    at_once: int | None = None,
) -> LogWeights:
    """The weights of z ~ r(z | x), the proposal.

    E[w] = p(x) for any r that covers the posterior; with r = q(z | x), E[log w] is the ELBO
    (Burda et al. 2016, equation 8).

    Args:
        at_once: samples of each image that are decoded together; all of them without it.
    """
    likelihood = torch.cat([vae.decoder(some).log_prob(x) for some in z.split(at_once or len(z))])
    return LogWeights(likelihood, vae.prior.log_prob(z), proposal.log_prob(z))


def log_joint(
    vae: VAE, x: Float[Tensor, "*#batch pixels"], z: Float[Tensor, "*batch latent"]
) -> Float[Tensor, "*batch"]:
    """log p(x, z) = log p(x | z) + log p(z), nats."""
    return vae.decoder(z).log_prob(x) + vae.prior.log_prob(z)


def log_joint_gradient(
    vae: VAE, x: Float[Tensor, "*#batch pixels"], z: Float[Tensor, "*batch latent"]
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch latent"]]:
    """log p(x, z) and its gradient in z; the parameters of the model get none."""
    return with_gradient(lambda z: log_joint(vae, x, z), z)


def with_gradient(
    log_density: Callable[[Tensor], Tensor], z: Float[Tensor, "*batch latent"]
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch latent"]]:
    """A log-density of each z, and its gradient there."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        value = log_density(z)
        (gradient,) = torch.autograd.grad(value.sum(), z)
    return value.detach(), gradient
