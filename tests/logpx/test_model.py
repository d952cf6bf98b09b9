"""Log-weights and the log-joint against closed forms of a linear-Gaussian model."""

import math

import torch
from torch.distributions import MultivariateNormal, kl_divergence

from logpx.model import log_joint, log_joint_gradient, log_weights
from pipeline.evaluation.settings import joint
from tests.support import Linear


def test_with_the_exact_posterior_every_log_weight_is_log_px(linear: Linear, generator: torch.Generator) -> None:
    vae, x = linear.vae(), linear.sample(5, generator)
    q = vae.encoder(x)
    z = q.mean + q.stddev * torch.randn(11, 5, 3, generator=generator, dtype=x.dtype)
    log_w = log_weights(joint(vae), x, q, z).value
    torch.testing.assert_close(log_w, linear.log_px(x).expand(11, 5), rtol=0, atol=1e-10)


def test_with_another_proposal_the_mean_log_weight_is_short_by_its_kl(
    linear: Linear, generator: torch.Generator
) -> None:
    vae, x = linear.vae(scale=1.7, shift=0.1), linear.sample(4, generator)
    q = vae.encoder(x)
    posterior = MultivariateNormal(linear.posterior_mean(x), linear.precision.inverse())
    gap = kl_divergence(MultivariateNormal(q.mean, q.stddev.square().diag_embed()), posterior)
    z = q.mean + q.stddev * torch.randn(40_000, 4, 3, generator=generator, dtype=x.dtype)
    log_w = log_weights(joint(vae), x, q, z).value
    standard_error = log_w.std(0) / math.sqrt(len(log_w))
    # Four images at 4.5 standard errors: fails for one seed in 37 000, and the seed is fixed.
    assert ((log_w.mean(0) - (linear.log_px(x) - gap)).abs() < 4.5 * standard_error).all()
    assert (gap > 20 * standard_error).all()  # the test would notice a missing gap


def test_log_weights_do_not_depend_on_how_many_samples_are_decoded_at_once(
    linear: Linear, generator: torch.Generator
) -> None:
    vae, x = linear.vae(scale=1.3), linear.sample(2, generator)
    z = torch.randn(7, 2, 3, generator=generator, dtype=x.dtype)
    together = log_weights(joint(vae), x, vae.encoder(x), z)
    for at_once in (1, 3, 100):
        torch.testing.assert_close(log_weights(joint(vae), x, vae.encoder(x), z, at_once), together, rtol=0, atol=1e-12)


def test_the_log_joint_is_log_px_plus_the_log_posterior(linear: Linear, generator: torch.Generator) -> None:
    vae, x = linear.vae(), linear.sample(5, generator)
    z = torch.randn(6, 5, 3, generator=generator, dtype=x.dtype)
    posterior = MultivariateNormal(linear.posterior_mean(x), linear.precision.inverse())
    expected = linear.log_px(x) + posterior.log_prob(z)
    torch.testing.assert_close(log_joint(joint(vae), x, z), expected, rtol=0, atol=1e-9)


def test_the_gradient_of_the_log_joint_is_that_of_the_posterior(linear: Linear, generator: torch.Generator) -> None:
    vae, x = linear.vae(), linear.sample(5, generator)
    z = torch.randn(6, 5, 3, generator=generator, dtype=x.dtype)
    with torch.no_grad():  # it turns gradients on for itself
        value, gradient = log_joint_gradient(joint(vae), x, z)
    torch.testing.assert_close(value, log_joint(joint(vae), x, z).detach(), rtol=0, atol=1e-12)
    expected = (linear.posterior_mean(x) - z) @ linear.precision
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-9)
    assert not value.requires_grad
    assert all(parameter.grad is None for parameter in vae.parameters())
