"""Registry of data sets: the source of each, the digests of its files, and how they are decoded.

To add one, enter it in `IDX_SOURCES` (or a function in `BUNDLED`) and add its name to `config.Data`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pipeline.data.dataset import Dataset
from pipeline.data.download import Pinned, fetch
from pipeline.errors import UserError


@dataclass(frozen=True)
class IdxSource:
    """Four gzipped IDX files: images and labels, for training and for testing.

    Attributes:
        torchvision: the class of torchvision.datasets that lists the mirrors.
        digests: SHA-256 of training images, training labels, test images and test labels.
        digest_of: whether these are digests of the decompressed content, or of the archive because no others are
            published.
        shape: height and width of an image.
        train: number of training images.
        test: number of test images.
        levels: number of grey levels.
    """

    torchvision: str
    digests: tuple[str, str, str, str]
    digest_of: Literal["content", "archive"] = "content"
    shape: tuple[int, int] = (28, 28)
    train: int = 60_000
    test: int = 10_000
    levels: int = 256


IDX_SOURCES = {
    "mnist": IdxSource(
        "MNIST",
        (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    "fashion_mnist": IdxSource(
        "FashionMNIST",
        (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    ),
    "kmnist": IdxSource(
        "KMNIST",
        (
            "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
            "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
            "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
            "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
        ),
        digest_of="archive",
    ),
}


def digits() -> Dataset:
    """Scikit-learn's 1 797 handwritten digits: 8 × 8 pixels, 17 grey levels. Every fifth one is a test image."""
    from sklearn.datasets import load_digits

    values, classes = load_digits(return_X_y=True)
    images = torch.from_numpy(np.asarray(values, np.uint8).reshape(-1, 8, 8))
    labels = torch.from_numpy(np.asarray(classes, np.uint8))
    test = torch.arange(len(images)) % 5 == 0
    return Dataset("digits", 17, images[~test], labels[~test], images[test], labels[test])


BUNDLED: dict[str, Callable[[], Dataset]] = {"digits": digits}


def image_shape(name: str) -> tuple[int, ...]:
    """Height and width of the images in the data set `name`; nothing is downloaded."""
    return BUNDLED[name]().shape if name in BUNDLED else IDX_SOURCES[name].shape


def get_dataset(name: str) -> Dataset:
    """Get the data set `name`, from its bundled copy or from verified files.

    Raises:
        UserError: if no source has a file with the pinned content, or the content is not a data set.
    """
    if name in BUNDLED:
        return BUNDLED[name]()
    from torchvision import datasets  # takes more than a second to import, so only downloads do

    source = IDX_SOURCES[name]
    shapes: dict[str, tuple[int, ...]] = {}
    for part, count in (("train", source.train), ("t10k", source.test)):
        shapes[f"{part}-images-idx3-ubyte"] = (count, *source.shape)
        shapes[f"{part}-labels-idx1-ubyte"] = (count,)
    files = [
        Pinned(file, len(_header(shape)) + math.prod(shape), digest, source.digest_of)
        for (file, shape), digest in zip(shapes.items(), source.digests, strict=True)
    ]
    contents = fetch(name, files, getattr(datasets, source.torchvision).mirrors)
    tensors = (_decode(name, *part, content) for part, content in zip(shapes.items(), contents, strict=True))
    return Dataset(name, source.levels, *tensors)


def _header(shape: tuple[int, ...]) -> bytes:
    """Start of an IDX file of bytes: the type of the values, the number of dimensions, and four bytes for each."""
    return bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()


def _decode(name: str, file: str, shape: tuple[int, ...], content: bytes) -> Tensor:
    header = _header(shape)
    if not content.startswith(header):
        raise UserError(
            f"{name}: {file} starts with {content[: len(header)].hex(' ', 4)}, not with {header.hex(' ', 4)}, the "
            f"header for {' x '.join(map(str, shape))} bytes; correct the sizes of its entry in IDX_SOURCES"
        )
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=len(header)).view(shape)
