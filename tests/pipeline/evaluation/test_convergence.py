"""Curves of estimates against decoder evaluations, on the linear model with known log p(x)."""

from dataclasses import replace

import pytest
import torch

from logpx import annealing, importance
from logpx.block import Settings, blocks
from logpx.noise import Stream
from pipeline.evaluation.convergence import annealed_curve, importance_curve
from pipeline.evaluation.settings import prepare
from tests.support import Linear

SETTINGS = Settings(samples=64, budget=256, chunk=1024, seed=2, proposal="encoder")


def test_with_the_exact_posterior_the_curve_is_flat_and_has_no_error(
    linear: Linear, generator: torch.Generator
) -> None:
    x = linear.sample(6, generator)
    curve = importance_curve(prepare(linear.vae(), x, None, SETTINGS), 32)
    assert curve["evaluations"].tolist() == [4, 8, 16, 32]
    assert curve["method"].unique().tolist() == ["encoder"]
    truth = float(linear.log_px(x).mean())
    for column in ("log_px", "low", "high"):
        assert curve[column].to_numpy() == pytest.approx(truth, abs=1e-6)


def test_the_interval_is_that_of_the_mean_over_images(linear: Linear, generator: torch.Generator) -> None:
    """95 %: 1.96 times √(Σ se²) / images, by the delta method for each image."""
    vae, x = linear.vae(scale=1.5), linear.sample(6, generator)
    curve = importance_curve(prepare(vae, x, None, SETTINGS), 32)
    (block,) = blocks(prepare(vae, x, None, SETTINGS))
    log_w = importance.sample_log_weights(block, importance.fit_proposal(block).proposal, Stream.ESTIMATE, 32)
    for count, point in zip((4, 8, 16, 32), curve.to_dict("records"), strict=True):
        w = (log_w[:count] - log_w.amax(0)).exp()
        assert point["log_px"] == pytest.approx(float((w.mean(0).log() + log_w.amax(0)).mean()))
        errors = w.std(0) / w.mean(0) / count**0.5
        half = 1.96 * float(errors.square().sum().sqrt()) / 6
        assert (point["log_px"] - point["low"], point["high"] - point["log_px"]) == pytest.approx((half, half))


def test_a_fitted_proposal_starts_after_its_fit_and_refinement(linear: Linear, generator: torch.Generator) -> None:
    vae, x, settings = linear.vae(), linear.sample(6, generator), replace(SETTINGS, proposal="mixture")
    curve = importance_curve(prepare(vae, x, None, settings), 32)
    (block,) = blocks(prepare(vae, x, None, settings))
    before = float(importance.fit_proposal(block).evaluations.double().mean())
    assert curve["evaluations"].tolist() == pytest.approx([before + count for count in (4, 8, 16, 32)])


def test_annealing_from_the_prior_approaches_the_truth_from_below(linear: Linear, generator: torch.Generator) -> None:
    x, settings = linear.sample(20, generator), annealing.Settings(16, 10, 3, 0.8)
    curve = annealed_curve(prepare(linear.vae(), x, None, replace(SETTINGS, seed=4)), settings, [3, 60])
    truth = float(linear.log_px(x).mean())
    first, last = curve["log_px"]
    assert first < last
    # The error after 60 temperatures is about 0.02 nats; the tolerance is five times that.
    assert last == pytest.approx(truth, abs=0.1)
    assert curve["evaluations"].tolist() == [2 * 2 * 16 * (1 + 2 * 3), 2 * 2 * 16 * (1 + 59 * 3)]
