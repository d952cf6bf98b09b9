"""Annealed importance sampling on the linear model: unbiased, close to the truth, and bracketing it from both sides."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from logpx import annealing, block
from logpx.annealing import Problem, Settings, forward, from_both_sides
from logpx.importance import fit_proposal
from logpx.noise import Noise
from logpx.weights import Weights
from pipeline.evaluation.settings import prepare
from pipeline.model.vae import VAE
from tests.support import Linear

SETTINGS = Settings(chains=32, temperatures=40, leapfrog=3, acceptance=0.8)


def problem(vae: VAE, x: torch.Tensor, proposal: str = "prior", first: int = 0, **changes: Any) -> Problem:
    """Annealing of images first, first + 1, ..."""
    whole = prepare(vae, x, None, block.Settings(proposal=proposal, chunk=100_000, seed=3))
    whole = replace(whole, images=whole.images + first)
    return Problem(whole, fit_proposal(whole).proposal, replace(SETTINGS, **changes))


@pytest.mark.parametrize("proposal", ["prior", "encoder", "mixture"])
def test_annealing_converges_to_the_density(linear: Linear, generator: torch.Generator, proposal: str) -> None:
    x = linear.sample(8, generator)
    found = Weights.of(forward(problem(linear.vae(scale=1.5, shift=0.1), x, proposal)))
    # Eight images at 4.5 standard errors: fails for one seed in 18 000, and the seed is fixed.
    assert ((found.log_mean - linear.log_px(x)).abs() < 4.5 * found.standard_error + 1e-9).all()
    assert (found.effective_sample_size > 5).all()


def test_the_weights_are_unbiased_when_annealing_is_short(linear: Linear, generator: torch.Generator) -> None:
    """The mean of w / p(x) is one for any number of temperatures. It fails if a transition is not invariant."""
    vae, one = linear.vae(scale=1.6, shift=0.1), linear.sample(1, generator)
    x = one.expand(400, -1).contiguous()
    log_w = forward(problem(vae, x, "encoder", temperatures=4, leapfrog=2, chains=64))
    ratio = (log_w - linear.log_px(x)).exp().mean(0)
    # Over images, whose chains share a step, at 4.5 standard errors: fails for one seed in 150 000.
    assert abs(float(ratio.mean()) - 1) < 4.5 * float(ratio.std()) / math.sqrt(len(ratio))
    assert float(log_w.std()) > 0.1


def test_the_steps_are_tuned_to_the_acceptance_asked_for(
    linear: Linear, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted: list[float] = []
    original = annealing.transition

    def record(*arguments: Any) -> Any:
        state, acceptance = original(*arguments)
        accepted.append(float(acceptance.mean()))
        return state, acceptance

    monkeypatch.setattr(annealing, "transition", record)
    forward(problem(linear.vae(), linear.sample(30, generator), temperatures=150, acceptance=0.7))
    frozen = accepted[len(accepted) // 2 :]
    assert sum(frozen[-50:]) / 50 == pytest.approx(0.7, abs=0.1)


def test_bidirectional_monte_carlo_brackets_the_truth(linear: Linear, generator: torch.Generator) -> None:
    z = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    x = z @ linear.w.T + linear.b + linear.sigma * torch.randn(60, 7, generator=generator, dtype=torch.float64)
    for temperatures, most in ((6, 6.0), (150, 0.3)):
        forward, reverse = from_both_sides(problem(linear.vae(), x, temperatures=temperatures, chains=8), z)
        below = linear.log_px(x) - Weights.of(forward).log_mean
        above = -Weights.of(-reverse).log_mean - linear.log_px(x)
        for excess in (below, above):
            # At 4.5 standard errors: fails for one seed in 300 000.
            assert float(excess.mean()) > -4.5 * float(excess.std()) / math.sqrt(60)
        gap = below + above
        assert -4.5 * float(gap.std()) / math.sqrt(60) < float(gap.mean()) < most


@pytest.mark.parametrize(("proposal", "of_the_fit"), [("prior", 0), ("mixture", 1 + 2)])
def test_no_noise_is_used_twice(
    linear: Linear, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch, proposal: str, of_the_fit: int
) -> None:
    drawn: list[tuple[int, int, int]] = []
    original = block.draw

    def record(seed: int, images: torch.Tensor, stream: int, part: int, samples: int, latent: int) -> Noise:
        drawn.extend((image, int(stream), part) for image in images.tolist())
        return original(seed, images, stream, part, samples, latent)

    monkeypatch.setattr(block, "draw", record)
    z = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    from_both_sides(problem(linear.vae(), linear.sample(3, generator), proposal, temperatures=5), z)
    # Three images. A fit: where its paths start, and two rounds of refinement. Annealing: the starts of two rounds of
    # chains, and four transitions of each of three rounds.
    assert len(drawn) == len(set(drawn)) == 3 * (of_the_fit + 2 + 3 * 4)


def test_a_chain_does_not_depend_on_its_batch(linear: Linear, generator: torch.Generator) -> None:
    vae, x = linear.vae(), linear.sample(6, generator)
    together = forward(problem(vae, x, temperatures=8))
    last = forward(problem(vae, x[4:], first=4, temperatures=8))
    torch.testing.assert_close(last, together[:, 4:], rtol=0, atol=1e-9)


def test_evaluations_are_counted(linear: Linear, generator: torch.Generator) -> None:
    vae, x = linear.vae(), linear.sample(3, generator)
    seen: list[int] = []
    vae.decoder.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[:-1].numel()))
    made = problem(vae, x, temperatures=7)
    seen.clear()
    forward(made)
    # A value and a gradient each.
    assert 2 * sum(seen) == 3 * made.settings.evaluations


def test_temperatures_are_a_sigmoid_of_equal_steps_between_minus_four_and_four(linear: Linear) -> None:
    """Wu et al. 2017, section 4."""
    betas = problem(linear.vae(), torch.zeros(1, 7, dtype=torch.float64), temperatures=4).betas
    sigmoid = [1 / (1 + math.exp(-t)) for t in (-4, -2, 0, 2, 4)]
    expected = [(value - sigmoid[0]) / (sigmoid[4] - sigmoid[0]) for value in sigmoid]
    assert betas.tolist() == pytest.approx(expected, abs=1e-12)


def test_a_forward_chain_moves_before_it_gains_weight_and_a_reverse_chain_after() -> None:
    assert list(annealing.schedule(3, reverse=False)) == [(0, 1), (1, 2), (2, 3)]
    assert list(annealing.schedule(3, reverse=True)) == [(3, 3), (2, 2), (1, 1)]
