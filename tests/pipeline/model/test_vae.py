"""The VAE is built as its settings say: prior, encoder, decoder and observation model."""

import math
from typing import get_args

import pytest
import torch
from torch.distributions import MultivariateNormal

from logpx.observations.gaussian import Gaussian
from pipeline.config import Model
from pipeline.data.dataset import Dataset
from pipeline.data.image_format import ImageFormat
from pipeline.errors import UserError
from pipeline.model.networks import FIRST_SIGMA, NETWORKS
from pipeline.model.observations import OBSERVATIONS
from pipeline.model.vae import VAE
from pipeline.training.fit import fit
from tests.support import flat_format, model_settings, moved, training

SETTINGS = model_settings(latent=3, encoder=[8, 6], decoder=[5], activation="silu", sigma=0.1)
TWELVE = flat_format(12)


def test_the_prior_is_standard_normal() -> None:
    z = torch.tensor([[0.0, 0.0, 0.0], [1.0, -2.0, 0.5]])
    expected = MultivariateNormal(torch.zeros(3), torch.eye(3)).log_prob(z)
    torch.testing.assert_close(VAE(SETTINGS, TWELVE).prior().log_prob(z), expected)


def test_encoder_and_decoder_have_the_sizes_of_the_settings() -> None:
    vae = VAE(SETTINGS, TWELVE)
    shapes = {name: tuple(p.shape) for name, p in vae.named_parameters() if name.endswith("weight")}
    assert list(shapes.values()) == [(8, 12), (6, 8), (6, 6), (5, 3), (12, 5)]
    assert vae.encoder(torch.rand(4, 12)).mean.shape == (4, 3)
    assert vae.decoder(torch.zeros(7, 4, 3)).mean.shape == (7, 4, 12)
    assert isinstance(vae.decoder.observation, Gaussian)
    assert vae.decoder.observation.sigma == 0.1


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_only_the_networks_and_a_learned_sigma_have_weights_to_save(network: str) -> None:
    for sigma, others in ((0.1, set[str]()), ("learned", {"decoder.log_sigma"})):
        names = set(VAE(model_settings(latent=3, network=network, sigma=sigma), TWELVE).state_dict())
        of_networks = {name for name in names if name.startswith(("encoder.network", "decoder.network"))}
        assert of_networks
        assert names - of_networks == others


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_the_posteriors_of_many_images_are_those_of_the_encoder(
    network: str, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    vae, x = VAE(model_settings(latent=3, network=network, width=2), TWELVE), torch.rand(10, 12, generator=generator)
    q = vae.encoder(x)
    for at_once in (4, 1000):
        monkeypatch.setattr("pipeline.model.vae.ENCODED_AT_ONCE", at_once)
        mean, deviation = vae.encode(x)
        torch.testing.assert_close(mean, q.mean.detach())
        torch.testing.assert_close(deviation, q.stddev.detach())
        assert not mean.requires_grad


def test_the_tables_have_the_names_of_the_settings() -> None:
    fields = Model.model_fields
    assert set(OBSERVATIONS) == set(get_args(fields["observation"].annotation))
    assert set(NETWORKS) == set(get_args(fields["network"].annotation))


@pytest.mark.parametrize("network", sorted(NETWORKS))
@pytest.mark.parametrize("observation", sorted(OBSERVATIONS))
def test_every_observation_model_trains(tiny: Dataset, observation: str, network: str) -> None:
    """Two steps change every tensor of weights, and all terms are finite."""
    torch.manual_seed(0)
    binarise = "dynamic" if observation == "bernoulli" else "none"
    settings = model_settings(
        latent=2, network=network, encoder=[8], decoder=[8], width=4, observation=observation, components=2, sigma=0.2
    )
    vae = VAE(settings, tiny.format(binarise))
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    train = training(epochs=1, batch_size=24, validation=0.2, learning_rate=0.003, warmup=0.0, clip_norm=None)
    (epoch,) = fit(vae, tiny.train_images.flatten(1), train)
    for value in (epoch.train_elbo, epoch.validation_elbo, epoch.gradient_norm):
        assert torch.tensor(value).isfinite()
    after = vae.state_dict()
    assert [name for name, value in before.items() if torch.equal(value, after[name])] == []
    x = vae.images.read_fixed(tiny.test_images, 0)
    p = vae.decoder(vae.encoder(x).mean)
    assert p.log_prob(x).isfinite().all()
    assert p.sample(torch.Generator().manual_seed(0)).shape == x.shape
    mean = p.mean.detach()
    assert 0 <= float(mean.min()) <= float(mean.max()) <= 1 or observation == "gaussian_per_pixel"


def test_a_learned_sigma_is_a_number_in_evaluation_and_has_a_gradient_in_training() -> None:
    vae = VAE(model_settings(latent=3, encoder=[], decoder=[], sigma="learned"), TWELVE)
    learned = vae.decoder.observation
    assert isinstance(learned, Gaussian)
    assert isinstance(learned.sigma, torch.Tensor)
    assert learned.sigma.item() == pytest.approx(FIRST_SIGMA)
    vae.decoder(torch.zeros(2, 3)).log_prob(torch.rand(2, 12)).sum().backward()
    assert vae.decoder.log_sigma is not None
    assert vae.decoder.log_sigma.grad is not None
    fixed = vae.eval().decoder.observation
    assert isinstance(fixed, Gaussian)
    assert type(fixed.sigma) is float
    assert fixed.sigma == pytest.approx(FIRST_SIGMA)
    assert vae.decoder(torch.zeros(2, 3)).log_prob(torch.rand(2, 12)).isfinite().all()


def test_the_other_observation_models_have_no_learned_sigma() -> None:
    settings = model_settings(latent=3, encoder=[], decoder=[], observation="logistic", sigma="learned")
    assert VAE(settings, TWELVE).decoder.log_sigma is None


def test_training_moves_sigma_to_the_root_mean_square_of_the_residuals(tiny: Dataset) -> None:
    """With the networks fixed, E_q log p(x | z) is largest at σ² = E_q ‖x − f(z)‖² / D.

    The expectations are means over 48 images of 30 pixels, with new noise at each step: of 40 seeds the largest
    relative difference was 0.9 %, and the seed is fixed.
    """
    torch.manual_seed(0)
    vae = VAE(model_settings(latent=2, encoder=[], decoder=[], sigma="learned"), tiny.format())
    for network in (vae.encoder.network, vae.decoder.network):
        network.requires_grad_(False)
    train = training(
        epochs=150, batch_size=48, validation=0.2, learning_rate=0.05, warmup=0.0, final_learning_rate=0.0,
        clip_norm=None,
    )  # fmt: skip
    assert vae.decoder.log_sigma is not None
    found = math.nan
    for _ in fit(vae, tiny.train_images.flatten(1), train):
        found = vae.decoder.log_sigma.exp().item()  # of the last epoch; the best may be an earlier one
    x = vae.images.read_fixed(tiny.train_images, 5)
    q = vae.encoder(x)
    residuals = x - vae.decoder(q.sample(torch.Size([200]))).mean.detach()
    assert found == pytest.approx(residuals.square().mean().sqrt().item(), rel=0.02)
    assert found != pytest.approx(FIRST_SIGMA, rel=0.1)


def test_a_categorical_model_with_too_many_outputs_is_refused() -> None:
    settings = model_settings(observation="categorical")
    message = (
        "model.observation = categorical: 784 pixels with 256 levels need 200704 outputs of the decoder, more than "
        "50000; use logistic_mixture, or data.name = digits"
    )
    with pytest.raises(UserError) as caught:
        VAE(settings, ImageFormat(28, 28, 256))
    assert str(caught.value) == message
    assert VAE(settings, ImageFormat(8, 8, 17)).decoder(torch.zeros(1, settings.latent)).parameters.shape == (
        1,
        64 * 17,
    )


# With a flow as prior, and with labels

CONDITIONAL = model_settings(
    latent=3, prior="flow", couplings=2, condition="label", encoder=[8], decoder=[8], width=2, activation="silu"
)


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_the_posteriors_of_many_labelled_images_are_those_of_the_encoder(
    network: str, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    vae = moved(VAE(CONDITIONAL.model_copy(update={"network": network}), TWELVE, (0.25, 0.5, 0.25)))
    x, y = torch.rand(10, 12, generator=generator), torch.arange(10) % 3
    q = vae.encoder(x, y)
    for at_once in (4, 1000):
        monkeypatch.setattr("pipeline.model.vae.ENCODED_AT_ONCE", at_once)
        mean, deviation = vae.encode(x, y)
        torch.testing.assert_close(mean, q.mean.detach())
        torch.testing.assert_close(deviation, q.stddev.detach())
    with pytest.raises((ValueError, RuntimeError)):
        vae.encode(x, y[:4])
    with pytest.raises(ValueError, match="it needs the label of each image"):
        vae.encode(x)


def test_generated_images_are_decoded_samples_of_the_prior(generator: torch.Generator) -> None:
    vae, noise = moved(VAE(CONDITIONAL, TWELVE, (0.5, 0.5)), 0.2), torch.randn(7, 4, 3, generator=generator)
    y = torch.tensor([0, 1, 1, 0])
    found = vae.generate(noise, y)
    assert torch.equal(found.parameters, vae.decoder(vae.prior.from_noise(noise, y), y).parameters)
    assert not torch.isclose(found.parameters, vae.decoder(noise, y).parameters).all()
    assert not torch.isclose(found.parameters, vae.generate(noise, 1 - y).parameters).any(-1).all()
    plain = VAE(SETTINGS, TWELVE)
    assert torch.equal(plain.generate(noise).parameters, plain.decoder(noise).parameters)


def test_the_same_seed_gives_the_same_networks_with_and_without_a_flow() -> None:
    models = []
    for prior in ("normal", "flow"):
        torch.manual_seed(0)
        models.append(VAE(model_settings(latent=3, prior=prior, encoder=[8], decoder=[8]), TWELVE).state_dict())
    normal, flow = models
    assert set(normal) < set(flow)
    assert all(torch.equal(value, flow[name]) for name, value in normal.items())


@pytest.mark.parametrize("shares", [(), (1.0,), (0.0, 0.0, 1.0)])
def test_a_condition_needs_images_of_two_classes(shares: tuple[float, ...]) -> None:
    message = "model.condition = label: the training images have no labels of two or more classes; use none"
    with pytest.raises(UserError) as caught:
        VAE(CONDITIONAL, TWELVE, shares)
    assert str(caught.value) == message
    plain = VAE(SETTINGS, TWELVE, shares)  # it does not look at labels
    assert (plain.shares, plain.classes) == ((), 0)
    vae = VAE(CONDITIONAL, TWELVE, (0.5, 0.0, 0.5))
    assert (vae.shares, vae.classes) == ((0.5, 0.0, 0.5), 3)


def test_labels_in_turn_are_those_with_training_images() -> None:
    images = flat_format(4)
    assert VAE(model_settings(encoder=[], decoder=[]), images).labels_in_turn(3) is None
    vae = VAE(model_settings(encoder=[], decoder=[], condition="label"), images, (0.0, 0.3, 0.0, 0.7))
    labels = vae.labels_in_turn(5)
    assert labels is not None
    assert labels.tolist() == [1, 3, 1, 3, 1]
