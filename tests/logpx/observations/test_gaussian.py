"""The Gaussian observation model: against torch, against itself, and its integral is one."""

import math

import torch
from torch.distributions import Independent, Normal

from logpx.observations.distribution import ImageDistribution
from logpx.observations.gaussian import Gaussian, gaussian_ceiling


def test_log_prob_equals_that_of_torch(generator: torch.Generator) -> None:
    mean = torch.rand(4, 1, 9, generator=generator, dtype=torch.float64)
    x = torch.rand(3, 9, generator=generator, dtype=torch.float64)
    expected = Independent(Normal(mean, 0.2), 1).log_prob(x)
    torch.testing.assert_close(Gaussian(0.2).log_prob(x, mean), expected, rtol=1e-12, atol=1e-10)


def test_pairwise_log_prob_is_log_prob_of_each_pair(generator: torch.Generator) -> None:
    mean = torch.rand(4, 9, generator=generator, dtype=torch.float64)
    x = torch.rand(3, 9, generator=generator, dtype=torch.float64)
    pairs = Gaussian(0.2).pairwise_log_prob(x, mean)
    torch.testing.assert_close(pairs, Gaussian(0.2).log_prob(x, mean[:, None]), rtol=1e-12, atol=1e-10)


def test_the_density_integrates_to_one() -> None:
    grid = torch.linspace(-4, 5, 901, dtype=torch.float64)
    x = torch.cartesian_prod(grid, grid)
    density = Gaussian(0.4).log_prob(x, torch.tensor([0.2, 0.7], dtype=torch.float64)).exp()
    assert math.isclose(float(density.sum()) * 0.01**2, 1.0, rel_tol=1e-9)


def test_the_ceiling_is_the_density_at_the_mean() -> None:
    mean = torch.rand(784, dtype=torch.float64)
    assert math.isclose(float(Gaussian(0.07).log_prob(mean, mean)), gaussian_ceiling(784, 0.07), rel_tol=1e-12)


def test_samples_have_the_mean_and_the_deviation(generator: torch.Generator) -> None:
    samples = Gaussian(0.1).sample(torch.full((100_000,), 0.5), generator)
    # 4.5 standard errors: fails once in 150 000 seeds, and the seed is fixed.
    assert abs(float(samples.mean()) - 0.5) < 4.5 * 0.1 / math.sqrt(100_000)
    assert abs(float(samples.std()) - 0.1) < 4.5 * 0.1 / math.sqrt(200_000)


def test_the_generator_determines_the_samples() -> None:
    p = ImageDistribution(Gaussian(0.1), torch.full((2, 3), 0.5))
    first, again, other = (p.sample(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
