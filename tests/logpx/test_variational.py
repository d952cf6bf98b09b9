"""The best diagonal Gaussian: for the linear model it is known."""

import torch

from logpx.variational import best_gaussian
from pipeline.evaluation.settings import joint
from pipeline.model.vae import VAE
from tests.support import Linear


def best(vae: VAE, x: torch.Tensor, **settings: int) -> torch.Tensor:
    return best_gaussian(joint(vae), x, start=vae.encode(x), **settings)


def test_the_best_diagonal_gaussian_is_found_from_a_wrong_encoder(generator: torch.Generator) -> None:
    """Its mean is the posterior's, its variances are 1 / M_ii: ELBO = log p(x) − ½ (Σ log M_ii − log |M|)."""
    w = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    skewed = Linear(w, torch.randn(7, generator=generator, dtype=torch.float64), 0.3)
    x = skewed.sample(6, generator)
    gap = 0.5 * (skewed.precision.diagonal().log().sum() - skewed.precision.logdet())
    assert gap > 0.1
    found = best(skewed.vae(scale=2.0, shift=0.2), x, samples=16, steps=300, seed=0, chunk=10_000)
    # The fresh noise of 128 samples: an ELBO's standard error is about 0.15 nats here. Fails for one seed in 10 000.
    assert (found - (skewed.log_px(x) - gap)).abs().max() < 0.7
    assert (found - (skewed.log_px(x) - gap)).mean().abs() < 0.3


def test_a_diagonal_posterior_leaves_no_gap(linear: Linear, generator: torch.Generator) -> None:
    x = linear.sample(6, generator)
    found = best(linear.vae(scale=0.5), x, samples=8, steps=200, seed=0, chunk=10_000)
    torch.testing.assert_close(found, linear.log_px(x), rtol=0, atol=0.5)


def test_a_best_elbo_does_not_depend_on_its_batch(linear: Linear, generator: torch.Generator) -> None:
    # Shifted, because Adam turns gradients that are pure rounding into full steps.
    vae, x = linear.vae(scale=2.0, shift=0.3), linear.sample(5, generator)
    together = best(vae, x, samples=4, steps=20, seed=0, chunk=10_000)
    torch.testing.assert_close(best(vae, x, samples=4, steps=20, seed=0, chunk=128), together, rtol=0, atol=1e-9)
    assert all(parameter.grad is None for parameter in vae.decoder.network.parameters())
