"""A data set in one file: uint8 images and labels, for training and for testing."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import no_type_check

import torch
from jaxtyping import Integer, UInt8
from torch import Tensor

from pipeline.data.image_format import Binarise, ImageFormat
from pipeline.errors import UserError
from pipeline.storage.files import unusable
from pipeline.storage.tensors import load_tensors, save_tensors


@no_type_check  # `_mistakes` checks types and shapes always, not only under test, and its message is for a user
@dataclass(frozen=True)
class Dataset:
    """Images with pixel values 0 .. levels − 1, and the class of each image: any integer that is not negative.

    An image has the shape (height, width), or (3, height, width) if it has the colours red, green and blue. Images
    without labels have the label 0.

    Raises:
        UserError: if a type, shape or value is not as stated here. It names the first mistake.
    """

    name: str
    levels: int
    train_images: UInt8[Tensor, "train *shape"]
    train_labels: Integer[Tensor, " train"]
    test_images: UInt8[Tensor, "test *shape"]
    test_labels: Integer[Tensor, " test"]

    def __post_init__(self) -> None:
        if mistake := next(_mistakes(self), None):
            raise UserError(
                f"data set {self.name}: {mistake}; a data set has uint8 images of shape (images, height, width), or "
                "(images, 3, height, width), with values below its number of levels, and one label per image, an "
                "integer of 0 or more"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an image: height and width in pixels, in colour after the number of channels."""
        return tuple(self.train_images.shape[1:])

    def __str__(self) -> str:
        channels, size = self.shape[:-2], " x ".join(map(str, self.shape[-2:]))
        classes = len(self.train_labels.unique())
        return (
            f"{len(self.train_images)} training and {len(self.test_images)} test images of {size} pixels"
            f"{' in colour' if channels else ''}, {self.levels} {'levels' if channels else 'grey levels'}, "
            f"{f'{classes} classes' if self.labelled else 'no classes'}"
        )

    @property
    def labelled(self) -> bool:
        """Whether the labels tell images apart: the training images have two classes or more."""
        return bool((self.train_labels != self.train_labels[0]).any())

    def class_shares(self) -> tuple[float, ...]:
        """Share of each class among the training images, from class 0 to the largest of all labels.

        Raises:
            UserError: if there are more than `MOST_CLASSES`.
        """
        classes = 1 + int(max(self.train_labels.max(), self.test_labels.max()))
        if classes > MOST_CLASSES:
            raise UserError(
                f"data set {self.name}: labels up to {classes - 1}; at most {MOST_CLASSES} classes are possible"
            )
        counts = self.train_labels.long().bincount(minlength=classes)
        return tuple((counts.double() / len(self.train_labels)).tolist())

    def format(self, binarise: Binarise = "none") -> ImageFormat:
        """How a model sees these images."""
        *channels, height, width = self.shape
        return ImageFormat(height, width, self.levels, binarise, *channels)


MOST_CLASSES = 1000
GREY_OR_COLOUR = {(), (3,)}  # what an image's shape has before height and width
INTEGERS = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
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
    try:
        if set(parts) != set(PARTS) or set(description) != {"name", "levels"}:
            raise UserError("its parts are " + ", ".join([*description, *parts]))
        return Dataset(description["name"], description["levels"], *(parts[part] for part in PARTS))
    except UserError as error:
        raise unusable(path, f"is not a data set of this project ({error})") from None


def _mistakes(data: Dataset) -> Iterator[str]:
    """What is wrong with types, shapes and values; what comes later assumes that what came earlier is right."""
    if not isinstance(data.name, str) or not data.name:
        yield f"name = {data.name!r}, not a text"
    if type(data.levels) is not int or not 2 <= data.levels <= 256:
        yield f"levels = {data.levels!r}, not a whole number from 2 to 256"
    for part in ("train", "test"):
        images, labels = getattr(data, f"{part}_images"), getattr(data, f"{part}_labels")
        if images.dtype != torch.uint8:
            yield f"{part}_images are {images.dtype}, not torch.uint8"
        if images.shape[1:-2] not in GREY_OR_COLOUR or images.ndim < 3 or not images.numel():
            yield f"{part}_images have the shape {tuple(images.shape)}"
        if (largest := int(images.max())) >= data.levels:
            yield f"{part}_images have values up to {largest}, not {data.levels - 1}"
        if not isinstance(labels, Tensor) or labels.dtype not in INTEGERS:
            yield f"{part}_labels are {labels.dtype}, not torch.uint8 or signed integers"
        if labels.shape != images.shape[:1]:
            yield f"{part}_labels have the shape {tuple(labels.shape)}, not ({len(images)},)"
        if (least := int(labels.long().min())) < 0:
            yield f"{part}_labels have the negative value {least}"
    if data.train_images.shape[1:] != data.test_images.shape[1:]:
        sizes = (" x ".join(map(str, images.shape[1:])) for images in (data.train_images, data.test_images))
        yield "train_images have {} pixels, test_images {}".format(*sizes)
