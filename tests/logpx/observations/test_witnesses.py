"""Log-probabilities equal those of SciPy and of torch.distributions, in float64."""

import math

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import Tensor
from torch.distributions import Independent, Normal

import logpx
from logpx.observations.beta_binomial import LEAST
from tests.logpx.observations.families import FAMILIES

LEVELS = 256
EDGES = np.arange(1, LEVELS) / LEVELS


def every_level(levels: int) -> Tensor:
    """x (levels, 1): the middle of each cell."""
    return ((torch.arange(levels).double() + 0.5) / levels)[:, None]


def logistic_log_mass(location: float, scale: float) -> np.ndarray:
    """log P(v) of all levels, as differences of distribution functions on the side where they do not cancel."""
    edges = np.concatenate([[-np.inf], EDGES, [np.inf]])
    below, above = stats.logistic.cdf(edges, location, scale), stats.logistic.sf(edges, location, scale)
    return np.log(np.where(edges[1:] < location, np.diff(below), -np.diff(above)))


def test_gaussian() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, sigma = (torch.rand(4, 1, 9, generator=generator, dtype=torch.float64) + 0.1 for _ in range(2))
    x = torch.rand(3, 9, generator=generator, dtype=torch.float64)
    expected = Independent(Normal(mean, 0.2), 1).log_prob(x)
    torch.testing.assert_close(logpx.Gaussian(0.2).log_prob(x, mean), expected, rtol=1e-12, atol=1e-10)
    scalar = torch.tensor(0.2, dtype=torch.float64)
    torch.testing.assert_close(logpx.Gaussian(scalar).log_prob(x, mean), expected, rtol=1e-12, atol=1e-10)
    expected = Independent(Normal(mean, sigma[0, 0]), 1).log_prob(x)
    torch.testing.assert_close(logpx.Gaussian(sigma[0, 0]).log_prob(x, mean), expected, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("raw", [-50.0, -2.0, 0.0, 3.0, 40.0])
def test_gaussian_per_pixel(raw: float) -> None:
    x = np.linspace(-1, 2, 50)
    sigma = 1 / (256 * math.sqrt(12)) + np.logaddexp(0, raw)
    expected = stats.norm.logpdf(x, special.expit(0.7), sigma)
    found = logpx.GaussianPerPixel(256).log_prob(
        torch.tensor(x)[:, None], torch.tensor([0.7, raw], dtype=torch.float64)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_bernoulli() -> None:
    logits = torch.tensor([-800.0, -3.0, 0.0, 0.5, 25.0, 800.0]).double()[:, None]
    for v in (0.0, 1.0):
        expected = torch.distributions.Bernoulli(logits=logits[:, 0]).log_prob(torch.tensor(v).double())
        for x in (v, v / 2, (v + 0.999) / 2):
            found = logpx.Bernoulli().log_prob(torch.tensor([x]).double(), logits)
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-10)


def test_categorical(generator: torch.Generator) -> None:
    logits = 3 * torch.randn(LEVELS, generator=generator, dtype=torch.float64)
    expected = torch.distributions.Categorical(logits=logits).log_prob(torch.arange(LEVELS)) + math.log(LEVELS)
    found = logpx.Categorical(LEVELS).log_prob(every_level(LEVELS), logits)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("location", "log_scale"), [(0.5, -2.0), (0.1, -4.5), (0.98, -3.0), (-0.3, -1.0), (0.4, 2.0)])
def test_discretised_logistic(location: float, log_scale: float) -> None:
    parameters = torch.tensor([location, log_scale], dtype=torch.float64)
    found = logpx.DiscretisedLogistic(LEVELS).log_prob(every_level(LEVELS), parameters)
    expected = logistic_log_mass(location, math.exp(log_scale)) + math.log(LEVELS)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize("log_scale", [-5.0, -2.0, 3.0])
def test_derivative_of_the_discretised_logistic_if_the_location_is_the_edge_of_a_cell(log_scale: float) -> None:
    location = torch.full((LEVELS, 1), 0.5, dtype=torch.float64, requires_grad=True)  # between levels 127 and 128
    parameters = torch.cat([location, torch.full_like(location, log_scale)], 1)
    logpx.DiscretisedLogistic(LEVELS).log_prob(every_level(LEVELS), parameters).sum().backward()
    scale = math.exp(log_scale)
    density = np.concatenate([[0], stats.logistic.pdf(EDGES, 0.5, scale), [0]])
    expected = -np.diff(density) / np.exp(logistic_log_mass(0.5, scale))
    assert location.grad is not None
    np.testing.assert_allclose(location.grad[:, 0], expected, rtol=1e-6, atol=1e-7)


def test_logistic_mixture(generator: torch.Generator) -> None:
    parameters = 0.7 * torch.randn(3, 4, generator=generator, dtype=torch.float64)
    logits, shifts, log_scales = parameters.numpy()
    weights = np.exp(logits) / np.exp(logits).sum()
    masses = [np.exp(logistic_log_mass((c + 0.5) / 4 + shifts[c], math.exp(-2 + log_scales[c]))) for c in range(4)]
    expected = np.log(weights @ np.stack(masses)) + math.log(LEVELS)
    found = logpx.LogisticMixture(4, LEVELS).log_prob(every_level(LEVELS), parameters.flatten())
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-9)


def test_a_mixture_of_one_component_is_a_discretised_logistic(generator: torch.Generator) -> None:
    raw = torch.randn(3, generator=generator, dtype=torch.float64)
    one = torch.stack([0.5 + raw[1], raw[2] - 2])
    for method in ("log_prob", "mean"):
        x = (every_level(LEVELS),) if method == "log_prob" else ()
        torch.testing.assert_close(
            getattr(logpx.LogisticMixture(1, LEVELS), method)(*x, raw),
            getattr(logpx.DiscretisedLogistic(LEVELS), method)(*x, one),
        )


def test_a_mixture_begins_broad_over_the_grey_levels() -> None:
    """Network outputs of 0: within 0.8 nats of the uniform density at every level but the end ones, symmetric."""
    for components in (3, 5, 10):
        observation = logpx.LogisticMixture(components, LEVELS)
        zeros = torch.zeros(observation.features, dtype=torch.float64)
        log_p = observation.log_prob(every_level(LEVELS), zeros)
        torch.testing.assert_close(log_p, log_p.flip(0))
        assert float(log_p[1:-1].abs().max()) < 0.8
        gradient = torch.func.grad(lambda p, o=observation: o.log_prob(torch.tensor([0.3]).double(), p))(zeros)
        assert len(gradient.unflatten(0, (3, components)).T.unique(dim=0)) == components  # components differ


def raw_of(value: Tensor) -> Tensor:
    """The parameter that softplus turns into value − LEAST."""
    return (value - LEAST) + torch.log(-torch.expm1(LEAST - value))


SHAPES = torch.tensor([1.1e-3, 1e-2, 0.3, 1.0, 7.0, 300.0, 1e4, 1e5]).double()


@pytest.mark.parametrize("a", SHAPES.tolist())
@pytest.mark.parametrize("b", SHAPES.tolist())
def test_beta_binomial(a: float, b: float) -> None:
    """Against SciPy, and float32 against a product that does not cancel.

    B(v + a, n − v + b) / B(a, b) = Π_{i<v} (a + i) Π_{j<n−v} (b + j) / Π_{k<n} (a + b + k).
    """
    n, observation, x = LEVELS - 1, logpx.BetaBinomial(LEVELS), every_level(LEVELS)
    parameters = raw_of(torch.tensor([a, b]).double())
    found = observation.log_prob(x, parameters) - math.log(LEVELS)
    expected = stats.betabinom.logpmf(np.arange(LEVELS), n, a, b)
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-7)

    parameters = parameters.float()
    a32, b32 = (torch.nn.functional.softplus(parameters.double()) + LEAST).tolist()
    rising = [np.concatenate([[0], np.cumsum(np.log(start + np.arange(n)))]) for start in (a32, b32, a32 + b32)]
    choose = (
        special.gammaln(n + 1) - special.gammaln(np.arange(LEVELS) + 1) - special.gammaln(LEVELS - np.arange(LEVELS))
    )
    exact = choose + rising[0] + rising[1][::-1] - rising[2][-1]
    found = observation.log_prob(x.float(), parameters).double() - math.log(LEVELS)
    np.testing.assert_allclose(found, exact, rtol=1e-6, atol=1e-4)


def test_the_witnesses_are_for_every_observation_model() -> None:
    names = {name.removeprefix("test_").replace("_", "") for name in globals()}
    assert all(type(family.observation).__name__.lower() in names for family in FAMILIES.values())
