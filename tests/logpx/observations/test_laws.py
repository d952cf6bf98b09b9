"""Laws that every observation model obeys. A new one joins the table in `families.py` and gets all tests.

Integrals over a pixel are exact sums over its cells, or quadrature to machine precision: see `Family.support`.
"""

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacrev, vmap
from torch.utils._python_dispatch import TorchDispatchMode

import logpx
from logpx.observations.distribution import ImageDistribution, Observation
from tests.logpx.observations.families import FAMILIES, LEVELS, Family, discrete_families, every_family, in_dtype

DRAWS, SAMPLES = 10, 20_000
EXTREMES = torch.tensor([-1e4, -30.0, -7.0, -1.0, 0.0, 1.0, 7.0, 30.0, 1e4])


def expectation(family: Family, parameters: Tensor, g: Callable[[Tensor], Tensor]) -> Tensor:
    """E[g(x)] of one pixel for each of the parameters (draws, features), with g of x (points, 1)."""
    x, weights = family.support()
    density = family.observation.log_prob(x[:, None, None], parameters).exp()
    return ((weights * density.T).T * g(x[:, None])).sum(0)


def derivatives(family: Family) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """Gradient and Hessian in the parameters of every pixel x (points, 1), for all parameters (draws, features)."""

    def each(derivative: Callable[..., Any]) -> Callable[..., Tensor]:
        return vmap(vmap(derivative, in_dims=(None, 0)), in_dims=(0, None))

    def log_prob(x: Tensor, parameters: Tensor) -> Tensor:
        return family.observation.log_prob(x, parameters)

    return each(grad(log_prob, 1)), each(jacrev(jacrev(log_prob, 1), 1))


@every_family
def test_it_is_an_observation_model(family: Family) -> None:
    assert isinstance(family.observation, Observation)
    assert not isinstance(object(), Observation)


@every_family
def test_probabilities_sum_to_one(family: Family, generator: torch.Generator) -> None:
    total = expectation(family, family.parameters(generator, DRAWS), torch.ones_like)
    torch.testing.assert_close(total, torch.ones(DRAWS).double(), rtol=0, atol=1e-10)


@every_family
def test_only_a_discrete_model_is_constant_in_each_cell(family: Family, generator: torch.Generator) -> None:
    """x = (v + u) / levels, whatever u in [0, 1)."""
    parameters = family.parameters(generator, 50, pixels=3)
    v = torch.randint(0, family.levels, (50, 3), generator=generator).double()
    first, *others = (family.observation.log_prob((v + u) / family.levels, parameters) for u in (0.0, 0.3, 1 - 1e-12))
    assert all(torch.equal(first, other) for other in others) == family.observation.discrete


@every_family
def test_an_image_is_the_sum_of_its_pixels(family: Family, generator: torch.Generator) -> None:
    """Parameters hold the first feature of all pixels, then the second, and so on."""
    x = torch.rand(5, 4, generator=generator, dtype=torch.float64)
    parameters = family.parameters(generator, 5, pixels=4)
    pixels = parameters.unflatten(-1, (-1, 4)).mT  # (5, 4 pixels, features)
    torch.testing.assert_close(
        family.observation.log_prob(x, parameters),
        family.observation.log_prob(x[..., None], pixels).sum(-1),
        rtol=1e-12,
        atol=1e-12,
    )
    torch.testing.assert_close(
        family.observation.mean(parameters), family.observation.mean(pixels)[..., 0], rtol=1e-12, atol=1e-12
    )


@every_family
def test_images_and_parameters_broadcast(family: Family, generator: torch.Generator) -> None:
    observation = family.observation
    x = torch.rand(4, 3, generator=generator, dtype=torch.float64)
    parameters = family.parameters(generator, 5, 4, pixels=3)
    together = observation.log_prob(x, parameters)
    assert together.shape == (5, 4)
    for i, j in product(range(5), range(4)):
        torch.testing.assert_close(together[i, j], observation.log_prob(x[j], parameters[i, j]), rtol=1e-12, atol=1e-12)
    one = observation.log_prob(x, parameters[0, 0])
    torch.testing.assert_close(one, observation.log_prob(x, parameters[0, :1].expand(4, -1)), rtol=1e-12, atol=1e-12)


@every_family
def test_derivatives_equal_central_differences(family: Family, generator: torch.Generator) -> None:
    x = torch.rand(4, 3, generator=generator, dtype=torch.float64)
    parameters = family.parameters(generator, 4, pixels=3).requires_grad_()

    def log_prob(parameters: Tensor) -> Tensor:
        return family.observation.log_prob(x, parameters)

    assert torch.autograd.gradcheck(log_prob, parameters, rtol=1e-6, atol=1e-7)
    assert torch.autograd.gradgradcheck(log_prob, parameters, rtol=1e-5, atol=1e-6)


@every_family
def test_torch_func_gives_the_derivatives_of_autograd(family: Family, generator: torch.Generator) -> None:
    x = torch.rand(4, 1, generator=generator, dtype=torch.float64)
    parameters = family.parameters(generator, DRAWS)
    gradient, hessian = (derivative(x, parameters) for derivative in derivatives(family))
    for i, j in product(range(4), range(DRAWS)):

        def log_prob(parameters: Tensor, x: Tensor = x[i]) -> Tensor:
            return family.observation.log_prob(x, parameters)

        by_autograd = torch.autograd.functional.jacobian(log_prob, parameters[j])
        torch.testing.assert_close(gradient[i, j], by_autograd, rtol=1e-10, atol=1e-12)
        by_autograd = torch.autograd.functional.hessian(log_prob, parameters[j])
        torch.testing.assert_close(hessian[i, j], by_autograd, rtol=1e-10, atol=1e-12)


@every_family
def test_the_mean_score_is_zero_and_the_information_is_the_mean_curvature(
    family: Family, generator: torch.Generator
) -> None:
    """E[s] = 0 and E[s sᵀ] = −E[∂²log p], s = ∂log p / ∂parameters: Bartlett's identities."""
    parameters = family.parameters(generator, DRAWS)
    x, weights = family.support()
    score, hessian = (derivative(x[:, None], parameters) for derivative in derivatives(family))
    mass = (weights * family.observation.log_prob(x[:, None, None], parameters).exp().T).T
    mean = torch.einsum("nd,ndf->df", mass, score)
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-9)
    information = torch.einsum("nd,ndf,ndg->dfg", mass, score, score)
    assert float(information.abs().amax()) > 0.01  # there is something to compare
    torch.testing.assert_close(information, -torch.einsum("nd,ndfg->dfg", mass, hessian), rtol=1e-8, atol=1e-9)


@every_family
def test_the_mean_is_the_expectation(family: Family, generator: torch.Generator) -> None:
    """Of x; of v for Bernoulli pixels."""
    parameters = family.parameters(generator, DRAWS)
    mean = family.observation.mean(parameters)[:, 0]
    torch.testing.assert_close(mean, expectation(family, parameters, family.shown), rtol=0, atol=1e-9)


@every_family
def test_samples_have_the_mean_and_the_variance(family: Family, generator: torch.Generator) -> None:
    """At 4.5 standard errors, which are exact: 20 comparisons fail for one seed in 7 000, and the seed is fixed."""
    parameters = family.parameters(generator, DRAWS)
    x = family.observation.sample(parameters.expand(SAMPLES, -1, -1), generator)[..., 0]
    mean = expectation(family, parameters, lambda x: x)
    second, fourth = (expectation(family, parameters, lambda x, n=n: (x - mean) ** n) for n in (2, 4))
    assert ((x.mean(0) - mean).abs() < 4.5 * (second / SAMPLES).sqrt()).all()
    error = ((fourth - second.square()) / SAMPLES).sqrt()
    assert (((x - mean).square().mean(0) - second).abs() < 4.5 * error).all()


@every_family
def test_samples_have_the_distribution_function(family: Family, generator: torch.Generator) -> None:
    """At the edges of the cells, or of intervals of 0.1 for continuous x.

    P(sup |F_n − F| > ε) ≤ 2 exp(−2 n ε²) for any distribution (Massart 1990). Ten pixels at 1e-6 each: fails for less
    than one seed in 100 000, and the seed is fixed.
    """
    edges = torch.arange(family.levels + 1).double() / family.levels
    if not family.observation.discrete:
        edges = torch.arange(-3, 4, 0.1, dtype=torch.float64)
    parameters = family.parameters(generator, DRAWS)
    x = family.observation.sample(parameters.expand(SAMPLES, -1, -1), generator)[..., 0]
    if family.observation.discrete:
        assert 0 <= float(x.min()) <= float(x.max()) < 1
    # Half of a point of quadrature on the edge itself counts as below.
    exact = torch.stack(
        [
            expectation(family, parameters, lambda x, edge=edge: 0.5 * ((x < edge - 1e-9).double() + (x < edge + 1e-9)))
            for edge in edges
        ]
    )
    found = torch.stack([(x < edge).double().mean(0) for edge in edges])
    assert float((found - exact).abs().max()) < math.sqrt(math.log(2 / 1e-6) / (2 * SAMPLES)) + 1e-4


@every_family
def test_the_generator_determines_the_samples(family: Family, generator: torch.Generator) -> None:
    p = ImageDistribution(family.observation, family.parameters(generator, 2, pixels=30))
    first, again, other = (p.sample(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert first.shape == p.mean.shape == (2, 30)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@discrete_families
def test_samples_are_in_the_middle_of_their_cell_on_average(family: Family, generator: torch.Generator) -> None:
    """u is uniform in the cell. Two comparisons at 4.5 standard errors fail for one seed in 70 000, which is fixed."""
    x = family.observation.sample(family.parameters(generator, SAMPLES), generator)
    u = x * family.levels - (x * family.levels).floor()
    assert abs(float(u.mean()) - 1 / 2) < 4.5 * math.sqrt(1 / 12 / SAMPLES)
    assert abs(float((u - 0.5).square().mean()) - 1 / 12) < 4.5 * math.sqrt(1 / 180 / SAMPLES)


@every_family
def test_no_log_density_is_above_the_ceiling(family: Family, generator: torch.Generator) -> None:
    observation = family.observation
    x = torch.rand(1000, 3, generator=generator, dtype=torch.float64)
    ceiling = observation.ceiling(3) + 1e-9
    assert float(observation.log_prob(x, family.parameters(generator, 1000, pixels=3)).max()) < ceiling
    index = torch.randint(0, len(EXTREMES), (1000, 3 * observation.features), generator=generator)
    assert float(observation.log_prob(x, EXTREMES.double()[index]).max()) < ceiling


@every_family
def test_the_ceiling_is_approached(family: Family) -> None:
    value, parameters = family.certain
    x = torch.full((784,), value, dtype=torch.float64)
    found = family.observation.log_prob(x, torch.tensor(parameters).double().repeat_interleave(784))
    assert float(found) == pytest.approx(family.observation.ceiling(784), abs=784 * 2e-7)


@pytest.mark.parametrize("levels", [2, 17, 256])
@every_family
def test_float32_is_accurate_at_the_extremes(family: Family, levels: int, generator: torch.Generator) -> None:
    """Parameters up to ±10⁴, all combinations or 5 000 of them, and the lowest and highest levels."""
    observation = in_dtype(family.make(levels), torch.float32)
    levels = 2 if not family.density else levels
    parameters = EXTREMES[torch.randint(0, len(EXTREMES), (5000, observation.features), generator=generator)]
    if observation.features <= 3:
        parameters = torch.cartesian_prod(*[EXTREMES] * observation.features).view(-1, observation.features)
    v = torch.tensor([0, 1, levels // 2, levels - 2, levels - 1]).clamp(0, levels - 1).unique().float()
    low, high = v / levels, ((v + 1) / levels).nextafter(torch.zeros(()))
    x = torch.cat([low, high])[:, None, None]
    found, exact = observation.log_prob(x, parameters), observation.log_prob(x.double(), parameters.double())
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-3)

    def log_prob(x: Tensor, parameters: Tensor) -> Tensor:
        return observation.log_prob(x, parameters)

    some = parameters[torch.randperm(len(parameters), generator=generator)[:100]]
    for derivative in (grad(log_prob, 1), jacrev(jacrev(log_prob, 1), 1)):
        assert vmap(vmap(derivative, (None, 0)), (0, None))(x[:, 0], some).isfinite().all()
    mean, exact = observation.mean(parameters), observation.mean(parameters.double())
    torch.testing.assert_close(mean.double(), exact, rtol=1e-5, atol=1e-5)
    assert observation.sample(parameters, generator).isfinite().all()


@every_family
def test_under_autocast_nothing_is_rounded(family: Family, generator: torch.Generator) -> None:
    observation, x = family.observation, torch.rand(7, 3, generator=generator)
    parameters = family.parameters(generator, 7, pixels=3).float()
    with torch.autocast("cpu", torch.bfloat16):
        log_p, mean = observation.log_prob(x, parameters), observation.mean(parameters)
        samples = observation.sample(parameters, torch.Generator().manual_seed(1))
    assert torch.equal(log_p, observation.log_prob(x, parameters))
    assert torch.equal(mean, observation.mean(parameters))
    assert torch.equal(samples, observation.sample(parameters, torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@every_family
def test_results_have_the_dtype_of_x_and_parameters(
    family: Family, dtype: torch.dtype, generator: torch.Generator
) -> None:
    observation = in_dtype(family.observation, dtype)
    exact = family.parameters(generator, 50, pixels=3)
    parameters = exact.to(dtype)
    x = (torch.randint(0, LEVELS, (50, 3), generator=generator) + 0.5).to(dtype) / LEVELS
    results = (observation.log_prob(x, parameters), observation.mean(parameters), observation.sample(parameters))
    for result in results:
        assert result.dtype == dtype
        assert result.isfinite().all()
    tolerance = 16 * torch.finfo(dtype).eps
    expected = family.observation.log_prob(x.double(), parameters.double())
    torch.testing.assert_close(results[0].double(), expected, rtol=tolerance, atol=max(3 * tolerance, 1e-6))


class LargestTensor(TorchDispatchMode):
    """Records the largest number of elements that the result of an operation has."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.elements = max(self.elements, result.numel())
        return result


@pytest.mark.parametrize("method", ["log_prob", "mean", "sample"])
@every_family
def test_no_tensor_is_larger_than_the_parameters(family: Family, method: str, generator: torch.Generator) -> None:
    """So memory does not grow with the number of grey levels, except that the categorical has a logit for each."""
    observation = family.make(256)
    parameters = torch.randn(10, 5 * observation.features, generator=generator, dtype=torch.float64)
    x = torch.rand(10, 5, generator=generator, dtype=torch.float64)
    with LargestTensor() as largest:
        getattr(observation, method)(*(x, parameters) if method == "log_prob" else (parameters,))
    assert largest.elements <= parameters.numel()


def test_the_table_has_every_observation_model() -> None:
    models = {name for name in logpx.__all__ if isinstance(getattr(logpx, name), type)}
    models = {name for name in models if hasattr(getattr(logpx, name), "ceiling")}
    assert models == {type(family.observation).__name__ for family in FAMILIES.values()}
