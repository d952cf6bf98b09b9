"""A model's file gives back the model that was written, and anything else is refused."""

from pathlib import Path

import pytest
import torch

from pipeline.config import Model
from pipeline.data.dataset import Dataset, save_dataset
from pipeline.errors import UserError
from pipeline.model.checkpoint import Description, load_checkpoint, load_model, load_weights, save_checkpoint
from pipeline.model.vae import VAE
from pipeline.storage.files import sha256

MODEL = Model(latent=2, encoder=(4,), decoder=(4, 5), activation="tanh", sigma=0.2)
DESCRIPTION = Description(model=MODEL, height=6, width=5, levels=17, dataset="tiny", data_sha256="0" * 64, epoch=3)


def test_a_model_is_read_as_it_was_written(tmp_path: Path) -> None:
    vae, path = VAE(MODEL, 30), tmp_path / "vae.safetensors"
    save_checkpoint(path, vae.state_dict(), DESCRIPTION)
    loaded = load_model(path, torch.device("cpu"))
    assert loaded.description == DESCRIPTION
    assert loaded.data == ("tiny", "0" * 64)
    assert loaded.sha256 == sha256(path)
    assert not loaded.vae.training
    x, z = torch.rand(3, 30), torch.rand(4, 2)
    assert torch.equal(vae.encoder(x).mean, loaded.vae.encoder(x).mean)
    assert torch.equal(vae.decoder(z).mean, loaded.vae.decoder(z).mean)
    assert loaded.vae.decoder.observation.sigma == 0.2


def test_missing_damaged_and_foreign_files_are_named(tmp_path: Path, tiny: Dataset) -> None:
    path = tmp_path / "vae.safetensors"
    with pytest.raises(UserError, match=r"vae\.safetensors is missing.*dvc repro"):
        load_checkpoint(path)
    save_checkpoint(path, VAE(MODEL, 30).state_dict(), DESCRIPTION)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(UserError, match=r"vae\.safetensors is damaged.*dvc repro"):
        load_checkpoint(path)
    save_dataset(path, tiny)
    with pytest.raises(UserError, match=r"vae\.safetensors is not a model of this project.*dvc repro"):
        load_checkpoint(path)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "vae.safetensors"
    with pytest.raises(UserError, match=r"vae\.safetensors: the weights do not fit"):
        load_weights(VAE(MODEL, 30), VAE(MODEL, 31).state_dict(), path)
    save_checkpoint(path, VAE(MODEL, 30).state_dict(), DESCRIPTION.model_copy(update={"width": 6}))
    with pytest.raises(UserError, match=r"do not fit .*dvc repro"):
        load_model(path, torch.device("cpu"))
