"""The ELBO against closed forms of a linear-Gaussian model."""

import math

import torch
from sklearn.decomposition import PCA
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from logpx.model import log_weights
from pipeline.evaluation.settings import joint
from pipeline.model.objectives import elbo, kl_to_prior, reparameterise
from pipeline.model.vae import VAE
from tests.support import Linear


def noise(samples: int, x: torch.Tensor, vae: VAE, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(samples, len(x), vae.latent, generator=generator, dtype=x.dtype)


def sigma_points(latent: int) -> torch.Tensor:
    """2·latent equally weighted points that integrate quadratics under N(0, I) exactly."""
    unit = math.sqrt(latent) * torch.eye(latent, dtype=torch.float64)
    return torch.cat([unit, -unit])[:, None]


def test_the_elbo_is_log_px_less_the_kl_to_the_posterior(linear: Linear, generator: torch.Generator) -> None:
    vae, x = linear.vae(scale=1.7, shift=0.1), linear.sample(4, generator)
    q = vae.encoder(x)
    posterior = MultivariateNormal(linear.posterior_mean(x), linear.precision.inverse())
    gap = kl_divergence(MultivariateNormal(q.mean, q.stddev.square().diag_embed()), posterior)
    # log p(x | z) is quadratic in z, so the expectation is exact.
    terms = elbo(vae, x, sigma_points(3).expand(-1, len(x), -1))
    torch.testing.assert_close(terms.value, linear.log_px(x) - gap, rtol=0, atol=1e-9)


def test_the_reconstruction_term_is_the_mean_log_likelihood(linear: Linear, generator: torch.Generator) -> None:
    vae, x = linear.vae(scale=1.3), linear.sample(3, generator)
    eps = noise(8, x, vae, generator)
    q = vae.encoder(x)
    terms, log_w = elbo(vae, x, eps), log_weights(joint(vae), x, q, reparameterise(q, eps))
    torch.testing.assert_close(terms.reconstruction, log_w.likelihood.mean(0), rtol=0, atol=1e-12)
    torch.testing.assert_close(terms.value, terms.reconstruction - terms.kl, rtol=0, atol=0)


def test_the_kl_is_that_of_full_gaussians(linear: Linear, generator: torch.Generator) -> None:
    vae, x = linear.vae(scale=0.6, shift=-0.4), linear.sample(3, generator)
    q = vae.encoder(x)
    full = MultivariateNormal(q.mean, q.stddev.square().diag_embed())
    expected = kl_divergence(full, MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double()))
    torch.testing.assert_close(elbo(vae, x, noise(1, x, vae, generator)).kl, expected, rtol=1e-12, atol=1e-12)


def test_an_empty_batch_has_no_kl(linear: Linear) -> None:
    vae = linear.vae()
    assert kl_to_prior(vae, vae.encoder(torch.zeros(0, 7).double())).shape == (0,)


def test_reparameterisation_shifts_and_scales_the_noise() -> None:
    q = Independent(Normal(torch.tensor([[1.0, -1.0]]), torch.tensor([[0.5, 2.0]])), 1)
    assert torch.equal(reparameterise(q, torch.tensor([[[2.0, -1.0]]])), torch.tensor([[[2.0, -3.0]]]))


def test_at_the_maximum_of_probabilistic_pca_the_elbo_is_exact_and_its_gradient_vanishes(
    linear: Linear, generator: torch.Generator
) -> None:
    """Scikit-learn confirms the likelihood there.

    Tipping & Bishop 1999, section 3.2: W = U (Λ − σ²I)^½, σ² the mean of the discarded eigenvalues.
    """
    x = linear.sample(200, generator)
    pca = PCA(n_components=3).fit(x.numpy())
    # scikit-learn estimates the covariance with n − 1, and its maximum is that of the likelihood with this covariance.
    sigma = math.sqrt(pca.noise_variance_)
    components = torch.from_numpy(pca.components_)
    w = components.T * (torch.from_numpy(pca.explained_variance_) - sigma**2).sqrt()
    model = Linear(w, torch.from_numpy(pca.mean_), sigma)
    vae = model.vae()
    witness = torch.from_numpy(pca.score_samples(x.numpy()))
    torch.testing.assert_close(model.log_px(x), witness, rtol=0, atol=1e-9)

    points = sigma_points(3).expand(-1, len(x), -1)
    torch.testing.assert_close(elbo(vae, x, points).value, witness, rtol=0, atol=1e-9)

    # Stretched about their mean, the data have the covariance with n − 1 as the one with n.
    stretched = (x - model.b) * math.sqrt(len(x) / (len(x) - 1)) + model.b
    elbo(vae, stretched, points).value.mean().backward()
    decoder = vae.decoder.network[0]
    assert isinstance(decoder, nn.Linear)
    assert decoder.weight.grad is not None
    assert float(decoder.weight.grad.abs().max()) < 1e-9
    assert float(vae.encoder(x).mean.detach().abs().max()) > 1  # the data are not degenerate
