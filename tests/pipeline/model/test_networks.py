"""The networks have the layers asked for and return distributions, in float32 also under mixed precision."""

from typing import Any

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal

from logpx.observations.distribution import Observation
from logpx.observations.gaussian import Gaussian
from logpx.observations.gaussian_per_pixel import GaussianPerPixel
from pipeline.data.image_format import ImageFormat
from pipeline.model import mlp
from pipeline.model.activations import ACTIVATIONS
from pipeline.model.networks import NETWORKS, Decoder, Encoder, diagonal_gaussian
from tests.support import flat_format, model_settings, moved

TWELVE = flat_format(12)


def make_encoder(discrete: bool = False, images: ImageFormat = TWELVE, **changes: Any) -> Encoder:
    settings = {"latent": 3, "encoder": [8, 6], "width": 2, "activation": "silu"}
    return Encoder(model_settings(**settings | changes), images, 0, discrete)


def make_decoder(family: Observation, **changes: Any) -> Decoder:
    settings = {"latent": 3, "decoder": [5], "width": 2, "activation": "silu", "sigma": 0.1}
    return Decoder(model_settings(**settings | changes), TWELVE, 0, family)


def test_the_encoder_returns_a_distribution_over_latent_vectors() -> None:
    encoder = make_encoder()
    x = torch.rand(2, 4, 12)
    q = encoder(x)
    assert isinstance(q, Independent)
    assert (q.batch_shape, q.event_shape) == ((2, 4), (3,))
    output = encoder.network(x)
    torch.testing.assert_close(q.mean, output[..., :3])
    torch.testing.assert_close(q.stddev.log(), output[..., 3:])


@pytest.mark.parametrize("network", sorted(NETWORKS))
@pytest.mark.parametrize("batch", [(), (4,), (7, 4)])
def test_the_decoder_returns_a_distribution_over_images(network: str, batch: tuple[int, ...]) -> None:
    decoder = make_decoder(Gaussian(0.1), network=network)
    z = torch.rand(*batch, 3)
    p = decoder(z)
    assert isinstance(p.observation, Gaussian)
    assert p.observation.sigma == 0.1
    assert p.log_prob(torch.rand(*batch[-1:], 12)).shape == batch
    torch.testing.assert_close(p.mean.flatten(), decoder.network(z.reshape(-1, 3)).sigmoid().flatten())


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_an_empty_batch_has_an_empty_distribution(network: str) -> None:
    assert make_decoder(Gaussian(0.1), network=network)(torch.rand(0, 3)).mean.shape == (0, 12)


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_the_decoder_computes_the_parameters_that_the_observation_model_has(network: str) -> None:
    """Without a sigmoid: these parameters may be any numbers."""
    observation = GaussianPerPixel(256)
    decoder = make_decoder(observation, network=network, observation="gaussian_per_pixel")
    z = torch.rand(4, 3)
    p = decoder(z)
    assert p.observation is observation
    assert p.parameters.shape == (4, 2 * 12)
    assert torch.equal(p.parameters, decoder.network(z))


def test_the_encoder_of_a_discrete_observation_model_sees_grey_levels_only() -> None:
    """Or log p(x), which depends on v only, would have an ELBO that also depends on the noise u."""
    images = ImageFormat(3, 4, 17)
    v = torch.randint(0, 17, (5, 12), generator=torch.Generator().manual_seed(0))
    noise = torch.rand(2, 5, 12, generator=torch.Generator().manual_seed(1))
    for discrete in (True, False):
        encoder = make_encoder(discrete, images)
        means = [encoder((v + u) / 17).mean for u in noise]
        assert torch.equal(*means) == discrete
    encoder = make_encoder(True, images)
    expected = encoder.network(v / 16)[:, :3]
    torch.testing.assert_close(encoder((v + noise[0]) / 17).mean, expected)
    assert not torch.equal(encoder(v / 17).mean, encoder((v - 0.5).clamp(min=0) / 17).mean)


def test_a_diagonal_gaussian_is_one_over_vectors(generator: torch.Generator) -> None:
    loc, scale, z = (torch.rand(4, 3, generator=generator, dtype=torch.float64) + 0.1 for _ in range(3))
    expected = MultivariateNormal(loc, scale.square().diag_embed()).log_prob(z)
    torch.testing.assert_close(diagonal_gaussian(loc, scale).log_prob(z), expected)


def test_layers_have_the_sizes_asked_for() -> None:
    network = mlp.layers([12, 8, 6, 3], "silu")
    assert [tuple(parameter.shape) for parameter in network.parameters() if parameter.ndim == 2] == [
        (8, 12),
        (6, 8),
        (3, 6),
    ]


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_activations_are_between_layers_only(activation: str) -> None:
    layers = list(mlp.layers([4, 3, 2], activation))
    assert [type(layer).__name__ for layer in layers] == ["Linear", ACTIVATIONS[activation].__name__, "Linear"]


def test_a_network_without_hidden_layers_is_affine() -> None:
    network = mlp.layers([4, 2], "relu")
    a, b = torch.rand(1, 4), torch.rand(1, 4)
    torch.testing.assert_close(network(a) + network(b) - network(torch.zeros(1, 4)), network(a + b))


@pytest.mark.parametrize("network", sorted(NETWORKS))
@pytest.mark.parametrize("observation", [Gaussian(0.1), GaussianPerPixel(256)], ids=["gaussian", "gaussian_per_pixel"])
def test_under_mixed_precision_distributions_stay_in_float32(network: str, observation: Observation) -> None:
    name = "gaussian" if isinstance(observation, Gaussian) else "gaussian_per_pixel"
    encoder = make_encoder(network=network)
    decoder = make_decoder(observation, network=network, observation=name)
    x = torch.rand(4, 12)
    exact = encoder(x)
    with torch.autocast("cpu", torch.bfloat16):
        q = encoder(x)
        p = decoder(q.mean)
        assert encoder.network(x).dtype == torch.bfloat16  # the networks do compute in bfloat16
        assert p.log_prob(x).dtype == torch.float32
    assert q.mean.dtype == q.stddev.dtype == p.parameters.dtype == torch.float32
    torch.testing.assert_close(q.mean, exact.mean, rtol=0.05, atol=0.02)


# With labels


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_a_network_of_classes_depends_on_the_label_and_any_other_ignores_it(network: str) -> None:
    x, z, zeros, ones = torch.rand(4, 12), torch.randn(5, 4, 3), torch.zeros(4).long(), torch.ones(4).long()
    for classes in (0, 2):
        settings = model_settings(latent=3, encoder=[8], decoder=[8], width=2, network=network, activation="silu")
        encoder = moved(Encoder(settings, TWELVE, classes, False))
        decoder = moved(Decoder(settings, TWELVE, classes, Gaussian(0.1)))
        for function in (lambda y: encoder(x, y).mean, lambda y: encoder(x, y).stddev, lambda y: decoder(z, y).mean):  # noqa: B023
            one, other, mixed = function(zeros), function(ones), function(torch.arange(4) % 2)
            assert torch.equal(one, other) == (classes == 0)
            # Each image has its own label, and all its samples have it.
            torch.testing.assert_close(mixed[..., ::2, :], one[..., ::2, :])
            torch.testing.assert_close(mixed[..., 1::2, :], other[..., 1::2, :])
        if classes:
            for function in (lambda: encoder(x), lambda: decoder(z)):  # noqa: B023
                with pytest.raises(ValueError, match="it needs the label of each image, one of 2"):
                    function()
        else:
            assert torch.equal(encoder(x).mean, encoder(x, ones).mean)
            assert torch.equal(decoder(z).mean, decoder(z, ones).mean)


def test_labels_do_not_hide_the_grey_levels_from_the_encoder() -> None:
    """The label is appended after the noise u is removed from x."""
    images = ImageFormat(3, 4, 17)
    encoder = Encoder(model_settings(latent=3, encoder=[8]), images, 2, True)
    v = torch.randint(0, 17, (5, 12), generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 0, 1, 1])
    expected = encoder.network(torch.cat([v / 16, torch.stack([1 - y, y], 1)], 1))[:, :3]
    torch.testing.assert_close(encoder((v + 0.2) / 17, y).mean, expected)
