"""Annealed importance sampling on the oracle: unbiased, near the truth, and bracketing it from both sides."""

import math
from typing import Any

import pytest
import torch
from conftest import Linear

from pipeline.config import Params
from pipeline.likelihood import annealed
from pipeline.likelihood.proposals import propose
from pipeline.likelihood.weights import Weights
from pipeline.vae import VAE


@pytest.fixture
def path(params: Params) -> Any:
    def make(vae: VAE, x: torch.Tensor, proposal: str = "prior", **changes: object) -> annealed.Path:
        settings = params.verify.model_copy(update={"chains": 32, "temperatures": 40, "leapfrog": 3, **changes})
        return annealed.Path(vae, x, propose(proposal, vae, x).proposal, range(len(x)), settings)

    return make


def log_mean(log_w: torch.Tensor) -> Weights:
    weights = Weights(log_w.shape[1])
    weights.add(log_w)
    return weights


@pytest.mark.parametrize("proposal", ["prior", "encoder", "mixture"])
def test_annealing_converges_to_the_density(
    linear: Linear, generator: torch.Generator, path: Any, proposal: str
) -> None:
    x = linear.sample(8, generator)
    found = log_mean(annealed.annealed(path(linear.vae(scale=1.5, shift=0.1), x, proposal)))
    # Eight images at 4.5 standard errors: fails for one seed in 18 000, and the seed is fixed.
    assert ((found.log_mean - linear.log_px(x)).abs() < 4.5 * found.standard_error + 1e-9).all()
    assert (found.effective_sample_size > 5).all()


def test_the_weights_are_unbiased_when_annealing_is_short(
    linear: Linear, generator: torch.Generator, path: Any
) -> None:
    """The mean of w / p(x) is one however few the temperatures: fails where a transition breaks its density."""
    vae, one = linear.vae(scale=1.6, shift=0.1), linear.sample(1, generator)
    x = one.expand(400, -1).contiguous()
    log_w = annealed.annealed(path(vae, x, "encoder", temperatures=4, leapfrog=2, chains=64))
    ratio = (log_w - linear.log_px(x)).exp().mean(0)
    # Over images, whose chains share a step, at 4.5 standard errors: fails for one seed in 150 000.
    assert abs(float(ratio.mean()) - 1) < 4.5 * float(ratio.std()) / math.sqrt(len(ratio))
    assert float(log_w.std()) > 0.1


def test_the_steps_are_tuned_to_the_acceptance_asked_for(
    linear: Linear, generator: torch.Generator, path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted: list[float] = []
    original = annealed._transition

    def record(*arguments: Any) -> Any:
        state, acceptance = original(*arguments)
        accepted.append(float(acceptance.mean()))
        return state, acceptance

    monkeypatch.setattr(annealed, "_transition", record)
    annealed.annealed(path(linear.vae(), linear.sample(30, generator), temperatures=150, acceptance=0.7))
    frozen = accepted[len(accepted) // 2 :]
    assert sum(frozen[-50:]) / 50 == pytest.approx(0.7, abs=0.1)


def test_bidirectional_monte_carlo_brackets_the_truth(linear: Linear, generator: torch.Generator, path: Any) -> None:
    z = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    x = z @ linear.w.T + linear.b + linear.sigma * torch.randn(60, 7, generator=generator, dtype=torch.float64)
    for temperatures, most in ((6, 6.0), (150, 0.3)):
        forward, reverse = annealed.bidirectional(path(linear.vae(), x, temperatures=temperatures, chains=8), z)
        below = linear.log_px(x) - log_mean(forward).log_mean
        above = -log_mean(-reverse).log_mean - linear.log_px(x)
        for excess in (below, above):
            # At 4.5 standard errors: fails for one seed in 300 000.
            assert float(excess.mean()) > -4.5 * float(excess.std()) / math.sqrt(60)
        gap = below + above
        assert -4.5 * float(gap.std()) / math.sqrt(60) < float(gap.mean()) < most


def test_company_does_not_change_a_chain(linear: Linear, generator: torch.Generator, path: Any) -> None:
    vae, x = linear.vae(), linear.sample(6, generator)
    together = annealed.annealed(path(vae, x, temperatures=8))
    alone = path(vae, x[4:])._replace(images=range(4, 6))
    alone = alone._replace(settings=alone.settings.model_copy(update={"temperatures": 8}))
    torch.testing.assert_close(annealed.annealed(alone), together[:, 4:], rtol=0, atol=1e-9)


def test_evaluations_are_counted(linear: Linear, generator: torch.Generator, path: Any) -> None:
    vae, x = linear.vae(), linear.sample(3, generator)
    seen: list[int] = []
    vae.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[:-1].numel()))
    made = path(vae, x, temperatures=7)
    seen.clear()
    annealed.annealed(made)
    # A value and a gradient at each.
    assert 2 * sum(seen) == 3 * annealed.evaluations(made.settings)
