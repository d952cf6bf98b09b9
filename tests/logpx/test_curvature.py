"""Derivatives of any model: by automatic differentiation as in closed form, and exact for models that have none."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import (
    AffineTransform,
    Independent,
    MultivariateNormal,
    Normal,
    Transform,
    TransformedDistribution,
    constraints,
)

import logpx
from logpx import curvature, mlp_curvature
from logpx.data import Data, select
from logpx.model import log_joint
from pipeline.evaluation.settings import joint
from tests.support import Linear


def decoder(activation: nn.Module, observation: Any, seed: int = 0) -> logpx.Decoder:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(3, 9), activation, nn.Sequential(nn.Linear(9, 8), nn.Tanh()), nn.Linear(8, 6))
    return logpx.Decoder(network.double(), observation)


@pytest.mark.parametrize("observation", [logpx.Gaussian(0.3), logpx.Bernoulli()])
@pytest.mark.parametrize("activation", [nn.SiLU(), nn.ELU(), nn.Softplus()])
def test_the_closed_form_equals_automatic_differentiation(
    activation: nn.Module, observation: Any, generator: torch.Generator
) -> None:
    model = decoder(activation, observation)
    x = torch.rand(5, 6, generator=generator, dtype=torch.float64).round()
    z = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    chain = mlp_curvature.chain(model)
    assert chain is not None
    value, gradient, _, hessian = mlp_curvature.curvature(chain, x, z)
    automatic = curvature.automatic(model, x, z)
    torch.testing.assert_close(value, automatic.value, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradient, automatic.gradient, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(hessian, automatic.hessian, rtol=1e-8, atol=1e-8)


def test_other_models_have_no_closed_form() -> None:
    chain = decoder(nn.SiLU(), logpx.Bernoulli())
    assert mlp_curvature.chain(chain) is not None
    for other in (
        logpx.Decoder(chain.decode, logpx.DiscretisedLogistic()),
        logpx.Decoder(chain.decode, logpx.Bernoulli(), torch.distributions.Normal(0, 1)),
        logpx.Decoder(nn.Sequential(nn.Linear(3, 6), nn.Softmax(-1)), logpx.Bernoulli()),
        logpx.Decoder(lambda z: z, logpx.Bernoulli()),
    ):
        assert mlp_curvature.chain(other) is None


@dataclass
class Labelled:
    """p(z | y) = N(c_y, 1), x = W z + noise: the prior depends on the second part of x."""

    centres: Tensor
    w: Tensor

    def log_prior(self, z: Tensor, x: tuple[Tensor, Tensor]) -> Tensor:
        return torch.distributions.Normal(self.centres[x[1]], 1.0, validate_args=False).log_prob(z).sum(-1)

    def log_likelihood(self, x: tuple[Tensor, Tensor], z: Tensor) -> Tensor:
        return logpx.Gaussian(0.5).log_prob(x[0], z @ self.w.T)

    def sample_prior(self, shape: tuple[int, ...], x: tuple[Tensor, Tensor]) -> Tensor:
        centre = self.centres[x[1]]
        return centre + torch.randn(*shape, *centre.shape, dtype=centre.dtype)


def test_derivatives_of_a_model_of_image_and_label(generator: torch.Generator) -> None:
    w = torch.randn(7, 2, generator=generator, dtype=torch.float64)
    model = Labelled(3 * torch.randn(4, 2, generator=generator, dtype=torch.float64), w)
    x = torch.randn(5, 7, generator=generator, dtype=torch.float64), torch.tensor([0, 3, 1, 3, 2])
    z = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    found = curvature.derivatives(model, 2).at(x, z)
    precision = torch.eye(2, dtype=torch.float64) + w.T @ w / 0.25
    torch.testing.assert_close(found.hessian, precision.expand(5, 2, 2), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.surrogate, found.hessian, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.value, log_joint(model, x, z))


def test_the_surrogate_has_the_absolute_curvature() -> None:
    hessian = torch.diag(torch.tensor([2.0, -3.0, 0.0], dtype=torch.float64))[None]
    expected = torch.diag(torch.tensor([2.0, 3.0, 3.0 * curvature.FLOOR], dtype=torch.float64))[None]
    torch.testing.assert_close(curvature.absolute(hessian), expected)


def test_derivatives_of_a_linear_model_are_those_of_its_posterior(linear: Linear, generator: torch.Generator) -> None:
    """By automatic differentiation, although the model has a closed form: the Hessian is the posterior's precision."""
    x = linear.sample(5, generator)
    z = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    found = curvature.automatic(joint(linear.vae()), x, z)
    posterior = MultivariateNormal(linear.posterior_mean(x), linear.precision.inverse())
    torch.testing.assert_close(found.value, linear.log_px(x) + posterior.log_prob(z), rtol=0, atol=1e-8)
    torch.testing.assert_close(found.gradient, (linear.posterior_mean(x) - z) @ linear.precision, rtol=0, atol=1e-8)
    torch.testing.assert_close(found.hessian, linear.precision.expand(5, 3, 3), rtol=0, atol=1e-8)
    torch.testing.assert_close(found.surrogate, found.hessian, rtol=0, atol=1e-8)


class Coupling(Transform):
    """A flow's layer of two dimensions: (a, b) → (a, t(a) + b e^s(a)), t(a) = a², s(a) = ½ sin a."""

    bijective = True
    domain = codomain = constraints.independent(constraints.real, 1)

    def _call(self, x: Tensor) -> Tensor:
        a, b = x.unbind(-1)
        return torch.stack([a, a.square() + b * (0.5 * a.sin()).exp()], -1)

    def _inverse(self, y: Tensor) -> Tensor:
        a, b = y.unbind(-1)
        return torch.stack([a, (b - a.square()) * (-0.5 * a.sin()).exp()], -1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return 0.5 * x[..., 0].sin()


def normal(mean: float, scale: float, dimensions: int = 2) -> Independent:
    mean_and_scale = torch.full((dimensions,), mean).double(), torch.full((dimensions,), scale).double()
    return Independent(Normal(*mean_and_scale, validate_args=False), 1, validate_args=False)


def flow() -> Any:
    return TransformedDistribution(normal(0.0, 1.0), [Coupling()], validate_args=False)


def convolutions(channels: int) -> nn.Sequential:
    """Two latent dimensions to `channels` images of 4 × 4 pixels."""
    torch.manual_seed(1)
    layers = nn.Linear(2, 12), nn.Unflatten(1, (3, 2, 2)), nn.SiLU(), nn.ConvTranspose2d(3, channels, 4, 2, 1)
    return nn.Sequential(*layers).double()


def without_closed_form(name: str, generator: torch.Generator) -> tuple[logpx.Model, Data]:
    """A model with two latent dimensions, and three images."""
    grey = torch.rand(3, 1, 4, 4, generator=generator, dtype=torch.float64)
    if name == "label":
        w = torch.randn(16, 2, generator=generator, dtype=torch.float64)
        centres = torch.randn(4, 2, generator=generator, dtype=torch.float64)
        return Labelled(centres, w), (grey.flatten(1), torch.tensor([2, 0, 3]))
    return {
        "convolutions": logpx.Decoder(convolutions(1), logpx.Gaussian(0.3)),
        "logistic": logpx.Decoder(convolutions(2), logpx.DiscretisedLogistic()),
        "beta-binomial": logpx.Decoder(convolutions(2), logpx.BetaBinomial(16)),
        "flow": logpx.Decoder(nn.Sequential(nn.Linear(2, 16), nn.SiLU()).double(), logpx.Gaussian(0.3), flow()),
    }[name], grey


WITHOUT_CLOSED_FORM = "convolutions", "logistic", "beta-binomial", "flow", "label"


@pytest.mark.parametrize("name", WITHOUT_CLOSED_FORM)
def test_derivatives_of_other_models_are_those_of_each_image(name: str, generator: torch.Generator) -> None:
    """Against PyTorch's functions for one image at a time, which `torch.func` has no part in."""
    model, x = without_closed_form(name, generator)
    assert mlp_curvature.chain(model) is None
    z = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    found = curvature.derivatives(model, 2).at(x, z)
    torch.testing.assert_close(found.value, log_joint(model, x, z))
    for i in range(3):
        of_one: Callable[..., Any] = lambda z, i=i: log_joint(model, select(x, slice(i, i + 1)), z[None])[0]  # noqa: E731
        gradient = torch.autograd.functional.jacobian(of_one, z[i])
        hessian = torch.autograd.functional.hessian(of_one, z[i])
        torch.testing.assert_close(found.gradient[i], gradient, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(found.hessian[i], -hessian, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", WITHOUT_CLOSED_FORM)
def test_log_px_of_other_models_is_that_of_quadrature(name: str, generator: torch.Generator) -> None:
    model, x = without_closed_form(name, generator)
    axis = torch.linspace(-9, 9, 241, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)[:, None].expand(-1, 3, -1)
    with torch.no_grad():
        exact = log_joint(model, x, grid).logsumexp(0) + 2 * (axis[1] - axis[0]).log()
    found = logpx.estimate(model, x, latent=2)
    assert found.trusted.all()
    # Three images at 4.5 standard errors: fails for one seed in 49 000, and the seed is fixed.
    assert ((found.log_px - exact).abs() < 4.5 * found.standard_error + 1e-9).all()
    assert (found.standard_error < 0.1).all()


def test_a_prior_that_is_a_distribution_has_its_closed_form(linear: Linear, generator: torch.Generator) -> None:
    """z = 1 + 2 e: log p(x) is that of N(b + W 1, 4 W Wᵀ + σ² I)."""
    x = linear.sample(6, generator)
    plain = joint(linear.vae())
    assert isinstance(plain, logpx.Decoder)
    moved: Any = TransformedDistribution(normal(0.0, 1.0, 3), [AffineTransform(1.0, 2.0)], validate_args=False)
    model = logpx.Decoder(plain.decode, plain.observation, moved)
    found = logpx.estimate(model, x, latent=3)
    exact = Linear(2 * linear.w, linear.b + linear.w.sum(1), linear.sigma).log_px(x)
    assert found.trusted.all()
    # Six images at 4.5 standard errors: fails for one seed in 24 000, and the seed is fixed.
    assert ((found.log_px - exact).abs() < 4.5 * found.standard_error + 1e-9).all()
    assert (exact - linear.log_px(x)).abs().max() > 1  # the test would notice another prior


class InPlace(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        out = torch.zeros(len(z), 6, dtype=z.dtype)
        out[:, :3] = z
        return out


class Branch(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return z if z.sum().item() > 0 else -z


@pytest.mark.parametrize("network", [InPlace(), Branch()])
def test_what_torch_func_cannot_follow_is_one_message(network: nn.Module) -> None:
    model = logpx.Decoder(network, logpx.Gaussian(0.5))
    x = torch.zeros(2, 6 if isinstance(network, InPlace) else 3)
    with pytest.raises(ValueError, match="derivatives cannot be computed"):
        curvature.automatic(model, x, torch.zeros(2, 3))
    with pytest.raises(ValueError, match="derivatives cannot be computed"):
        logpx.estimate(model, x, latent=3)


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(6), nn.Dropout(0.1)])
def test_a_decoder_in_training_mode_is_refused(layer: nn.Module) -> None:
    network = nn.Sequential(nn.Linear(2, 6), layer)
    with pytest.raises(ValueError, match=r"training mode.*decode\.eval"):
        logpx.Decoder(network, logpx.Bernoulli())
    logpx.Decoder(network.eval(), logpx.Bernoulli())


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(2), nn.Dropout(0.1)])
def test_a_layer_in_training_mode_that_a_function_hides_is_the_same_message(layer: nn.Module) -> None:
    linear = nn.Linear(2, 6)
    model = logpx.Decoder(lambda z: layer(linear(z).view(-1, 2, 3)), logpx.Bernoulli())
    with pytest.raises(ValueError, match="derivatives cannot be computed"):
        logpx.estimate(model, torch.zeros(3, 6), latent=2)
