"""The learning rate over a training."""

import math

from pipeline.training.schedule import learning_rate_factor


def test_the_learning_rate_rises_then_falls_to_its_final_value() -> None:
    factors = [learning_rate_factor(step, 1000, warmup=0.1, final=0.05) for step in range(1001)]
    assert factors[0] < 0.02
    assert max(factors) == factors[100] == 1
    assert factors[:101] == sorted(factors[:101])
    assert factors[100:] == sorted(factors[100:], reverse=True)
    assert math.isclose(factors[1000], 0.05)
    assert learning_rate_factor(0, 10, warmup=0.0, final=1.0) == 1
