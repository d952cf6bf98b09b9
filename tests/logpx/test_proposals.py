"""Proposals: their densities fit their samples, and for a linear decoder Laplace's is the posterior itself."""

import math
from dataclasses import replace

import pytest
import torch
from torch.distributions import MultivariateNormal

from logpx import importance, laplace, modes, noise
from logpx.block import Settings
from logpx.distributions import Diagonal, Gaussian, StudentT, cholesky
from logpx.importance import Fit
from logpx.model import log_joint, log_weights
from logpx.noise import Noise
from logpx.proposals import DEFENSIVE_SHARE, Proposal, concatenate, inflation
from logpx.refinement import refine
from pipeline.evaluation.settings import joint, prepare
from pipeline.model.vae import VAE
from tests.support import Linear, flat_format, model_settings


def some_noise(samples: int, batch: int, latent: int, block: int = 0) -> Noise:
    return noise.draw(3, torch.arange(batch), 0, block, samples, latent).to(torch.empty(0, dtype=torch.float64))


def propose(name: str, vae: VAE, x: torch.Tensor, degrees_of_freedom: float | None = None) -> Fit:
    """The proposal before refinement."""
    block = prepare(vae, x, None, Settings(proposal=name, chunk=100_000, degrees_of_freedom=degrees_of_freedom))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importance, "_refined", lambda block, proposal, level: proposal)
        return importance.fit_proposal(block)


def find(vae: VAE, x: torch.Tensor, start: torch.Tensor) -> modes.Modes:
    return modes.find(replace(prepare(vae, x, None, Settings(chunk=100_000)), start=start))


def fit_laplace(vae: VAE, x: torch.Tensor, start: torch.Tensor) -> modes.Peak:
    """Laplace's approximation at the mode with the largest mass."""
    return find(vae, x, start).peaks[0]


@pytest.fixture
def skewed(generator: torch.Generator) -> Linear:
    """W with columns that are not orthogonal: the posterior's covariance is full."""
    return Linear(
        torch.randn(7, 3, generator=generator, dtype=torch.float64),
        torch.randn(7, generator=generator, dtype=torch.float64),
        0.3,
    )


def test_the_laplace_proposal_is_the_posterior_of_a_linear_decoder(skewed: Linear, generator: torch.Generator) -> None:
    """From a wrong encoder; every single log-weight is log p(x), for any W."""
    vae, x = skewed.vae(scale=2.0, shift=0.5), skewed.sample(6, generator)
    fit = fit_laplace(vae, x, vae.encoder(x).mean.detach())
    assert fit.converged.all()
    torch.testing.assert_close(fit.mode, skewed.posterior_mean(x), rtol=0, atol=1e-9)
    torch.testing.assert_close(fit.cholesky @ fit.cholesky.mT, skewed.precision.expand(6, 3, 3), rtol=1e-10, atol=0)
    exact = Gaussian(fit.mode, fit.cholesky)
    log_w = log_weights(joint(vae), x, exact, exact.sample(some_noise(50, 6, 3))).value
    torch.testing.assert_close(log_w, skewed.log_px(x).expand(50, 6), rtol=0, atol=1e-10)


def test_the_mode_of_a_curved_decoder_is_found(generator: torch.Generator) -> None:
    torch.manual_seed(0)
    vae = VAE(
        model_settings(latent=3, encoder=[8], decoder=[16], activation="tanh", sigma=0.1), flat_format(20)
    ).double()
    with torch.no_grad():
        for parameter in vae.decoder.parameters():
            parameter.mul_(3)
        x = vae.decoder(torch.randn(40, 3, generator=generator, dtype=torch.float64)).sample(generator)
    fit = fit_laplace(vae, x, torch.zeros(40, 3, dtype=torch.float64))
    assert fit.converged.double().mean() > 0.9
    z = fit.mode.clone().requires_grad_()
    (vae.decoder(z).log_prob(x) + vae.prior().log_prob(z)).sum().backward()
    assert z.grad is not None
    gain = 0.5 * (z.grad * torch.cholesky_solve(z.grad[..., None], fit.cholesky)[..., 0]).sum(-1)
    assert (gain[fit.converged] < laplace.TOLERANCE).all()
    assert (gain < 0.02).double().mean() > 0.9
    used = fit.cholesky @ fit.cholesky.mT
    assert (torch.linalg.eigvalsh(used) > 0).all()


def test_only_directions_that_are_not_safely_positive_change_the_hessian() -> None:
    gauss_newton = torch.diag(torch.tensor([1.0, 4.0, 9.0])).double()[None]
    hessian = torch.diag(torch.tensor([2.0, -1.0, 9.0])).double()[None]
    bounded = torch.diag(torch.tensor([2.0, 4.0 * laplace.FLOOR, 9.0])).double()[None]
    torch.testing.assert_close(laplace.bounded(hessian, gauss_newton), bounded)
    rotation = torch.linalg.qr(torch.arange(9.0).double().reshape(3, 3) + torch.eye(3))[0]
    turned = [rotation @ m @ rotation.T for m in (hessian, gauss_newton, bounded)]
    torch.testing.assert_close(laplace.bounded(turned[0], turned[1]), turned[2])


def test_images_that_do_not_converge_are_reported(
    skewed: Linear, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(laplace, "STEPS", 0)
    monkeypatch.setattr(laplace, "NEWTON_STEPS", 0)
    x = skewed.sample(4, generator)
    start = skewed.posterior_mean(x)
    start[2] += 1.0
    assert fit_laplace(skewed.vae(), x, start).converged.tolist() == [True, True, False, True]


def test_a_start_near_a_lower_mode_does_no_harm(generator: torch.Generator) -> None:
    """f(z) bends back on itself: from z = 8 the search ends at a mode a hundred nats below the highest."""
    torch.manual_seed(0)
    vae = VAE(
        model_settings(latent=1, encoder=[], decoder=[8], activation="silu", sigma=0.05), flat_format(20)
    ).double()
    with torch.no_grad():
        for parameter in vae.decoder.parameters():
            parameter.mul_(5)
        x = vae.decoder(torch.full((3, 1), 0.3).double()).sample(generator)
    grid = torch.linspace(-10, 10, 4001, dtype=torch.float64)[:, None]
    highest = torch.stack([log_joint(joint(vae), one[None], grid[:, None]).max() for one in x])
    values = torch.stack([log_joint(joint(vae), one[None], grid[:, None]).flatten() for one in x])
    peaks = (values[:, 1:-1] > values[:, :-2]) & (values[:, 1:-1] > values[:, 2:])
    assert (peaks & (values[:, 1:-1] < highest[:, None] - 50)).any(1).all()  # the lower mode exists
    fit = fit_laplace(vae, x, torch.full((3, 1), 8.0).double())
    assert (log_joint(joint(vae), x, fit.mode) > highest - 0.1).all()


def test_gaussians_have_the_density_of_torch(skewed: Linear, generator: torch.Generator) -> None:
    mean = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    full = Gaussian(mean, torch.linalg.cholesky(skewed.precision).expand(2, 3, 3))
    z = full.sample(some_noise(5, 2, 3))
    expected = MultivariateNormal(mean, precision_matrix=skewed.precision).log_prob(z)
    torch.testing.assert_close(full.log_prob(z), expected, rtol=1e-12, atol=1e-10)
    scale = torch.tensor([[0.5, 1.0, 2.0]]).double().expand(2, 3)
    expected = MultivariateNormal(mean, torch.diag_embed(scale**2)).log_prob(z)
    torch.testing.assert_close(Diagonal(mean, scale).log_prob(z), expected, rtol=1e-12, atol=1e-10)


def test_a_matrix_without_a_factor_gets_the_identity_and_the_others_keep_theirs(skewed: Linear) -> None:
    hopeless = -torch.eye(3, dtype=torch.float64)
    factors = cholesky(torch.stack([skewed.precision, hopeless]))
    torch.testing.assert_close(factors[0], torch.linalg.cholesky(skewed.precision), rtol=1e-12, atol=1e-12)
    assert torch.equal(factors[1], torch.eye(3, dtype=torch.float64))
    almost = torch.diag(torch.tensor([1.0, 1.0, -1e-9], dtype=torch.float64))  # as rounding makes it
    ridge = cholesky((torch.eye(3, dtype=torch.float64) + almost)[None] - torch.eye(3, dtype=torch.float64))
    assert (ridge.diagonal(dim1=-2, dim2=-1)[:, :2] - 1).abs().max() < 1e-2


def test_the_evaluations_of_a_fit_are_counted(skewed: Linear, generator: torch.Generator) -> None:
    """A curvature costs 3 tangents, a value and an adjoint; the polished point of a search costs one more value.

    The first search starts at the mode: a curvature for its metric, a value and a gradient, and a curvature at its end.
    The second needs curvatures at two points of its path, and a value and a gradient at the path's end, from where a
    step would reach the mode that is known.
    """
    x = skewed.sample(4, generator)
    found = find(skewed.vae(), x, skewed.posterior_mean(x))
    assert found.evaluations.tolist() == [(5 + 2 + 5 + 1) + (2 * 5 + 2)] * 4


def test_samples_come_from_the_density(skewed: Linear, generator: torch.Generator) -> None:
    """E_r[f(z) / r(z)] over a box is the integral of f, here of the posterior's density: one."""
    x = skewed.sample(1, generator)
    posterior = MultivariateNormal(skewed.posterior_mean(x), skewed.precision.inverse())
    for name in ("prior", "encoder", "laplace", "mixture"):
        proposal = propose(name, skewed.vae(scale=2.0), x).proposal
        ratios = []
        for block in range(160):
            z = proposal.sample(some_noise(noise.BLOCK, 1, 3, block)).detach()
            ratios.append((posterior.log_prob(z) - proposal.log_prob(z)).exp())
        ratio = torch.cat(ratios).flatten()
        # Four proposals at 4.5 standard errors: fails for one seed in 37 000, and the seed is fixed.
        assert abs(float(ratio.mean()) - 1) < 4.5 * float(ratio.std()) / math.sqrt(len(ratio)), name


def test_a_mixture_draws_each_component_in_its_share_and_bounds_the_weights() -> None:
    far, near = (Diagonal(torch.full((1, 1), at).double(), torch.ones(1, 1).double()) for at in (50.0, 0.0))
    mixture = Proposal(torch.tensor([[0.75, 0.25]]).double(), (far, near))
    z = torch.cat([mixture.sample(some_noise(128, 1, 1, block)) for block in range(100)])
    share = float((z > 25).double().mean())
    assert abs(share - 0.75) < 4.5 * math.sqrt(0.75 * 0.25 / len(z))  # fails for one seed in 150 000
    weight = (near.log_prob(z) - mixture.log_prob(z)).exp()
    assert float(weight.max()) <= 1 / 0.25 + 1e-9


def test_refinement_keeps_the_exact_posterior_and_finds_it_from_elsewhere(
    skewed: Linear, generator: torch.Generator
) -> None:
    """The gradient of a Gaussian is linear, so the regression is exact except for the ridge."""
    vae, x = skewed.vae(), skewed.sample(4, generator)
    mean, cholesky = skewed.posterior_mean(x), torch.linalg.cholesky(skewed.precision).expand(4, 3, 3)
    normal = some_noise(32, 4, 3).normal
    same = refine(joint(vae), x, Gaussian(mean, cholesky), normal)
    torch.testing.assert_close((same.mean, same.cholesky), (mean, cholesky), rtol=0, atol=1e-9)
    found = Gaussian(mean + 0.3, 1.5 * cholesky)
    for _ in range(25):
        found = refine(joint(vae), x, found, normal)
    torch.testing.assert_close(found.mean, mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.cholesky, cholesky, rtol=1e-5, atol=1e-6)


def test_refinement_with_many_samples_finds_a_precision_in_one_round(
    skewed: Linear, generator: torch.Generator
) -> None:
    """From twice the true precision the factor is ½. The ridge, half a sample per dimension, vanishes."""
    vae, x = skewed.vae(), skewed.sample(1, generator)
    exact = Gaussian(skewed.posterior_mean(x), torch.linalg.cholesky(skewed.precision)[None])
    normal = torch.randn(10_000, 1, 3, generator=generator, dtype=torch.float64)
    found = refine(joint(vae), x, replace(exact, cholesky=exact.cholesky * 2**0.5), normal)
    torch.testing.assert_close(found.cholesky, exact.cholesky, rtol=1e-3, atol=1e-3)


def test_a_proposal_is_widened_once_however_often_it_is_refined(skewed: Linear, generator: torch.Generator) -> None:
    vae, x = skewed.vae(), skewed.sample(2, generator)
    proposal, exact = propose("laplace", vae, x).proposal, torch.linalg.cholesky(skewed.precision)
    for number, hard in enumerate((False, True, True)):
        proposal = proposal.refined(joint(vae), x, some_noise(32, 2, 3, block=number), hard=hard)
        first = proposal.components[0]
        assert isinstance(first, Gaussian)
        expected = (exact / inflation(3, hard=hard)).expand(2, 3, 3)
        torch.testing.assert_close(first.cholesky, expected, rtol=1e-9, atol=1e-9)


def test_only_the_fitted_component_is_refined(skewed: Linear, generator: torch.Generator) -> None:
    x, vae = skewed.sample(4, generator), skewed.vae()
    mixture = propose("mixture", vae, x).proposal
    first = mixture.components[0]
    assert isinstance(first, Gaussian)
    wrong = replace(mixture, components=(replace(first, mean=first.mean + 1), *mixture.components[1:]))
    refined = wrong.refined(joint(vae), x, some_noise(16, 4, 3))
    before = (wrong.components[0].mean - first.mean).norm(dim=-1)
    assert ((refined.components[0].mean - first.mean).norm(dim=-1) < before).all()
    assert refined.components[1:] == mixture.components[1:]
    assert torch.equal(refined.shares, mixture.shares)
    expected = torch.tensor([1 - 2 * DEFENSIVE_SHARE, DEFENSIVE_SHARE, DEFENSIVE_SHARE]).double()
    torch.testing.assert_close(mixture.shares, expected.expand(4, 3))
    for name in ("prior", "encoder"):  # nothing is fitted, so nothing can fail or cost anything
        fit = propose(name, vae, x)
        assert not fit.proposal.adaptable
        assert fit.converged.all()
        assert not fit.evaluations.any()


def test_parts_of_a_batch_put_together_are_the_batch(skewed: Linear, generator: torch.Generator) -> None:
    x, vae = skewed.sample(5, generator), skewed.vae()
    whole = propose("mixture", vae, x, degrees_of_freedom=4.0).proposal
    joined = concatenate([whole[:2], whole[torch.tensor([2, 3])], whole[4:]])
    z = whole.sample(some_noise(20, 5, 3))
    assert torch.equal(joined.sample(some_noise(20, 5, 3)), z)
    assert torch.equal(joined.log_prob(z), whole.log_prob(z))


def test_students_t_has_its_density_and_its_tails(skewed: Linear) -> None:
    from scipy.stats import kstest, multivariate_t

    mean = torch.tensor([[1.0, 0.0, -1.0]]).double()
    proposal = StudentT(mean, torch.linalg.cholesky(skewed.precision)[None], 4.0)
    z = torch.cat([proposal.sample(some_noise(noise.BLOCK, 1, 3, block)) for block in range(40)])
    expected = multivariate_t(loc=mean[0].numpy(), shape=skewed.precision.inverse().numpy(), df=4)  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(proposal.log_prob(z)[:, 0], torch.from_numpy(expected.logpdf(z[:, 0].numpy())))
    # ‖Lᵀ(z − mean)‖² / n is F(n, ν): fails for one seed in a thousand, and the seed is fixed.
    radius = ((z[:, 0] - mean) @ proposal.cholesky[0]).square().sum(-1) / 3
    assert kstest(radius.numpy(), "f", (3, 4)).pvalue > 1e-3


def test_an_encoder_far_from_its_images_does_no_harm(skewed: Linear, generator: torch.Generator) -> None:
    """Its scale overflows or vanishes there, and a twentieth of the default's samples come from it."""
    for log_s in (-1e3, 1e3):
        vae, x = skewed.vae(), skewed.sample(4, generator)
        (encoder,) = vae.encoder.network.children()
        assert isinstance(encoder, torch.nn.Linear)
        with torch.no_grad():
            encoder.bias[3:] = log_s
        for name in ("encoder", "mixture"):
            proposal = propose(name, vae, x).proposal
            log_w = log_weights(joint(vae), x, proposal, proposal.sample(some_noise(64, 4, 3))).value
            assert log_w.isfinite().all()


@pytest.mark.parametrize("latent", [1, 16, 50, 200])
@pytest.mark.parametrize(("hard", "factor"), [(False, 2.1), (True, 9.5)])
def test_a_wider_proposal_costs_a_bounded_share_of_the_samples(latent: int, hard: bool, factor: float) -> None:
    """For a Gaussian posterior and a proposal c times as wide, E w² / (E w)² = (c² / √(2c² − 1))^d."""
    c = inflation(latent, hard=hard)
    assert 1 < (c**2 / math.sqrt(2 * c**2 - 1)) ** latent < factor
