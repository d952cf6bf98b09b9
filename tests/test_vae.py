"""The networks: what they return, and that mixed precision stays within its error."""

import pytest
import torch
from torch.distributions import Independent

from pipeline.config import Model
from pipeline.observations import Gaussian
from pipeline.vae import ACTIVATIONS, VAE, mlp


def settings(**changes: object) -> Model:
    values = {"latent": 3, "encoder": (8, 6), "decoder": (5,), "activation": "silu", "sigma": 0.1}
    return Model.model_validate(values | changes)


def test_networks_return_distributions_of_the_right_shape() -> None:
    vae = VAE(settings(), pixels=12)
    q, p = vae.encoder(torch.rand(4, 12)), vae.decoder(torch.zeros(7, 4, 3))
    assert isinstance(q, Independent)
    assert (q.batch_shape, q.event_shape) == ((4,), (3,))
    assert isinstance(p, Gaussian)
    assert p.mean.shape == (7, 4, 12)
    assert p.log_prob(torch.rand(4, 12)).shape == (7, 4)
    assert vae.prior.log_prob(torch.zeros(2, 3)).shape == (2,)


def test_layers_have_the_sizes_asked_for() -> None:
    vae = VAE(settings(), pixels=12)
    sizes = {name: tuple(p.shape) for name, p in vae.named_parameters() if name.endswith("weight")}
    assert list(sizes.values()) == [(8, 12), (6, 8), (6, 6), (5, 3), (12, 5)]


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_every_activation_stands_between_layers_only(activation: str) -> None:
    layers = list(mlp([4, 3, 2], activation))
    assert [type(layer).__name__ for layer in layers] == ["Linear", ACTIVATIONS[activation].__name__, "Linear"]


def test_no_hidden_layer_is_a_linear_network() -> None:
    network = mlp([4, 2], "relu")
    a, b = torch.rand(1, 4), torch.rand(1, 4)
    torch.testing.assert_close(network(a) + network(b) - network(torch.zeros(1, 4)), network(a + b))


def test_the_weights_file_holds_weights_alone() -> None:
    assert all(name.startswith(("encoder.network", "decoder.network")) for name in VAE(settings(), 12).state_dict())


def test_under_mixed_precision_distributions_stay_in_float32() -> None:
    vae = VAE(settings(), pixels=12)
    x = torch.rand(4, 12)
    exact = vae.encoder(x)
    with torch.autocast("cpu", torch.bfloat16):
        q = vae.encoder(x)
        p = vae.decoder(q.mean)
    assert q.mean.dtype == q.stddev.dtype == p.mean.dtype == torch.float32
    torch.testing.assert_close(q.mean, exact.mean, rtol=0.05, atol=0.02)
