"""A model's file gives back the model that was written, and anything else is refused."""

from pathlib import Path

import pytest
import torch

from logpx.observations.gaussian import Gaussian
from pipeline.data.dataset import Dataset, save_dataset
from pipeline.data.image_format import ImageFormat
from pipeline.errors import UserError
from pipeline.model.checkpoint import Description, load_checkpoint, load_model, load_weights, save_checkpoint
from pipeline.model.vae import VAE
from pipeline.storage.files import sha256
from pipeline.storage.tensors import load_tensors
from tests.support import flat_format, model_settings, moved

MODEL = model_settings(latent=2, encoder=[4], decoder=[4, 5], activation="tanh", sigma=0.2)
IMAGES = ImageFormat(6, 5, 17)
DESCRIPTION = Description(
    model=MODEL, height=6, width=5, grey_levels=17, binarise="none", shares=(), dataset="tiny", data_sha256="0" * 64,
    epoch=3, validation=0.2, seed=4,
)  # fmt: skip


def test_a_model_is_read_as_it_was_written(tmp_path: Path) -> None:
    vae, path = VAE(MODEL, IMAGES), tmp_path / "vae.safetensors"
    save_checkpoint(path, vae.state_dict(), DESCRIPTION)
    loaded = load_model(path, torch.device("cpu"))
    assert loaded.description == DESCRIPTION
    assert loaded.data == ("tiny", "0" * 64)
    assert loaded.sha256 == sha256(path)
    assert not loaded.vae.training
    x, z = torch.rand(3, 30), torch.rand(4, 2)
    assert torch.equal(vae.encoder(x).mean, loaded.vae.encoder(x).mean)
    assert torch.equal(vae.decoder(z).mean, loaded.vae.decoder(z).mean)
    assert isinstance(loaded.vae.decoder.observation, Gaussian)
    assert loaded.vae.decoder.observation.sigma == 0.2


@pytest.mark.parametrize("binarise", ["none", "threshold", "dynamic"])
def test_a_model_sees_the_images_that_it_was_trained_on(tmp_path: Path, binarise: str) -> None:
    path = tmp_path / "vae.safetensors"
    description = DESCRIPTION.model_copy(update={"binarise": binarise})
    save_checkpoint(path, VAE(MODEL, description.images).state_dict(), description)
    assert load_model(path, torch.device("cpu")).vae.images == ImageFormat(6, 5, 17, binarise)  # pyright: ignore[reportArgumentType]


def test_only_the_file_of_a_model_of_colour_images_names_the_channels(tmp_path: Path) -> None:
    """So the files of models of grey images are those of earlier versions, to the byte."""
    path = tmp_path / "vae.safetensors"
    for channels in (1, 3):
        description = DESCRIPTION.model_copy(update={"channels": channels})
        save_checkpoint(path, VAE(MODEL, description.images).state_dict(), description)
        assert load_tensors(path)[1].get("channels", 1) == channels
        assert ("channels" in load_tensors(path)[1]) == (channels == 3)
        assert load_model(path, torch.device("cpu")).vae.images.pixels == 30 * channels


def test_a_learned_sigma_is_saved_with_the_weights(tmp_path: Path) -> None:
    settings, path = model_settings(latent=2, encoder=[], decoder=[], sigma="learned"), tmp_path / "vae.safetensors"
    vae = VAE(settings, IMAGES)
    assert vae.decoder.log_sigma is not None
    with torch.no_grad():
        vae.decoder.log_sigma.fill_(-1.5)
    save_checkpoint(path, vae.state_dict(), DESCRIPTION.model_copy(update={"model": settings}))
    observation = load_model(path, torch.device("cpu")).vae.decoder.observation
    assert isinstance(observation, Gaussian)
    assert type(observation.sigma) is float
    assert observation.sigma == pytest.approx(0.22313016)


def test_convolutions_are_saved_and_read_in_the_memory_format_of_the_model(tmp_path: Path) -> None:
    settings, path = model_settings(latent=2, network="conv", width=4), tmp_path / "vae.safetensors"
    vae = VAE(settings, IMAGES).eval()
    save_checkpoint(path, vae.state_dict(), DESCRIPTION.model_copy(update={"model": settings}))
    loaded = load_model(path, torch.device("cpu")).vae
    x, z = torch.rand(3, 30), torch.rand(4, 2)
    assert torch.equal(vae.encoder(x).mean, loaded.encoder(x).mean)
    assert torch.equal(vae.decoder(z).mean, loaded.decoder(z).mean)


def test_missing_damaged_and_foreign_files_are_named(tmp_path: Path, tiny: Dataset) -> None:
    path = tmp_path / "vae.safetensors"
    with pytest.raises(UserError, match=r"vae\.safetensors is missing.*dvc repro"):
        load_checkpoint(path)
    save_checkpoint(path, VAE(MODEL, IMAGES).state_dict(), DESCRIPTION)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(UserError, match=r"vae\.safetensors is damaged.*dvc repro"):
        load_checkpoint(path)
    save_dataset(path, tiny)
    with pytest.raises(UserError, match=r"vae\.safetensors is not a model of this project.*dvc repro"):
        load_checkpoint(path)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "vae.safetensors"
    with pytest.raises(UserError, match=r"vae\.safetensors: the weights do not fit"):
        load_weights(VAE(MODEL, IMAGES), VAE(MODEL, flat_format(31)).state_dict(), path)
    save_checkpoint(path, VAE(MODEL, IMAGES).state_dict(), DESCRIPTION.model_copy(update={"width": 6}))
    with pytest.raises(UserError, match=r"do not fit .*dvc repro"):
        load_model(path, torch.device("cpu"))


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_a_conditional_model_with_a_flow_is_read_with_the_shares_of_its_classes(tmp_path: Path, network: str) -> None:
    settings, path = (
        model_settings(
            latent=2, prior="flow", couplings=3, condition="label", encoder=[4], decoder=[4], network=network, width=2
        ),
        tmp_path / "vae.safetensors",
    )
    shares = (1 / 3, 0.0, 2 / 3)
    vae = moved(VAE(settings, IMAGES, shares)).eval()
    description = DESCRIPTION.model_copy(update={"model": settings, "shares": shares})
    save_checkpoint(path, vae.state_dict(), description)
    loaded = load_model(path, torch.device("cpu"))
    assert loaded.description == description
    assert loaded.vae.shares == shares
    x, z, y = torch.rand(3, 30), torch.rand(3, 2), torch.tensor([0, 2, 1])
    assert torch.equal(vae.encoder(x, y).mean, loaded.vae.encoder(x, y).mean)
    assert torch.equal(vae.decoder(z, y).mean, loaded.vae.decoder(z, y).mean)
    assert torch.equal(vae.prior.from_noise(z, y), loaded.vae.prior.from_noise(z, y))
    assert torch.equal(vae.prior(y).log_prob(z), loaded.vae.prior(y).log_prob(z))
