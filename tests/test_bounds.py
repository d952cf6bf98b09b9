"""The oracle: on a linear-Gaussian model every quantity has a closed form."""

import math

import torch
from conftest import Linear
from sklearn.decomposition import PCA
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from pipeline.bounds import elbo, log_weights, reparameterise
from pipeline.vae import VAE


def noise(samples: int, x: torch.Tensor, vae: VAE, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(samples, len(x), vae.latent, generator=generator, dtype=x.dtype)


def test_with_the_exact_posterior_every_weight_is_the_density(linear: Linear, generator: torch.Generator) -> None:
    vae, x = linear.vae(), linear.sample(5, generator)
    q = vae.encoder(x)
    log_w = log_weights(vae, x, q, reparameterise(q, noise(11, x, vae, generator))).value
    torch.testing.assert_close(log_w, linear.log_px(x).expand(11, 5), rtol=0, atol=1e-10)


def test_with_a_wrong_encoder_the_elbo_falls_short_by_the_kl(linear: Linear, generator: torch.Generator) -> None:
    vae, x = linear.vae(scale=1.7, shift=0.1), linear.sample(4, generator)
    q = vae.encoder(x)
    posterior = MultivariateNormal(linear.posterior_mean(x), linear.precision.inverse())
    gap = kl_divergence(MultivariateNormal(q.mean, q.stddev.square().diag_embed()), posterior)
    log_w = log_weights(vae, x, q, reparameterise(q, noise(40_000, x, vae, generator))).value
    standard_error = log_w.std(0) / math.sqrt(len(log_w))
    # Four images at 4.5 standard errors: fails for one seed in 37 000, and the seed is fixed.
    assert ((log_w.mean(0) - (linear.log_px(x) - gap)).abs() < 4.5 * standard_error).all()
    assert (gap > 20 * standard_error).all()  # else the gap could be left out unseen


def test_elbo_terms_are_those_of_the_log_weights(linear: Linear, generator: torch.Generator) -> None:
    vae, x = linear.vae(scale=1.3), linear.sample(3, generator)
    eps = noise(8, x, vae, generator)
    q = vae.encoder(x)
    terms, log_w = elbo(vae, x, eps), log_weights(vae, x, q, reparameterise(q, eps))
    torch.testing.assert_close(terms.reconstruction, log_w.likelihood.mean(0), rtol=0, atol=1e-12)
    torch.testing.assert_close(terms.value, terms.reconstruction - terms.kl, rtol=0, atol=0)


def test_closed_form_kl_is_that_of_a_full_gaussian(linear: Linear, generator: torch.Generator) -> None:
    vae, x = linear.vae(scale=0.6, shift=-0.4), linear.sample(3, generator)
    q = vae.encoder(x)
    full = MultivariateNormal(q.mean, q.stddev.square().diag_embed())
    prior = MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double())
    expected = kl_divergence(full, prior)
    torch.testing.assert_close(elbo(vae, x, noise(1, x, vae, generator)).kl, expected, rtol=1e-12, atol=1e-12)


def test_reparameterisation_moves_and_scales_the_noise_it_is_given() -> None:
    q = Independent(Normal(torch.tensor([[1.0, -1.0]]), torch.tensor([[0.5, 2.0]])), 1)
    assert torch.equal(reparameterise(q, torch.tensor([[[2.0, -1.0]]])), torch.tensor([[[2.0, -3.0]]]))


def test_probabilistic_pca_at_its_maximum(linear: Linear, generator: torch.Generator) -> None:
    """There the ELBO is the closed-form likelihood, its gradient vanishes, and scikit-learn agrees.

    Tipping & Bishop 1999, section 3.2: W = U (Λ − σ²I)^½, σ² the mean of the discarded eigenvalues.
    """
    x = linear.sample(200, generator)
    pca = PCA(n_components=3).fit(x.numpy())
    # scikit-learn estimates the covariance with n − 1, under which its own maximum is measured.
    sigma = math.sqrt(pca.noise_variance_)
    components = torch.from_numpy(pca.components_)
    w = components.T * (torch.from_numpy(pca.explained_variance_) - sigma**2).sqrt()
    model = Linear(w, torch.from_numpy(pca.mean_), sigma)
    vae = model.vae()
    witness = torch.from_numpy(pca.score_samples(x.numpy()))
    torch.testing.assert_close(model.log_px(x), witness, rtol=0, atol=1e-9)

    q = vae.encoder(x)
    points = sigma_points(3)
    weighted = elbo(vae, x, points.expand(-1, len(x), -1))
    torch.testing.assert_close(weighted.value, witness, rtol=0, atol=1e-9)

    # At the maximum likelihood under the n − 1 covariance: average gradient over data rescaled to match it.
    stretched = (x - model.b) * math.sqrt(len(x) / (len(x) - 1)) + model.b
    vae.zero_grad()
    elbo(vae, stretched, points.expand(-1, len(x), -1)).value.mean().backward()
    decoder = vae.decoder.network[0]
    assert isinstance(decoder, nn.Linear)
    assert decoder.weight.grad is not None
    assert float(decoder.weight.grad.abs().max()) < 1e-9
    assert float(q.mean.detach().abs().max()) > 1  # the data are far from degenerate


def sigma_points(latent: int) -> torch.Tensor:
    """2·latent points of weight 1/(2·latent) that integrate quadratics under N(0, I) exactly."""
    unit = math.sqrt(latent) * torch.eye(latent, dtype=torch.float64)
    return torch.cat([unit, -unit])[:, None]
