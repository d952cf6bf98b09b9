"""Laws that every observation model obeys. A new one joins `CASES` and gets all tests."""

import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

import logpx
from logpx.observations.distribution import ImageDistribution, Observation

PIXELS, LEVELS = 3, 6

# An observation model and the values that x can take, or None for all numbers.
CASES: dict[str, tuple[Any, Tensor | None]] = {
    "gaussian": (logpx.Gaussian(0.3), None),
    "gaussian, a sigma per pixel": (logpx.Gaussian(torch.tensor([0.2, 0.5, 1.0]).double()), None),
    "bernoulli": (logpx.Bernoulli(), torch.tensor([0.0, 1.0]).double()),
    "categorical": (logpx.Categorical(LEVELS), (torch.arange(LEVELS).double() + 0.5) / LEVELS),
    "discretised logistic": (logpx.DiscretisedLogistic(LEVELS), (torch.arange(LEVELS).double() + 0.5) / LEVELS),
    "beta-binomial": (logpx.BetaBinomial(LEVELS), (torch.arange(LEVELS).double() + 0.5) / LEVELS),
}
laws = pytest.mark.parametrize("name", CASES)


def some_parameters(observation: Observation, generator: torch.Generator, *batch: int) -> Tensor:
    return torch.randn(*batch, PIXELS * observation.features, generator=generator, dtype=torch.float64)


@laws
def test_probabilities_sum_to_one(name: str, generator: torch.Generator) -> None:
    """Over all images of three pixels: on a grid for densities, exactly for discrete values."""
    observation, values = CASES[name]
    parameters = some_parameters(observation, generator)
    if values is None:
        grid = torch.linspace(-12, 12, 241, dtype=torch.float64)
        x, cell = torch.cartesian_prod(grid, grid, grid), 3 * math.log(0.1)
    else:
        x = torch.cartesian_prod(values, values, values)
        cell = 0.0 if len(values) == 2 else -PIXELS * math.log(len(values))  # the volume of a cell of [0, 1]³
    total = (observation.log_prob(x, parameters.expand(len(x), -1)) + cell).exp().sum()
    assert float(total) == pytest.approx(1, abs=1e-6)


@laws
def test_samples_have_the_mean_and_the_frequencies(name: str, generator: torch.Generator) -> None:
    observation, values = CASES[name]
    parameters = some_parameters(observation, generator)
    p = ImageDistribution(observation, parameters.expand(20_000, -1))
    x = p.sample(generator)
    # Each at 4.5 standard errors: three pixels fail for one seed in 49 000, and the seed is fixed.
    error = x.std(0) / math.sqrt(len(x))
    assert ((x.mean(0) - p.mean[0]).abs() < 4.5 * error).all()
    if values is not None:
        cells = (x * LEVELS).floor() if len(values) > 2 else x
        for number, value in enumerate(values):
            one = torch.full((1, PIXELS), float(value), dtype=torch.float64)
            share = _pixel_log_prob(observation, one, parameters).exp() / (LEVELS if len(values) > 2 else 1)
            frequency = (cells == number).double().mean(0)
            assert ((frequency - share).abs() < 4.5 * (share * (1 - share) / len(x)).sqrt() + 1e-6).all()


def _pixel_log_prob(observation: Any, x: Tensor, parameters: Tensor) -> Tensor:
    """log p of each pixel alone."""
    by_pixel = parameters.unflatten(-1, (observation.features, PIXELS))
    return torch.stack([observation.log_prob(x[0, i : i + 1], by_pixel[..., i]) for i in range(PIXELS)])


@laws
def test_an_image_is_the_sum_of_its_pixels(name: str, generator: torch.Generator) -> None:
    observation, values = CASES[name]
    if "per pixel" in name:
        pytest.skip("its number of pixels is fixed")
    parameters = some_parameters(observation, generator)
    x = torch.rand(1, PIXELS, generator=generator, dtype=torch.float64)
    x = x if values is None or len(values) > 2 else x.round()
    torch.testing.assert_close(
        observation.log_prob(x, parameters)[0],
        _pixel_log_prob(observation, x, parameters).sum(),
        rtol=1e-12,
        atol=1e-12,
    )


@laws
def test_images_and_parameters_broadcast(name: str, generator: torch.Generator) -> None:
    observation, _ = CASES[name]
    x = torch.rand(4, PIXELS, generator=generator, dtype=torch.float64).round()
    parameters = some_parameters(observation, generator, 5, 4)
    together = observation.log_prob(x, parameters)
    assert together.shape == (5, 4)
    for i, j in product(range(5), range(4)):
        torch.testing.assert_close(together[i, j], observation.log_prob(x[j], parameters[i, j]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "name", [name for name in CASES if name in ("categorical", "discretised logistic", "beta-binomial")]
)
def test_a_discrete_density_is_constant_in_each_cell(name: str, generator: torch.Generator) -> None:
    """x = (v + u) / levels, whatever u in [0, 1): so it compares with continuous densities."""
    observation, values = CASES[name]
    assert values is not None
    parameters = some_parameters(observation, generator, 50)
    v = torch.randint(0, LEVELS, (50, PIXELS), generator=generator)
    u = torch.rand(50, PIXELS, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(
        observation.log_prob((v + u) / LEVELS, parameters), observation.log_prob((v + 0.5) / LEVELS, parameters)
    )


def test_the_logistic_keeps_its_digits_in_the_tails() -> None:
    """The mass of a cell far from the location, where a difference of two sigmoids near one is zero in float32."""
    x = torch.tensor([[0.99]])
    parameters = torch.tensor([[0.1, -4.5]])  # 80 scales away
    observation = logpx.DiscretisedLogistic(256)
    exact = observation.log_prob(x.double(), parameters.double())
    assert float(exact) < -70
    torch.testing.assert_close(observation.log_prob(x, parameters).double(), exact, rtol=1e-4, atol=1e-3)


def test_an_observation_model_is_told_from_other_objects() -> None:
    assert all(isinstance(observation, Observation) for observation, _ in CASES.values())
    assert not isinstance(object(), Observation)
