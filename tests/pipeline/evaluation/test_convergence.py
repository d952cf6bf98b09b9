"""Curves of estimates against decoder evaluations, on the linear model with known log p(x)."""

from dataclasses import replace

import pytest
import torch

from logpx import annealing
from logpx.importance import GRADIENTS, Settings
from pipeline.evaluation.convergence import annealed_curve, importance_curve
from tests.support import Linear

SETTINGS = Settings(samples=64, budget=256, chunk=1024, seed=2, proposal="encoder")


def test_with_the_exact_posterior_the_curve_is_flat_and_has_no_error(
    linear: Linear, generator: torch.Generator
) -> None:
    x = linear.sample(6, generator)
    curve = importance_curve(linear.vae(), x, SETTINGS, 32)
    assert curve["evaluations"].tolist() == [4, 8, 16, 32]
    assert curve["method"].unique().tolist() == ["encoder"]
    truth = float(linear.log_px(x).mean())
    for column in ("log_px", "low", "high"):
        assert curve[column].to_numpy() == pytest.approx(truth, abs=1e-6)


def test_a_fitted_proposal_starts_after_its_fit_refinement_and_pilots(
    linear: Linear, generator: torch.Generator
) -> None:
    x = linear.sample(6, generator)
    curve = importance_curve(linear.vae(), x, replace(SETTINGS, proposal="mixture"), 32)
    assert curve["evaluations"].iloc[0] > 4 + 64 // 2 + 2 * sum(GRADIENTS)


def test_annealing_from_the_prior_approaches_the_truth_from_below(linear: Linear, generator: torch.Generator) -> None:
    x, settings = linear.sample(20, generator), annealing.Settings(16, 10, 3, 0.8, 4)
    curve = annealed_curve(linear.vae(), x, settings, [3, 60], chunk=1024)
    truth = float(linear.log_px(x).mean())
    first, last = curve["log_px"]
    assert first < last
    # The error after 60 temperatures is about 0.02 nats; the tolerance is five times that.
    assert last == pytest.approx(truth, abs=0.1)
    assert curve["evaluations"].tolist() == [2 * 2 * 16 * (1 + 2 * 3), 2 * 2 * 16 * (1 + 59 * 3)]
