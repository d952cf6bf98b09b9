"""The networks have the layers asked for and return distributions, in float32 also under mixed precision."""

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal

from logpx.observations.gaussian import Gaussian
from pipeline.model.networks import ACTIVATIONS, Decoder, Encoder, diagonal_gaussian, mlp


def test_the_encoder_returns_a_distribution_over_latent_vectors() -> None:
    encoder = Encoder(pixels=12, hidden=(8, 6), latent=3, activation="silu")
    x = torch.rand(2, 4, 12)
    q = encoder(x)
    assert isinstance(q, Independent)
    assert (q.batch_shape, q.event_shape) == ((2, 4), (3,))
    output = encoder.network(x)
    torch.testing.assert_close(q.mean, output[..., :3])
    torch.testing.assert_close(q.stddev.log(), output[..., 3:])


def test_the_decoder_returns_a_distribution_over_images() -> None:
    decoder = Decoder(latent=3, hidden=(5,), pixels=12, activation="silu", observation=Gaussian(0.1))
    z = torch.rand(7, 4, 3)
    p = decoder(z)
    assert isinstance(p.observation, Gaussian)
    assert p.log_prob(torch.rand(4, 12)).shape == (7, 4)
    torch.testing.assert_close(p.mean, decoder.network(z).sigmoid())


def test_a_diagonal_gaussian_is_one_over_vectors(generator: torch.Generator) -> None:
    loc, scale, z = (torch.rand(4, 3, generator=generator, dtype=torch.float64) + 0.1 for _ in range(3))
    expected = MultivariateNormal(loc, scale.square().diag_embed()).log_prob(z)
    torch.testing.assert_close(diagonal_gaussian(loc, scale).log_prob(z), expected)


def test_layers_have_the_sizes_asked_for() -> None:
    shapes = [tuple(parameter.shape) for parameter in mlp([12, 8, 6, 3], "silu").parameters() if parameter.ndim == 2]
    assert shapes == [(8, 12), (6, 8), (3, 6)]


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_activations_are_between_layers_only(activation: str) -> None:
    layers = list(mlp([4, 3, 2], activation))
    assert [type(layer).__name__ for layer in layers] == ["Linear", ACTIVATIONS[activation].__name__, "Linear"]


def test_a_network_without_hidden_layers_is_affine() -> None:
    network = mlp([4, 2], "relu")
    a, b = torch.rand(1, 4), torch.rand(1, 4)
    torch.testing.assert_close(network(a) + network(b) - network(torch.zeros(1, 4)), network(a + b))


def test_under_mixed_precision_distributions_stay_in_float32() -> None:
    encoder = Encoder(pixels=12, hidden=(8, 6), latent=3, activation="silu")
    decoder = Decoder(latent=3, hidden=(5,), pixels=12, activation="silu", observation=Gaussian(0.1))
    x = torch.rand(4, 12)
    exact = encoder(x)
    with torch.autocast("cpu", torch.bfloat16):
        q = encoder(x)
        p = decoder(q.mean)
    assert q.mean.dtype == q.stddev.dtype == p.mean.dtype == torch.float32
    torch.testing.assert_close(q.mean, exact.mean, rtol=0.05, atol=0.02)
