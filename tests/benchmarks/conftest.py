"""A data file for benchmarks of whole trainings."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.data.dataset import Dataset, save_dataset


@pytest.fixture
def data_file(tmp_path: Path, tiny: Dataset) -> str:
    """The path of a file with five times the training images of `tiny`."""
    many = replace(tiny, train_images=tiny.train_images.repeat(5, 1, 1), train_labels=tiny.train_labels.repeat(5))
    save_dataset(tmp_path / "images.safetensors", many)
    return str(tmp_path / "images.safetensors")
