"""Training objectives: functions of samples of q(z | x). One value per image in nats; larger is better.

To add one, write its function here, enter it in `OBJECTIVES`, and add its name to `pipeline/config.py`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor
from torch.distributions import Independent, kl_divergence

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
    """Samples z of q(z | x) of each image of a batch, and log p(x | z). Every objective is a function of them."""

    vae: VAE
    q: Independent
    z: Float[Tensor, "samples batch latent"]
    log_likelihood: Float[Tensor, "samples batch"]

    @cached_property
    def elbo(self) -> Elbo:
        """The expectation as a mean over the samples, the KL in closed form (Kingma & Welling 2014, equation 10)."""
        return Elbo(self.log_likelihood.mean(0), kl_to_prior(self.vae, self.q))

    @property
    def log_weights(self) -> Float[Tensor, "samples batch"]:
        """log w = log p(x | z) + log p(z) − log q(z | x)."""
        return self.log_likelihood + self.vae.prior.log_prob(self.z) - self.q.log_prob(self.z)


def draw(vae: VAE, x: Float[Tensor, "batch pixels"], noise: Float[Tensor, "samples batch latent"]) -> PosteriorSamples:
    """Reparameterised samples of q(z | x).

    Args:
        x: images as the model reads them, in [0, 1].
        noise: ε ~ N(0, I).
    """
    q = vae.encoder(x)
    z = reparameterise(q, noise)
    return PosteriorSamples(vae, q, z, vae.decoder(z).log_prob(x))


def reparameterise(
    q: Independent, noise: Float[Tensor, "samples batch latent"]
) -> Float[Tensor, "samples batch latent"]:
    """z = μ + s ε, samples of q if ε ~ N(0, I). The caller draws ε."""
    return q.mean + q.stddev * noise


def kl_to_prior(vae: VAE, q: Independent) -> Float[Tensor, " batch"]:
    """KL[q(z | x) ‖ p(z)] of each image in closed form, in nats (Kingma & Welling 2014, appendix B)."""
    # Per coordinate, then summed: PyTorch's KL of Independent distributions fails for an empty batch.
    return kl_divergence(q.base_dist, vae.prior.base_dist).sum(-1)


def elbo(samples: PosteriorSamples, beta: Tensor) -> Float[Tensor, " batch"]:
    """E_q[log p(x | z)] − KL[q(z | x) ‖ p(z)]."""
    return samples.elbo.value


def beta_elbo(samples: PosteriorSamples, beta: Tensor) -> Float[Tensor, " batch"]:
    """E_q[log p(x | z)] − β KL[q(z | x) ‖ p(z)] (Higgins et al. 2017, equation 4). With β < 1 it is no bound."""
    return samples.elbo.reconstruction - beta * samples.elbo.kl


def iwae(samples: PosteriorSamples, beta: Tensor) -> Float[Tensor, " batch"]:
    """log 1/k Σ w, the importance-weighted bound of k samples (Burda et al. 2016, equation 8)."""
    log_w = samples.log_weights
    return log_w.logsumexp(0) - math.log(len(log_w))


Objective = Callable[[PosteriorSamples, Tensor], Tensor]
OBJECTIVES: dict[str, Objective] = {"elbo": elbo, "beta": beta_elbo, "iwae": iwae}
