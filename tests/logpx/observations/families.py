"""The table of observation models: a new one joins `FAMILIES`, and every law tests it."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import logpx
from logpx.observations.distribution import Observation

LEVELS = 6


@dataclass(frozen=True)
class Family:
    """An observation model with typical parameters.

    Attributes:
        make: the model for a number of grey levels, which continuous models may ignore.
        centre, spread: mean and standard deviation of typical parameters, one number per feature or one for all.
        certain: an x and parameters of one pixel for which log p(x) is, nearly, the ceiling; `LEVELS` levels.
        levels: that v can have, 2 of Bernoulli pixels.
        density: whether `log_prob` is a log-density of x, and not log P(v).
        shown: what `mean` is the mean of, as a function of x.
    """

    make: Callable[[int], Observation]
    certain: tuple[float, tuple[float, ...]]
    centre: tuple[float, ...] = (0.0,)
    spread: tuple[float, ...] = (1.0,)
    levels: int = LEVELS
    density: bool = True
    shown: Callable[[Tensor], Tensor] = lambda x: x

    @property
    def observation(self) -> Observation:
        return self.make(self.levels)

    def parameters(self, generator: torch.Generator, *batch: int, pixels: int = 1) -> Tensor:
        """Random parameters (*batch, features · pixels), float64."""
        noise = torch.randn(*batch, self.observation.features, pixels, generator=generator, dtype=torch.float64)
        centre, spread = (torch.tensor(each).double()[:, None] for each in (self.centre, self.spread))
        return (centre + spread * noise).flatten(-2)

    def support(self) -> tuple[Tensor, Tensor]:
        """Values of x of a pixel, and weights: ∫ g(x) p(x) dx = Σ weight · g(x) · exp(log_prob(x)).

        Discrete models: three Gauss-Legendre nodes per cell, exact for polynomials g up to degree 5. Continuous ones:
        the trapezoidal rule, whose error for a Gaussian is e^(−2π²σ²/h²), less than 1e-70 for the σ ≥ 0.03 here.
        """
        if not self.observation.discrete:
            step = 0.01
            return torch.arange(-20, 21, step, dtype=torch.float64), torch.tensor(step, dtype=torch.float64)
        u = 0.5 + torch.tensor([-0.5, 0.0, 0.5]).double() * 0.6**0.5
        x = ((torch.arange(self.levels)[:, None] + u) / self.levels).flatten()
        weights = torch.tensor([5, 8, 5]).double().repeat(self.levels) / 18
        return x, weights / self.levels if self.density else weights


def in_dtype(observation: Observation, dtype: torch.dtype) -> Observation:
    """The same observation model, with its own tensors in this dtype."""
    if isinstance(observation, logpx.Gaussian) and isinstance(observation.sigma, Tensor):
        return logpx.Gaussian(observation.sigma.to(dtype))
    return observation


FAMILIES = {
    "gaussian": Family(lambda levels: logpx.Gaussian(0.3), (0.5, (0.5,))),
    "gaussian, sigma a scalar tensor": Family(lambda levels: logpx.Gaussian(torch.tensor(0.3).double()), (0.5, (0.5,))),
    "gaussian, sigma a vector": Family(lambda levels: logpx.Gaussian(torch.tensor([0.3]).double()), (0.5, (0.5,))),
    "gaussian per pixel": Family(logpx.GaussianPerPixel, (0.5, (0.0, -1e4))),
    "bernoulli": Family(
        lambda levels: logpx.Bernoulli(),
        (0.25, (-1e4,)),
        spread=(3.0,),
        levels=2,
        density=False,
        shown=lambda x: (2 * x).floor(),
    ),
    "categorical": Family(logpx.Categorical, (0.5 / LEVELS, (1e4,) + (0.0,) * (LEVELS - 1)), spread=(2.0,)),
    "discretised logistic": Family(
        logpx.DiscretisedLogistic, (0.5 / LEVELS, (-1.0, -7.0)), centre=(0.5, -2.0), spread=(0.4, 1.0)
    ),
    "logistic mixture": Family(
        lambda levels: logpx.LogisticMixture(3, levels),
        (0.5 / LEVELS, (0.0,) * 3 + (-2.0,) * 3 + (-7.0,) * 3),
        spread=(1.5,) * 3 + (0.4,) * 3 + (1.0,) * 3,
    ),
    "beta-binomial": Family(logpx.BetaBinomial, (0.5 / LEVELS, (-1e4, 1e5)), spread=(3.0,)),
}
every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
discrete_families = pytest.mark.parametrize(
    "family",
    [family for family in FAMILIES.values() if family.observation.discrete],
    ids=[name for name, family in FAMILIES.items() if family.observation.discrete],
)
