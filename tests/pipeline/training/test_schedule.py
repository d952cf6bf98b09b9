"""The learning rate and the weight of the KL over a training."""

import math

import pytest

from pipeline.training.schedule import beta_factor, learning_rate_factor


@pytest.mark.parametrize(
    ("warmup", "final", "factors"),
    [
        (0.5, 0.2, [1 / 3, 2 / 3, 1, 0.6, 0.2]),  # half way of the cosine is the middle of 1 and 0.2
        (0.0, 0.0, [1, (2 + math.sqrt(2)) / 4, 0.5, (2 - math.sqrt(2)) / 4, 0]),
        (0.0, 1.0, [1, 1, 1, 1, 1]),
        (1.0, 0.2, [1 / 5, 2 / 5, 3 / 5, 4 / 5, 1]),
        (0.9, 0.0, [1 / 4.6, 2 / 4.6, 3 / 4.6, 4 / 4.6, 0.5 * (1 + math.cos(0.4 * math.pi))]),
    ],
)
def test_the_factors_of_four_steps_and_of_the_end(warmup: float, final: float, factors: list[float]) -> None:
    assert [learning_rate_factor(step, 4, warmup, final) for step in range(5)] == pytest.approx(factors)


@pytest.mark.parametrize(
    ("warmup", "factors"),
    [
        (0.0, [1, 1, 1, 1, 1]),
        (0.5, [0, 0.5, 1, 1, 1]),  # the first step has no KL
        (0.6, [0, 1 / 2.4, 2 / 2.4, 1, 1]),
        (1.0, [0, 0.25, 0.5, 0.75, 1]),
    ],
)
def test_the_weight_of_the_kl_rises_to_beta_and_stays_there(warmup: float, factors: list[float]) -> None:
    assert [beta_factor(step, 4, warmup) for step in range(5)] == pytest.approx(factors)
