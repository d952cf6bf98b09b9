"""Derivatives from one pass of tangents equal those of automatic differentiation, for every activation."""

import pytest
import torch
from torch.func import jacrev

from logpx.curvature import derivatives
from logpx.model import log_joint
from pipeline.evaluation.settings import joint
from pipeline.model.activations import ACTIVATIONS
from pipeline.model.vae import VAE
from tests.support import Linear, flat_format, model_settings


@pytest.mark.parametrize("decoder", [(), (7,), (7, 9)])
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_derivatives_equal_those_of_automatic_differentiation(
    activation: str, decoder: tuple[int, ...], generator: torch.Generator
) -> None:
    torch.manual_seed(0)
    vae = VAE(
        model_settings(latent=3, encoder=[], decoder=decoder, activation=activation, sigma=0.3), flat_format(12)
    ).double()
    with torch.no_grad():
        for parameter in vae.decoder.parameters():
            parameter.mul_(4)  # so that it bends
    x = torch.rand(5, 12, generator=generator, dtype=torch.float64)
    z = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    model = joint(vae)
    found = derivatives(model, 3).at(x, z)
    torch.testing.assert_close(found.value, log_joint(model, x, z))
    for i in range(5):
        of_one = lambda z, i=i: log_joint(model, x[i : i + 1], z[None])[0]  # noqa: E731
        torch.testing.assert_close(found.gradient[i], jacrev(of_one)(z[i]))
        torch.testing.assert_close(found.hessian[i], -jacrev(jacrev(of_one))(z[i]), rtol=1e-9, atol=1e-9)
        jacobian = jacrev(lambda z: vae.decoder(z).mean)(z[i])
        expected = torch.eye(3).double() + jacobian.T @ jacobian / 0.3**2
        torch.testing.assert_close(found.surrogate[i], expected, rtol=1e-9, atol=1e-9)
    assert decoder == () or not torch.allclose(found.hessian, found.surrogate, rtol=1e-3)


def test_for_a_linear_decoder_both_matrices_are_the_posterior_precision(
    linear: Linear, generator: torch.Generator
) -> None:
    x = linear.sample(4, generator)
    z = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    found = derivatives(joint(linear.vae()), 3).at(x, z)
    for matrix in (found.surrogate, found.hessian):
        torch.testing.assert_close(matrix, linear.precision.expand(4, 3, 3), rtol=1e-12, atol=1e-9)
