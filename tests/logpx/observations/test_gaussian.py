"""What only the Gaussian observation model with one σ has; the laws of all models are in `test_laws.py`."""

import math

import pytest
import torch
from torch import Tensor

from logpx.observations.gaussian import Gaussian, gaussian_ceiling


def test_pairwise_log_prob_is_log_prob_of_each_pair(generator: torch.Generator) -> None:
    mean = torch.rand(4, 9, generator=generator, dtype=torch.float64)
    x = torch.rand(3, 9, generator=generator, dtype=torch.float64)
    pairs = Gaussian(0.2).pairwise_log_prob(x, mean)
    torch.testing.assert_close(pairs, Gaussian(0.2).log_prob(x, mean[:, None]), rtol=1e-12, atol=1e-10)


def test_the_ceiling_is_the_density_at_the_mean() -> None:
    mean = torch.rand(784, dtype=torch.float64)
    assert math.isclose(float(Gaussian(0.07).log_prob(mean, mean)), gaussian_ceiling(784, 0.07), rel_tol=1e-12)
    for sigma in (torch.tensor(0.07).double(), torch.full((784,), 0.07).double()):
        assert Gaussian(sigma).ceiling(784) == pytest.approx(
            gaussian_ceiling(784, float(torch.tensor(0.07))), rel=1e-12
        )


def test_a_learned_sigma_gets_the_gradient_of_all_pixels(generator: torch.Generator) -> None:
    """∂log p/∂σ = −D/σ + ‖x − m‖²/σ³. It vanishes at σ² = ‖x − m‖²/D, the maximum of the likelihood."""
    x, mean = torch.rand(2, 9, generator=generator, dtype=torch.float64)
    squares = (x - mean).square().sum()
    sigma = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)

    def score(sigma: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(Gaussian(sigma).log_prob(x, mean), sigma)
        return gradient

    torch.testing.assert_close(score(sigma), -9 / sigma.detach() + squares / sigma.detach() ** 3, rtol=1e-12, atol=0)
    best = (squares / 9).sqrt().requires_grad_()
    assert abs(float(score(best))) < 1e-11
    assert torch.autograd.gradcheck(lambda sigma: Gaussian(sigma).log_prob(x, mean), sigma)
    per_pixel = torch.rand(9, generator=generator, dtype=torch.float64).add(0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda sigma: Gaussian(sigma).log_prob(x, mean), per_pixel)


def test_a_learned_sigma_agrees_with_a_fixed_one(generator: torch.Generator) -> None:
    x, mean = torch.rand(2, 5, 9, generator=generator, dtype=torch.float64)
    learned = Gaussian(torch.tensor(0.25, dtype=torch.float64, requires_grad=True))
    torch.testing.assert_close(learned.log_prob(x, mean).detach(), Gaussian(0.25).log_prob(x, mean))
    assert learned.ceiling(9) == pytest.approx(Gaussian(0.25).ceiling(9))
    seeded = [each.sample(mean, torch.Generator().manual_seed(1)).detach() for each in (learned, Gaussian(0.25))]
    assert torch.equal(*seeded)


def test_a_learned_sigma_has_the_same_gradient_with_any_number_of_threads(generator: torch.Generator) -> None:
    x, mean = torch.rand(2, 256, 784, generator=generator)
    found: list[Tensor] = []
    for threads in (1, 2, 3, 4):
        torch.set_num_threads(threads)
        sigma = torch.tensor(0.3, requires_grad=True)
        Gaussian(sigma).log_prob(x, mean).sum().backward()
        assert sigma.grad is not None
        found.append(sigma.grad)
    assert torch.stack(found).unique().numel() == 1
