"""The quasi-Newton search for a mode."""

import pytest
import scipy.optimize
import torch
from torch import Tensor

import logpx
from logpx.curvature import derivatives
from logpx.laplace import STEPS, TOLERANCE, climb, decrement, newton, updated
from logpx.model import log_joint
from pipeline.evaluation.settings import joint
from tests.support import Linear


def random_metric(generator: torch.Generator, images: int, latent: int) -> Tensor:
    root = torch.randn(images, latent, latent, generator=generator, dtype=torch.float64)
    return root @ root.mT + torch.eye(latent)


def test_an_updated_metric_maps_the_step_to_the_change_of_the_gradient(generator: torch.Generator) -> None:
    metric = random_metric(generator, 5, 4)
    step = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    true = 0.5 * metric + random_metric(generator, 5, 4)
    change = (true @ step[..., None])[..., 0]
    assert ((step * change).sum(-1) > 0.2 * torch.einsum("bi,bij,bj->b", step, metric, step)).all()
    new = updated(metric, step, change)
    torch.testing.assert_close((new @ step[..., None])[..., 0], change, rtol=1e-10, atol=0)
    torch.testing.assert_close(new, new.mT)


def test_an_updated_metric_is_positive_definite_where_the_density_bends_upwards(generator: torch.Generator) -> None:
    """Powell's damping: along the step the new metric keeps a fifth of the old one."""
    metric = random_metric(generator, 5, 4)
    step = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    new = updated(metric, step, -step)
    assert (torch.linalg.eigvalsh(new) > 0).all()
    along = [torch.einsum("bi,bij,bj->b", step, matrix, step) for matrix in (new, metric)]
    torch.testing.assert_close(along[0], 0.2 * along[1])


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_a_change_that_is_not_finite_leaves_the_metric_as_it_is(generator: torch.Generator, bad: float) -> None:
    metric = random_metric(generator, 2, 4)
    step = torch.ones(2, 4, dtype=torch.float64)
    new = updated(metric, step, torch.stack([step[0], torch.full((4,), bad)]))
    assert not torch.equal(new[0], metric[0])
    assert torch.equal(new[1], metric[1])
    assert torch.equal(updated(metric, 0 * step, 0 * step), metric)


def test_the_mode_is_found_with_a_poor_metric_and_counted(linear: Linear, generator: torch.Generator) -> None:
    """The prior's precision knows nothing of the images. An image at its mode takes no step."""
    x = linear.sample(6, generator)
    mode = linear.posterior_mean(x)
    start = torch.where(torch.arange(6)[:, None] == 2, mode, torch.zeros_like(mode))
    model, metric = joint(linear.vae()), torch.eye(3).double().expand(6, 3, 3)
    end = climb(model, x, start, metric, lambda rows, _: rows < 0)
    assert torch.equal(end.z[2], mode[2])
    assert end.evaluations[2] == 2
    gain = 0.5 * torch.einsum("bi,ij,bj->b", end.z - mode, linear.precision, end.z - mode)
    assert (gain < 1).all()
    assert (end.evaluations <= 2 * (1 + STEPS)).all()
    assert (end.evaluations[[0, 1, 3, 4, 5]] > 2).all()


def test_an_image_leaves_before_a_step_that_leads_to_a_known_mode(linear: Linear, generator: torch.Generator) -> None:
    x = linear.sample(3, generator)
    mode, start = linear.posterior_mean(x), torch.zeros(3, 3).double()
    exact = linear.precision.expand(3, 3, 3)

    def first_image_near_its_mode(rows: Tensor, z: Tensor) -> Tensor:
        return (rows == 0) & ((z - mode[rows]).norm(dim=-1) < 0.1)

    end = climb(joint(linear.vae()), x, start, exact, first_image_near_its_mode)
    assert end.left.tolist() == [True, False, False]
    assert torch.equal(end.z[0], start[0])
    assert end.evaluations[0] == 2
    torch.testing.assert_close(end.z[1:], mode[1:], rtol=0, atol=0.05)


def test_newton_steps_follow_a_curved_ridge_to_its_top() -> None:
    """Along z₂ = z₁² (Rosenbrock's valley), where quasi-Newton steps had ended; three steps would not be enough."""
    model = logpx.Decoder(
        lambda z: torch.stack([10 * (z[..., 1] - z[..., 0] ** 2), z[..., 0]], -1), logpx.Gaussian(0.3)
    )
    x, start = torch.tensor([[0.0, 1.0]]).double(), torch.tensor([[0.5, -0.5]]).double()
    end = newton(derivatives(model, 2), x, start)
    assert decrement(end.gradient, end.metric) < TOLERANCE
    top = scipy.optimize.minimize(lambda z: -float(log_joint(model, x, torch.tensor(z)[None])), start[0], tol=1e-9)
    assert -top.fun - 2 * TOLERANCE < end.value.item() <= -top.fun + 1e-9
