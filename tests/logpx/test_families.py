"""Log p(x) of every observation model, end to end: float32 estimates beside a quadrature over z in float64.

That the float64 log-probabilities are right is shown by SciPy in `observations/test_witnesses.py`.
"""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import logpx
from tests.logpx.observations.families import FAMILIES, Family, in_dtype

IMAGES, PIXELS, LATENT = 16, 12, 2


def quadrature(decoder: nn.Module, family: Family, x: Tensor) -> Tensor:
    """log ∫ p(x | z) N(z; 0, I) dz by the trapezoidal rule on [−7, 7]², float64."""
    step = 0.05
    axis = torch.arange(-7, 7 + step, step, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)
    log_prior = -0.5 * z.square().sum(-1) - math.log(2 * math.pi)
    with torch.no_grad():
        parameters = decoder(z)
        rows = [family.observation.log_prob(image, parameters) + log_prior for image in x]
    return torch.stack(rows).logsumexp(-1) + 2 * math.log(step)


@pytest.mark.parametrize("name", FAMILIES)
def test_estimates_agree_with_a_quadrature_over_z(name: str) -> None:
    """Every one of 16 images within five standard errors: fails for 1 in 100 000 seeds if errors are normal."""
    family = FAMILIES[name]
    torch.manual_seed(1)
    features = family.observation.features
    decoder = nn.Sequential(nn.Linear(LATENT, 16), nn.Tanh(), nn.Linear(16, features * PIXELS)).double()
    typical = family.parameters(torch.Generator().manual_seed(2), pixels=PIXELS)
    with torch.no_grad():
        decoder[2].bias.copy_(typical)  # pyright: ignore[reportCallIssue]
        generator = torch.Generator().manual_seed(3)
        z = torch.randn(IMAGES, LATENT, generator=generator, dtype=torch.float64)
        x = family.observation.sample(decoder(z), generator)
    exact = quadrature(decoder, family, x)

    model = logpx.Decoder(copy.deepcopy(decoder).float(), in_dtype(family.observation, torch.float32))
    found = logpx.estimate(model, x.float(), latent=LATENT, samples=512)
    assert bool(found.trusted.all())
    error = (found.log_px - exact).abs()
    assert float((error / (found.standard_error + 1e-4)).max()) < 5
    assert float(found.standard_error.max()) < 0.2  # so that the comparison above means something
