"""Training objectives: functions of samples of q(z | x). One value per image in nats; larger is better.

To add one, write its function here, enter it in `OBJECTIVES`, and add its name to `pipeline/config.py`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from pipeline.model.labels import Labels
from pipeline.model.prior import diagonal_gaussian
from pipeline.model.vae import VAE


class Elbo(NamedTuple):
    """The two terms of ELBO(x) = E_q[log p(x | z)] − KL[q(z | x) ‖ p(z)] ≤ log p(x), in nats per image.

    Kingma & Welling 2014, equation 3.
    """

    reconstruction: Float[Tensor, "*batch"]
    kl: Float[Tensor, "*batch"]

    @property
    def value(self) -> Float[Tensor, "*batch"]:
        """The ELBO."""
        return self.reconstruction - self.kl


@dataclass(frozen=True)
class PosteriorSamples:
    """Samples z of q(z | x, y) of each image of a batch, and log p(x | z, y). Every objective is a function of them."""

    vae: VAE
    y: Labels
    q: Independent
    z: Float[Tensor, "samples batch latent"]
    log_likelihood: Float[Tensor, "samples batch"]

    @cached_property
    def elbo(self) -> Elbo:
        """The expectation as a mean over the samples (Kingma & Welling 2014, equation 10), and the KL."""
        return Elbo(self.log_likelihood.mean(0), self.kl)

    @property
    def kl(self) -> Float[Tensor, " batch"]:
        """KL[q(z | x, y) ‖ p(z | y)]: in closed form if the prior is N(0, I), else as a mean over the samples."""
        if self.vae.prior.flow is None:
            return kl_to_normal(self.q)
        return (self.q.log_prob(self.z) - self.log_prior).mean(0)

    @cached_property
    def log_prior(self) -> Float[Tensor, "samples batch"]:
        """log p(z | y). Without mixed precision: in bfloat16, couplings would lose digits of the density."""
        with torch.autocast(self.z.device.type, enabled=False):
            return self.vae.prior(self.y).log_prob(self.z)

    @property
    def log_weights(self) -> Float[Tensor, "samples batch"]:
        """log w = log p(x | z, y) + log p(z | y) − log q(z | x, y).

        Its gradient in the encoder goes through z only: the parameters of log q(z | x, y) are constants.
        """
        fixed = diagonal_gaussian(self.q.mean.detach(), self.q.stddev.detach())
        return self.log_likelihood + self.log_prior - fixed.log_prob(self.z)


def draw(
    vae: VAE, x: Float[Tensor, "batch pixels"], noise: Float[Tensor, "samples batch latent"], y: Labels = None
) -> PosteriorSamples:
    """Reparameterised samples of q(z | x, y).

    Args:
        x: images as the model reads them, in [0, 1].
        noise: ε ~ N(0, I).
        y: the images' labels; a model that is not conditional ignores them.
    """
    return samples_of(vae, vae.encoder(x, y), x, noise, y)


def samples_of(
    vae: VAE,
    q: Independent,
    x: Float[Tensor, "batch pixels"],
    noise: Float[Tensor, "samples batch latent"],
    y: Labels,
) -> PosteriorSamples:
    """The same for a known q = q(z | x, y)."""
    z = reparameterise(q, noise)
    return PosteriorSamples(vae, y, q, z, vae.decoder(z, y).log_prob(x))


def reparameterise(
    q: Independent, noise: Float[Tensor, "samples batch latent"]
) -> Float[Tensor, "samples batch latent"]:
    """z = μ + s ε, samples of q if ε ~ N(0, I). The caller draws ε."""
    return q.mean + q.stddev * noise


def kl_to_normal(q: Independent) -> Float[Tensor, " batch"]:
    """KL[q ‖ N(0, I)] of each image in closed form, in nats (Kingma & Welling 2014, appendix B)."""
    # Per coordinate, then summed: PyTorch's KL of Independent distributions fails for an empty batch.
    zero = q.mean.new_zeros(())
    return kl_divergence(q.base_dist, Normal(zero, zero + 1, validate_args=False)).sum(-1)


def elbo(samples: PosteriorSamples, beta: Tensor) -> Float[Tensor, " batch"]:
    """E_q[log p(x | z)] − KL[q(z | x) ‖ p(z)]."""
    return samples.elbo.value


def beta_elbo(samples: PosteriorSamples, beta: Tensor) -> Float[Tensor, " batch"]:
    """E_q[log p(x | z)] − β KL[q(z | x) ‖ p(z)] (Higgins et al. 2017, equation 4). With β < 1 it is no bound."""
    return samples.elbo.reconstruction - beta * samples.elbo.kl


def iwae(samples: PosteriorSamples, beta: Tensor) -> Float[Tensor, " batch"]:
    """log 1/k Σ w, the importance-weighted bound of k samples (Burda et al. 2016, equation 8).

    Its gradient in the encoder's weights φ is the doubly reparameterised one of Tucker et al. 2019, section 4:
    Σ w̃² (∂ log w / ∂z) (∂z / ∂φ) with w̃ = w / Σ w. Its expectation is that of the plain gradient; its noise is less,
    most of all with many samples.
    """
    log_w = samples.log_weights
    share = log_w.detach().softmax(0)[..., None]
    if samples.z.requires_grad:  # the gradient of the bound in z has one factor w̃ already
        samples.z.register_hook(lambda gradient: share * gradient)
    return log_w.logsumexp(0) - math.log(len(log_w))


Objective = Callable[[PosteriorSamples, Tensor], Tensor]
OBJECTIVES: dict[str, Objective] = {"elbo": elbo, "beta": beta_elbo, "iwae": iwae}
