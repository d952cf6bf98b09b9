"""A data set's file gives back what was written, and anything else is refused."""

from pathlib import Path

import pytest
import torch

from pipeline.data.dataset import PARTS, Dataset, load_dataset, save_dataset
from pipeline.errors import UserError
from pipeline.storage.tensors import save_tensors


def test_a_data_set_is_read_as_it_was_written(tmp_path: Path, tiny: Dataset) -> None:
    path = tmp_path / "images.safetensors"
    save_dataset(path, tiny)
    loaded = load_dataset(path)
    assert (loaded.name, loaded.levels, loaded.shape, loaded.pixels) == ("tiny", 17, (6, 5), 30)
    assert all(torch.equal(getattr(loaded, part), getattr(tiny, part)) for part in PARTS)


def test_missing_and_foreign_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "images.safetensors"
    with pytest.raises(UserError, match=r"images\.safetensors is missing.*dvc repro"):
        load_dataset(path)
    save_tensors(path, {"other": torch.zeros(2)}, {"name": "x"})
    with pytest.raises(UserError, match=r"images\.safetensors is not a data set of this project.*dvc repro"):
        load_dataset(path)
