"""A data set in one file: uint8 images and labels, for training and for testing."""

from dataclasses import dataclass
from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from pipeline.errors import UserError
from pipeline.storage.tensors import load_tensors, save_tensors


@dataclass(frozen=True)
class Dataset:
    """Grey images with pixel values 0 .. levels − 1, and the class of each image."""

    name: str
    levels: int
    train_images: UInt8[Tensor, "train height width"]
    train_labels: UInt8[Tensor, " train"]
    test_images: UInt8[Tensor, "test height width"]
    test_labels: UInt8[Tensor, " test"]

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of an image, in pixels."""
        height, width = self.train_images.shape[1:]
        return height, width

    @property
    def pixels(self) -> int:
        """Number of pixels in an image."""
        return self.shape[0] * self.shape[1]


PARTS = ("train_images", "train_labels", "test_images", "test_labels")


def save_dataset(path: Path, dataset: Dataset) -> None:
    """Write the data set atomically, as a safetensors file."""
    description = {"name": dataset.name, "levels": dataset.levels}
    save_tensors(path, {part: getattr(dataset, part) for part in PARTS}, description)


def load_dataset(path: Path) -> Dataset:
    """Read a data set.

    Raises:
        UserError: if the file is missing, damaged, or not a data set.
    """
    parts, description = load_tensors(path)
    if set(parts) != set(PARTS) or set(description) != {"name", "levels"}:
        raise UserError(f"{path} is not a data set of this project; delete it and run `dvc repro` to make it again")
    return Dataset(description["name"], description["levels"], *(parts[part] for part in PARTS))
