"""Data and model files: what goes in comes out, byte for byte the same, and damage is told."""

from pathlib import Path

import pytest
import torch

from pipeline import checkpoint, datasets, tensors
from pipeline.config import Model
from pipeline.datasets import Dataset
from pipeline.errors import UserError
from pipeline.vae import VAE

MODEL = Model(latent=2, encoder=(4,), decoder=(4, 5), activation="tanh", sigma=0.2)
DESCRIPTION = checkpoint.Description(
    model=MODEL, height=6, width=5, levels=17, dataset="tiny", data_sha256="0" * 64, epoch=3
)


def test_a_model_comes_back_as_it_was(tmp_path: Path) -> None:
    vae, path = VAE(MODEL, 30), tmp_path / "vae.safetensors"
    checkpoint.save(path, vae.state_dict(), DESCRIPTION)
    weights, description = checkpoint.load(path)
    assert description == DESCRIPTION
    other = VAE(description.model, 30)
    checkpoint.restore(other, weights, path)
    x = torch.rand(3, 30)
    assert torch.equal(vae.encoder(x).mean, other.encoder(x).mean)


def test_a_data_set_comes_back_as_it_was(tmp_path: Path, tiny: Dataset) -> None:
    path = tmp_path / "images.safetensors"
    datasets.save(path, tiny)
    loaded = datasets.load(path)
    assert (loaded.name, loaded.levels, loaded.shape, loaded.pixels) == ("tiny", 17, (6, 5), 30)
    assert all(torch.equal(getattr(loaded, part), getattr(tiny, part)) for part in datasets.PARTS)


def test_the_same_content_is_the_same_bytes_under_any_name(tmp_path: Path, tiny: Dataset) -> None:
    for i in range(5):
        datasets.save(tmp_path / f"{i}.safetensors", tiny)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_missing_damaged_and_foreign_files_are_told(tmp_path: Path, tiny: Dataset) -> None:
    path = tmp_path / "images.safetensors"
    with pytest.raises(UserError, match=r"images\.safetensors is missing.*dvc repro"):
        datasets.load(path)
    datasets.save(path, tiny)
    whole = path.read_bytes()
    for damaged in (whole[:-7], whole[:50], b"", b"\xff" * 100):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="is damaged"):
            datasets.load(path)
    tensors.save(path, {"other": torch.zeros(2)}, {"name": "x"})
    with pytest.raises(UserError, match="not a data set of this project"):
        datasets.load(path)
    with pytest.raises(UserError, match="not a model of this project"):
        checkpoint.load(path)


def test_weights_that_do_not_fit_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="do not fit"):
        checkpoint.restore(VAE(MODEL, 30), VAE(MODEL, 31).state_dict(), tmp_path / "vae.safetensors")


def test_a_failed_write_leaves_the_former_file_and_nothing_else(tmp_path: Path, tiny: Dataset) -> None:
    path = tmp_path / "images.safetensors"
    datasets.save(path, tiny)
    whole = path.read_bytes()
    with pytest.raises(TypeError):
        tensors.save(path, {"x": torch.zeros(2)}, {"not JSON": object()})
    assert [p.name for p in tmp_path.iterdir()] == ["images.safetensors"]
    assert path.read_bytes() == whole
