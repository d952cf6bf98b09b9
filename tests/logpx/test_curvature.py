"""Derivatives of any model: by automatic differentiation as in closed form, and exact for models that have none."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import logpx
from logpx import curvature, mlp_curvature
from logpx.model import log_joint


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
    with pytest.raises(ValueError, match="derivatives cannot be computed"):
        curvature.automatic(logpx.Decoder(network, logpx.Bernoulli()), torch.zeros(2, 6), torch.zeros(2, 3))


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(6), nn.Dropout(0.1)])
def test_a_decoder_in_training_mode_is_refused(layer: nn.Module) -> None:
    network = nn.Sequential(nn.Linear(2, 6), layer)
    with pytest.raises(ValueError, match=r"training mode.*decode\.eval"):
        logpx.Decoder(network, logpx.Bernoulli())
    logpx.Decoder(network.eval(), logpx.Bernoulli())
