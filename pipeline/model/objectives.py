"""Training objectives: lower bounds on log p(x). One value per image in nats; larger is better."""

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


def reparameterise(
    q: Independent, noise: Float[Tensor, "samples batch latent"]
) -> Float[Tensor, "samples batch latent"]:
    """z = μ + s ε, samples of q if ε ~ N(0, I). The caller draws ε."""
    return q.mean + q.stddev * noise


def elbo(vae: VAE, x: Float[Tensor, "batch pixels"], noise: Float[Tensor, "samples batch latent"]) -> Elbo:
    """The ELBO of each image: the expectation by reparameterised samples of q, the KL in closed form.

    Kingma & Welling 2014, equation 10.

    Args:
        x: dequantised images in [0, 1].
        noise: ε ~ N(0, I); the expectation is a mean over `samples`.
    """
    q = vae.encoder(x)
    return Elbo(vae.decoder(reparameterise(q, noise)).log_prob(x).mean(0), kl_to_prior(vae, q))


def kl_to_prior(vae: VAE, q: Independent) -> Float[Tensor, " batch"]:
    """KL[q(z | x) ‖ p(z)] of each image in closed form, in nats (Kingma & Welling 2014, appendix B)."""
    # Per coordinate, then summed: PyTorch's KL of Independent distributions fails for an empty batch.
    return kl_divergence(q.base_dist, vae.prior.base_dist).sum(-1)
