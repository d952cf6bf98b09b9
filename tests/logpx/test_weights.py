"""Weights are summed in a stream without loss, their standard error is calibrated, heavy tails are flagged."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom, bootstrap

from logpx.weights import MINIMUM_ESS, Weights, diagnose, khat_threshold, pareto_khat


@pytest.mark.parametrize("offset", [0.0, 2_000.0, -2_000.0])
def test_streaming_weights_gives_the_same_sums(offset: float, generator: torch.Generator) -> None:
    log_w = 30 * torch.randn(1000, 3, generator=generator, dtype=torch.float64) + offset
    weights = Weights(3)
    for part in log_w.split([1, 99, 400, 500]):
        weights.add(part)
    torch.testing.assert_close(weights.log_mean, log_w.logsumexp(0) - math.log(1000), rtol=1e-13, atol=0)
    normalised = log_w.softmax(0)
    torch.testing.assert_close(weights.effective_sample_size, 1 / normalised.square().sum(0), rtol=1e-10, atol=0)


def test_equal_weights_count_in_full_and_one_large_weight_counts_once() -> None:
    weights = Weights(2)
    weights.add(torch.tensor([[1.0, 0.0], [1.0, 500.0], [1.0, 0.0]]))
    torch.testing.assert_close(weights.effective_sample_size, torch.tensor([3.0, 1.0]).double())
    assert float(weights.standard_error[0]) == 0


def test_the_standard_error_agrees_with_delta_method_and_bootstrap(generator: torch.Generator) -> None:
    log_w = 0.8 * torch.randn(2000, 1, generator=generator, dtype=torch.float64)
    weights = Weights(1)
    weights.add(log_w)
    w = log_w[:, 0].exp().numpy()
    assert float(weights.standard_error) == pytest.approx(w.std(ddof=1) / math.sqrt(len(w)) / w.mean(), rel=1e-10)
    resampled = bootstrap((w,), lambda sample, axis: np.log(sample.mean(axis)), n_resamples=2000, rng=0, method="basic")
    assert float(weights.standard_error) == pytest.approx(resampled.standard_error, rel=0.1)


def test_intervals_cover_at_their_nominal_rate(generator: torch.Generator) -> None:
    """Log-normal weights with E[w] = 1: 95 % intervals over 2 000 repetitions, against the binomial band."""
    log_w = 0.5 * torch.randn(400, 2000, generator=generator, dtype=torch.float64) - 0.125
    weights = Weights(2000)
    weights.add(log_w)
    covered = int((weights.log_mean.abs() < 1.96 * weights.standard_error).sum())
    low, high = binom.interval(0.9999, 2000, 0.95)
    assert low <= covered <= high


@pytest.mark.parametrize("shape", [0.2, 0.5, 1.0, 2.0])
def test_khat_is_the_shape_of_pareto_weights(shape: float) -> None:
    # w = U^(−k) is Pareto with shape k exactly.
    log_w = torch.from_numpy(shape * np.random.default_rng(0).standard_exponential((20_000, 2)))
    assert pareto_khat(log_w).numpy() == pytest.approx(shape, abs=0.15 * (1 + shape))


@pytest.mark.parametrize("samples", [25, 100, 225, 226, 1000, 4096])
def test_khat_equals_that_of_arviz(samples: int, generator: torch.Generator) -> None:
    from arviz_stats.base.array import array_stats

    log_w = torch.randn(samples, 6, generator=generator, dtype=torch.float64) * torch.tensor([0.01, 0.3, 1, 3, 10, 30])
    # `psislw` takes log-likelihoods, whose negatives are the log-weights of leave-one-out.
    expected = [float(array_stats.psislw(-column)[1]) for column in log_w.T.numpy()]
    assert pareto_khat(log_w).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_khat_depends_on_the_upper_tail_only_and_not_on_the_scale(generator: torch.Generator) -> None:
    log_w = torch.randn(500, 1, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(pareto_khat(log_w + 1000), pareto_khat(log_w), rtol=0, atol=1e-8)
    hopeless = log_w.clone()
    hopeless[hopeless < -1] -= 5000  # such as the samples of a component that explains nothing
    torch.testing.assert_close(pareto_khat(hopeless), pareto_khat(log_w), rtol=0, atol=1e-8)


def test_equal_weights_have_khat_minus_infinity_and_one_giant_plus_infinity() -> None:
    assert float(pareto_khat(torch.zeros(100, 1))) == -math.inf
    assert float(pareto_khat(1000 * torch.arange(100.0)[:, None])) == math.inf
    assert float(pareto_khat(torch.arange(10.0)[:, None])) == math.inf  # too few for a fit


def test_weights_that_differ_by_the_rounding_of_float32_are_equal(generator: torch.Generator) -> None:
    """float32 rounds a log-weight of 900 nats to 6e-5 nats."""
    rounding = 6e-5 * torch.randint(-2, 3, (200, 40), generator=generator)
    for size in (900.0, -900.0, 1e5):
        verdict = diagnose(size * (1 + rounding.double() / 900))
        assert (verdict.khat == -math.inf).all()
        assert verdict.trusted.all()
    # Around 0, as sums of terms that cancel; and a spread that is no rounding.
    assert (pareto_khat(rounding.double()) == -math.inf).all()
    assert (pareto_khat(0.1 * torch.randn(200, 40, generator=generator).double()) > -math.inf).all()
    one_impossible = torch.full((200, 1), 900.0).double()
    one_impossible[0] = -math.inf
    assert float(pareto_khat(one_impossible)) > -math.inf


def test_an_estimate_of_fewer_than_ten_effective_samples_is_not_trusted() -> None:
    """n equal weights and many that are almost nothing have n effective samples, and a tail without weight."""
    for effective, trusted in ((9, False), (11, True), (19, True)):
        log_w = torch.full((2000, 1), -40.0, dtype=torch.float64) - torch.arange(2000)[:, None] / 1e5
        log_w[:effective] = torch.linspace(0, 1e-3, effective)[:, None]
        verdict = diagnose(log_w)
        assert float(verdict.ess) == pytest.approx(effective, rel=1e-3)
        assert (verdict._replace(khat=torch.zeros(1)).ess >= MINIMUM_ESS).item() is trusted


def test_an_estimate_that_float32_rounds_too_much_is_not_trusted(generator: torch.Generator) -> None:
    spread = 0.3 * torch.randn(400, 1, generator=generator, dtype=torch.float64)
    assert diagnose(spread - 1e5).trusted.item() is True
    assert diagnose(spread - 1e6).trusted.item() is False


def test_the_threshold_is_that_of_vehtari_et_al() -> None:
    assert khat_threshold(100) == pytest.approx(0.5)
    assert khat_threshold(1000) == pytest.approx(2 / 3)
    assert khat_threshold(1_000_000) == 0.7


def test_trust_needs_both_a_light_tail_and_enough_samples(generator: torch.Generator) -> None:
    # A target N(0, 1) in one dimension under proposals that are right, too narrow, and too wide.
    normal = torch.randn(1000, generator=generator, dtype=torch.float64)
    columns = []
    for scale in (1.1, 0.2, 400.0):
        z = scale * normal
        columns.append(-0.5 * z**2 + 0.5 * normal**2 + math.log(scale))
    verdict = diagnose(torch.stack(columns, 1))
    assert verdict.trusted.tolist() == [True, False, False]
    assert float(verdict.khat[1]) > 0.7  # too narrow: a heavy tail
    assert float(verdict.ess[2]) < MINIMUM_ESS  # too wide: few samples count
    assert verdict.samples.tolist() == [1000.0] * 3
