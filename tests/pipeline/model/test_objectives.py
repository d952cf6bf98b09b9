"""The objectives against closed forms of a linear-Gaussian model."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from logpx.model import log_weights
from pipeline.config import Train
from pipeline.evaluation.settings import data, joint
from pipeline.model.objectives import (
    OBJECTIVES,
    PosteriorSamples,
    draw,
    elbo,
    iwae,
    kl_to_normal,
    reparameterise,
    samples_of,
)
from pipeline.model.prior import Prior, diagonal_gaussian
from pipeline.model.vae import VAE
from tests.support import Linear, flat_format, model_settings, moved

ONE = torch.tensor(1.0)  # the weight of the KL, for objectives without one


def noise(samples: int, x: Tensor, vae: VAE, generator: torch.Generator) -> Tensor:
    return torch.randn(samples, len(x), vae.latent, generator=generator, dtype=x.dtype)


def sigma_points(latent: int) -> Tensor:
    """2·latent equally weighted points that integrate quadratics under N(0, I) exactly."""
    unit = math.sqrt(latent) * torch.eye(latent, dtype=torch.float64)
    return torch.cat([unit, -unit])[:, None]


def points_for(x: Tensor, latent: int = 3) -> Tensor:
    return sigma_points(latent).expand(-1, len(x), -1)


def shifted(samples: PosteriorSamples, nats: float) -> PosteriorSamples:
    return replace(samples, log_likelihood=samples.log_likelihood + nats)


def some_of(samples: PosteriorSamples, index: list[int]) -> PosteriorSamples:
    """The samples with these numbers."""
    return replace(samples, z=samples.z[index], log_likelihood=samples.log_likelihood[index])


def kl_to_posterior(linear: Linear, vae: VAE, x: Tensor) -> Tensor:
    """KL[q(z | x) ‖ p(z | x)], what the ELBO lacks."""
    q = vae.encoder(x)
    posterior = MultivariateNormal(linear.posterior_mean(x), linear.precision.inverse())
    return kl_divergence(MultivariateNormal(q.mean, q.stddev.square().diag_embed()), posterior)


def linear_layer(network: nn.Module) -> nn.Linear:
    (layer,) = network.children()
    assert isinstance(layer, nn.Linear)
    return layer


def test_every_objective_has_its_name_in_the_settings() -> None:
    assert set(OBJECTIVES) == set(get_args(Train.model_fields["objective"].annotation))


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
@pytest.mark.parametrize("samples", [1, 4])
def test_an_objective_has_a_value_per_image_which_does_not_depend_on_the_other_images(
    name: str, samples: int, linear: Linear, generator: torch.Generator
) -> None:
    vae, x = linear.vae(scale=1.7, shift=0.1), linear.sample(5, generator)
    eps, beta = noise(samples, x, vae, generator), torch.tensor(0.5)
    values = OBJECTIVES[name](draw(vae, x, eps), beta)
    assert values.shape == (5,)
    alone = [OBJECTIVES[name](draw(vae, x[i : i + 1], eps[:, i : i + 1]), beta) for i in range(5)]
    torch.testing.assert_close(values, torch.cat(alone), rtol=0, atol=1e-10)


# ELBO


def test_the_elbo_is_log_px_less_the_kl_to_the_posterior(linear: Linear, generator: torch.Generator) -> None:
    vae, x = linear.vae(scale=1.7, shift=0.1), linear.sample(4, generator)
    # log p(x | z) is quadratic in z, so the expectation is exact.
    found = elbo(draw(vae, x, points_for(x)), ONE)
    torch.testing.assert_close(found, linear.log_px(x) - kl_to_posterior(linear, vae, x), rtol=0, atol=1e-9)


def test_the_reconstruction_term_is_the_mean_log_likelihood(linear: Linear, generator: torch.Generator) -> None:
    vae, x = linear.vae(scale=1.3), linear.sample(3, generator)
    eps = noise(8, x, vae, generator)
    q = vae.encoder(x)
    samples = draw(vae, x, eps)
    terms, log_w = samples.elbo, log_weights(joint(vae), x, q, reparameterise(q, eps))
    torch.testing.assert_close(terms.reconstruction, log_w.likelihood.mean(0), rtol=0, atol=1e-12)
    torch.testing.assert_close(terms.value, terms.reconstruction - terms.kl, rtol=0, atol=0)
    torch.testing.assert_close(elbo(samples, ONE), terms.value, rtol=0, atol=0)


def test_the_log_weights_are_those_of_the_estimator(linear: Linear, generator: torch.Generator) -> None:
    vae, x = linear.vae(scale=1.3, shift=0.2), linear.sample(3, generator)
    eps = noise(8, x, vae, generator)
    q = vae.encoder(x)
    expected = log_weights(joint(vae), x, q, reparameterise(q, eps)).value
    torch.testing.assert_close(draw(vae, x, eps).log_weights, expected, rtol=0, atol=1e-12)


def test_the_kl_is_that_of_full_gaussians(linear: Linear, generator: torch.Generator) -> None:
    vae, x = linear.vae(scale=0.6, shift=-0.4), linear.sample(3, generator)
    q = vae.encoder(x)
    full = MultivariateNormal(q.mean, q.stddev.square().diag_embed())
    expected = kl_divergence(full, MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double()))
    samples = draw(vae, x, noise(1, x, vae, generator))
    torch.testing.assert_close(samples.elbo.kl, expected, rtol=1e-12, atol=1e-12)


def test_an_empty_batch_has_no_kl(linear: Linear) -> None:
    vae = linear.vae()
    assert kl_to_normal(vae.encoder(torch.zeros(0, 7).double())).shape == (0,)


def test_reparameterisation_shifts_and_scales_the_noise() -> None:
    q = Independent(Normal(torch.tensor([[1.0, -1.0]]), torch.tensor([[0.5, 2.0]])), 1)
    assert torch.equal(reparameterise(q, torch.tensor([[[2.0, -1.0]]])), torch.tensor([[[2.0, -3.0]]]))


# With the exact posterior


@pytest.mark.parametrize("samples", [1, 2, 7])
def test_with_the_exact_posterior_every_log_weight_and_every_bound_is_log_px(
    samples: int, linear: Linear, generator: torch.Generator
) -> None:
    vae, x = linear.vae(), linear.sample(5, generator)
    drawn, exact = draw(vae, x, noise(samples, x, vae, generator)), linear.log_px(x)
    torch.testing.assert_close(drawn.log_weights, exact.expand(samples, 5), rtol=0, atol=1e-10)
    torch.testing.assert_close(iwae(drawn, ONE), exact, rtol=0, atol=1e-10)
    # The ELBO has the KL in closed form, so only its expectation is log p(x).
    torch.testing.assert_close(elbo(draw(vae, x, points_for(x)), ONE), exact, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["elbo", "iwae", "beta"])
def test_with_the_exact_posterior_the_gradient_is_that_of_log_px(
    name: str, linear: Linear, generator: torch.Generator
) -> None:
    """∇ log p(x) = E ∇ log p(x, z) over the posterior (Fisher's identity). The encoder is at its optimum.

    With equal weights, the gradients of all objectives are means of functions that are quadratic in z. The sigma points
    integrate them exactly.
    """
    vae, x = linear.vae(), linear.sample(5, generator)
    w, b = linear.w.clone().requires_grad_(), linear.b.clone().requires_grad_()
    expected = torch.autograd.grad(Linear(w, b, linear.sigma).log_px(x).sum(), (w, b))
    OBJECTIVES[name](draw(vae, x, points_for(x)), ONE.double()).sum().backward()
    decoder, encoder = linear_layer(vae.decoder.network), linear_layer(vae.encoder.network)
    torch.testing.assert_close(decoder.weight.grad, expected[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(decoder.bias.grad, expected[1], rtol=1e-9, atol=1e-9)
    assert expected[0].abs().max() > 1  # nothing vanishes by itself
    for parameter in encoder.parameters():
        assert parameter.grad is not None
        assert float(parameter.grad.abs().max()) < 1e-9


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
    torch.testing.assert_close(elbo(draw(vae, x, points_for(x)), ONE), witness, rtol=0, atol=1e-9)

    # Stretched about their mean, the data have the covariance with n − 1 as the one with n.
    stretched = (x - model.b) * math.sqrt(len(x) / (len(x) - 1)) + model.b
    elbo(draw(vae, stretched, points_for(x)), ONE).mean().backward()
    decoder = linear_layer(vae.decoder.network)
    assert decoder.weight.grad is not None
    assert float(decoder.weight.grad.abs().max()) < 1e-9
    assert float(vae.encoder(x).mean.detach().abs().max()) > 1  # the data are not degenerate


# IWAE


def test_iwae_is_the_log_of_the_mean_weight(linear: Linear, generator: torch.Generator) -> None:
    vae, x = linear.vae(scale=1.7, shift=0.1), linear.sample(4, generator)
    samples = draw(vae, x, noise(5, x, vae, generator))
    torch.testing.assert_close(iwae(samples, ONE), samples.log_weights.exp().mean(0).log(), rtol=1e-12, atol=1e-12)
    one = draw(vae, x, noise(1, x, vae, generator))
    torch.testing.assert_close(iwae(one, ONE), one.log_weights[0], rtol=0, atol=0)
    for nats in (-1e5, 1e5):  # weights that overflow
        torch.testing.assert_close(iwae(shifted(samples, nats), ONE), iwae(samples, ONE) + nats, rtol=0, atol=1e-9)


def test_leaving_one_sample_out_lowers_the_mean_bound(linear: Linear, generator: torch.Generator) -> None:
    """Burda et al. 2016, theorem 1, holds for the samples at hand: a mean over all subsets, so nothing is random."""
    vae, x = linear.vae(scale=1.7, shift=0.1), linear.sample(20, generator)
    whole = draw(vae, x, noise(6, x, vae, generator))
    bounds = []
    for size in range(6, 1, -1):
        kept = list(range(size))
        bounds.append(iwae(some_of(whole, kept), ONE))
        fewer = torch.stack([iwae(some_of(whole, [i for i in kept if i != out]), ONE) for out in kept]).mean(0)
        assert (fewer < bounds[-1]).all()


def test_the_bounds_rise_with_the_number_of_samples_from_the_elbo_to_log_px(
    linear: Linear, generator: torch.Generator
) -> None:
    """Means over 4000 independent draws for one image; q is 1.3 nats from the posterior.

    Each of six comparisons is at 4.5 standard errors: one fails for one seed in 49 000, and the seed is fixed.
    """
    vae, image = linear.vae(scale=1.7, shift=0.1), linear.sample(1, generator)
    x = image.expand(4000, -1)
    exact = linear.log_px(image).item()
    gap = kl_to_posterior(linear, vae, image).item()
    assert gap > 0.5

    def bound(samples: int) -> tuple[float, float]:
        """Mean of the bound, and 4.5 standard errors of it."""
        values = iwae(draw(vae, x, noise(samples, x, vae, generator)), ONE).detach()
        return float(values.mean()), 4.5 * float(values.std()) / math.sqrt(len(x))

    (one, error), (five, of_five), (fifty, of_fifty) = map(bound, (1, 5, 50))
    assert abs(one - (exact - gap)) < error
    assert one + error < five - of_five
    assert five + of_five < fifty - of_fifty
    assert fifty - of_fifty < exact
    assert exact - fifty < 0.1 * gap


def test_the_gradient_of_iwae_in_the_encoder_has_the_expectation_of_the_plain_one_and_less_noise(
    linear: Linear, generator: torch.Generator
) -> None:
    """Of 20 000 draws for one image, in the mean and the standard deviation of q. In the decoder both are the same.

    Each of six comparisons is at 4.5 standard errors: one fails for one seed in 25 000, and the seed is fixed.
    """
    vae = linear.vae(scale=1.7, shift=0.1)
    image = linear.sample(1, generator)
    x, q = image.expand(20_000, -1), vae.encoder(image)
    eps = noise(8, x, vae, generator)

    def gradients(objective: Callable[[PosteriorSamples, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Of each draw in q, (draws, 6); of their sum in the decoder."""
        parameters = [value.detach().expand(len(x), -1).clone().requires_grad_() for value in (q.mean, q.stddev)]
        samples = samples_of(vae, diagonal_gaussian(*parameters), x, eps, None)
        weight = linear_layer(vae.decoder.network).weight
        *of_q, of_decoder = torch.autograd.grad(objective(samples, ONE).sum(), [*parameters, weight])
        return torch.cat(of_q, 1), of_decoder

    ours, decoder = gradients(iwae)
    plain, expected = gradients(lambda s, _: (s.log_likelihood + s.log_prior - s.q.log_prob(s.z)).logsumexp(0))
    torch.testing.assert_close(decoder, expected, rtol=1e-10, atol=1e-8)
    difference = ours - plain
    assert (difference.mean(0).abs() < 4.5 * difference.std(0) / math.sqrt(len(x))).all()
    assert (plain.mean(0).abs() > 10 * plain.std(0) / math.sqrt(len(x))).sum() >= 3
    assert (ours.std(0) < 0.8 * plain.std(0)).all()


# Weighted KL


def test_beta_weighs_the_kl(linear: Linear, generator: torch.Generator) -> None:
    vae, x = linear.vae(scale=1.7, shift=0.1), linear.sample(4, generator)
    samples = draw(vae, x, noise(3, x, vae, generator))
    beta_elbo, zero = OBJECTIVES["beta"], torch.tensor(0.0)
    torch.testing.assert_close(beta_elbo(samples, zero), samples.elbo.reconstruction, rtol=0, atol=0)
    torch.testing.assert_close(beta_elbo(samples, ONE), elbo(samples, ONE), rtol=0, atol=0)
    for beta in (0.25, 1.0, 4.0):
        expected = samples.elbo.reconstruction - beta * samples.elbo.kl
        torch.testing.assert_close(beta_elbo(samples, torch.tensor(beta)), expected, rtol=0, atol=1e-12)
        for name in ("elbo", "iwae"):  # these have no weight
            found = OBJECTIVES[name](samples, torch.tensor(beta))
            assert torch.equal(found, OBJECTIVES[name](samples, zero))


@pytest.mark.parametrize("beta", [0.0, 0.5, 4.0])
def test_the_gradient_of_the_weighted_objective_is_that_of_its_closed_form(
    beta: float, linear: Linear, generator: torch.Generator
) -> None:
    """In the encoder: E_q log p(x | z) = log N(x; W μ + b, σ²) − ½ Σ s² ‖w‖² / σ², and the KL of full Gaussians."""
    vae, x = linear.vae(scale=1.7, shift=0.1), linear.sample(4, generator)
    parameters = list(vae.encoder.parameters())
    found = OBJECTIVES["beta"](draw(vae, x, points_for(x)), torch.tensor(beta).double())
    q = vae.encoder(x)
    at_mean = Independent(Normal(q.mean @ linear.w.T + linear.b, linear.sigma), 1).log_prob(x)
    reconstruction = at_mean - 0.5 * q.variance @ linear.w.square().sum(0) / linear.sigma**2
    prior = MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double())
    kl = kl_divergence(MultivariateNormal(q.mean, q.variance.diag_embed()), prior)
    expected = reconstruction - beta * kl
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    gradients = (torch.autograd.grad(value.sum(), parameters) for value in (found, expected))
    for ours, closed in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, closed, rtol=1e-9, atol=1e-9)
        assert closed.abs().max() > 1e-3


# With a flow as prior, and with labels


def with_flow(vae: VAE, by: float) -> VAE:
    """The model with a flow as prior, the identity if `by` is 0."""
    vae.prior = moved(Prior(model_settings(latent=vae.latent, prior="flow", couplings=3), 0).double(), by)
    return vae


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_a_flow_that_is_the_identity_gives_what_the_normal_prior_gives(
    name: str, linear: Linear, generator: torch.Generator
) -> None:
    """Sigma points integrate the KL too, since log q and log p are quadratic in z."""
    x, beta = linear.sample(4, generator), torch.tensor(0.5).double()
    plain, flow = linear.vae(scale=1.7, shift=0.1), with_flow(linear.vae(scale=1.7, shift=0.1), 0.0)
    samples, with_normal = draw(flow, x, points_for(x)), draw(plain, x, points_for(x))
    torch.testing.assert_close(samples.elbo.kl, with_normal.elbo.kl, rtol=0, atol=1e-10)
    torch.testing.assert_close(samples.log_weights, with_normal.log_weights, rtol=0, atol=1e-10)
    found, expected = OBJECTIVES[name](samples, beta), OBJECTIVES[name](with_normal, beta)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_the_kl_to_a_flow_is_unbiased(linear: Linear, generator: torch.Generator) -> None:
    """E_q[log q(z) − log p(z)] on a grid of ε in three dimensions; the mean over samples within 4.5 standard errors.

    One of four images fails for one seed in 37 000, and the seed is fixed.
    """
    vae, x = with_flow(linear.vae(scale=1.7, shift=0.1), 0.1), linear.sample(4, generator)
    line = torch.linspace(-7, 7, 41, dtype=torch.float64)
    epsilon = torch.cartesian_prod(line, line, line)
    weight = Independent(Normal(torch.zeros(3).double(), 1.0), 1).log_prob(epsilon).exp() * 0.35**3
    q = vae.encoder(x)
    z = reparameterise(q, epsilon[:, None].expand(-1, 4, -1))
    exact = (weight[:, None] * (q.log_prob(z) - vae.prior().log_prob(z))).sum(0)
    samples = draw(vae, x, noise(4000, x, vae, generator))
    values = q.log_prob(samples.z) - vae.prior().log_prob(samples.z)
    torch.testing.assert_close(samples.elbo.kl, values.mean(0), rtol=0, atol=1e-12)
    assert ((samples.elbo.kl - exact).abs() < 4.5 * values.std(0) / math.sqrt(4000)).all()
    assert ((exact - kl_to_normal(q)).abs() > 0.1).all()
    found = OBJECTIVES["beta"](samples, torch.tensor(0.3, dtype=torch.float64))
    expected = samples.log_likelihood.mean(0) - 0.3 * values.mean(0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_with_one_sample_the_elbo_and_the_log_weight_are_the_same(linear: Linear, generator: torch.Generator) -> None:
    """Only with a flow: the normal prior has the KL in closed form."""
    vae, x = with_flow(linear.vae(scale=1.7), 0.2), linear.sample(4, generator)
    samples = draw(vae, x, noise(1, x, vae, generator))
    torch.testing.assert_close(elbo(samples, ONE), iwae(samples, ONE), rtol=0, atol=1e-10)


def conditional(network: str = "mlp", prior: str = "flow") -> VAE:
    """A model of images of 12 pixels in three classes, in float32, without a block that is the identity."""
    settings = model_settings(
        latent=3, prior=prior, couplings=2, condition="label", network=network, width=2, encoder=[8], decoder=[8]
    )
    return moved(VAE(settings, flat_format(12), (0.2, 0.3, 0.5)), 0.2)


@pytest.mark.parametrize("prior", ["normal", "flow"])
def test_the_log_weights_with_labels_are_those_of_the_estimator(prior: str, generator: torch.Generator) -> None:
    vae, x = conditional(prior=prior).double(), torch.rand(4, 12, generator=generator, dtype=torch.float64)
    y, eps = torch.tensor([2, 0, 1, 2]), noise(5, x, vae, generator)
    q = vae.encoder(x, y)
    expected = log_weights(joint(vae), data(vae, x, y), q, reparameterise(q, eps)).value
    found = draw(vae, x, eps, y).log_weights
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    for i in range(4):  # each image has its own label
        alone = draw(vae, x[i : i + 1], eps[:, i : i + 1], y[i : i + 1]).log_weights
        torch.testing.assert_close(found[:, i : i + 1], alone, rtol=0, atol=1e-10)
    assert not torch.isclose(found, draw(vae, x, eps, torch.zeros(4).long()).log_weights)[:, [0, 2, 3]].any()


@pytest.mark.parametrize("network", ["mlp", "conv"])
@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_the_gradient_reaches_the_flow_and_the_weights_of_every_label(
    name: str, network: str, generator: torch.Generator
) -> None:
    vae, x = conditional(network), torch.rand(6, 12, generator=generator)
    y = torch.tensor([0, 1, 0, 1, 0, 1])  # no image of class 2
    OBJECTIVES[name](draw(vae, x, noise(2, x, vae, generator), y), torch.tensor(0.5)).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in vae.parameters())
    assert vae.prior.flow is not None
    couplings: Any = vae.prior.flow.couplings
    first: list[nn.Module] = [vae.encoder.network, vae.decoder.network, *(coupling.network for coupling in couplings)]
    for module in first:
        gradient = next(module.parameters()).grad
        assert gradient is not None
        of_label = gradient.transpose(0, 1)[-3:].flatten(1).abs().amax(1)  # the label is the last part of the input
        assert (of_label > 0).tolist() == [True, True, False]


def test_under_mixed_precision_the_prior_is_computed_in_float32(generator: torch.Generator) -> None:
    vae, x, y = conditional(), torch.rand(4, 12, generator=generator), torch.tensor([0, 1, 2, 0])
    with torch.autocast("cpu", torch.bfloat16):
        samples = draw(vae, x, noise(3, x, vae, generator), y)
        found = samples.log_prior
        assert vae.prior(y).log_prob(samples.z).sub(found).abs().max() > 0  # it would differ
    assert found.dtype == samples.z.dtype == torch.float32
    assert torch.equal(found, vae.prior(y).log_prob(samples.z))


@pytest.mark.parametrize("network", ["mlp", "conv"])
@pytest.mark.parametrize("prior", ["normal", "flow"])
@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_an_empty_batch_has_a_gradient_too(name: str, prior: str, network: str) -> None:
    """One of several processes may have no images of the last batch."""
    vae = conditional(network, prior)
    samples = draw(vae, torch.rand(0, 12), torch.rand(2, 0, 3), torch.zeros(0).long())
    values = OBJECTIVES[name](samples, torch.tensor(0.5))
    assert values.shape == (0,)
    values.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in vae.parameters())
