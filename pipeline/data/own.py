"""Your own images: pinned by a digest, checked, and split into training and test images."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data.dataset import MOST_CLASSES, Dataset
from pipeline.data.own_files import SPLIT, Content, OwnImagesError, Part, files, read, size_text
from pipeline.errors import UserError
from pipeline.storage.files import main_repository

NAME = "own"
TEST_SHARE = 0.2  # of the images, if they do not come as train and test
LEAST_TRAIN, LEAST_TEST = 10, 2  # images


def get_own(path: str, sha256: str, seed: int) -> Dataset:
    """Read own images whose content is pinned.

    Args:
        path: of a folder or a file; a relative one starts at the main repository.
        sha256: the digest that they should have.
        seed: of the split, if they do not come as train and test.

    Raises:
        UserError: if they have another digest, or are not as they should be.
    """
    found = digest_of_own(path)
    if found != sha256:
        raise UserError(
            f"own images in {path}: their SHA-256 is\n  {found}\nand data.sha256 is\n  {sha256}\n"
            "If they were changed on purpose, set data.sha256 to the first value, or run "
            f"`python -m tools.own {path}`, which checks them and writes it"
        )
    return read_own(path, seed)


def digest_of_own(path: str) -> str:
    """The digest of own images, for data.sha256.

    Raises:
        UserError: if there are none.
    """
    with _of(path):
        return digest(located(path))


def read_own(path: str, seed: int) -> Dataset:
    """Read own images, whatever their digest is.

    Raises:
        UserError: if they are not as they should be. It names the first mistake.
    """
    with _of(path):
        return _dataset(read(located(path)), seed)


@contextmanager
def _of(path: str) -> Iterator[None]:
    try:
        yield
    except OwnImagesError as error:
        raise UserError(f"own images in {path}: {error}") from None


def located(path: str) -> Path:
    """The path of own images, absolute. A relative one starts at the main repository."""
    return main_repository() / Path(path).expanduser()


def digest(path: Path) -> str:
    """SHA-256 of a file; of a folder, that of the relative names, sizes and contents of its files, sorted by name.

    Raises:
        OwnImagesError: if nothing is there.
    """
    found = hashlib.sha256()
    for name, file in files(path).items():
        content = file.read_bytes()
        found.update(content if file == path else os.fsencode(f"{name} {len(content)}\n") + content)
    return found.hexdigest()


def _dataset(content: Content, seed: int) -> Dataset:
    parts = content.parts
    shapes = {part: size_text(found.images.shape[1:]) for part, found in parts.items()}
    if len(set(shapes.values())) > 1:
        raise OwnImagesError(
            f"the training images have {shapes['train']}, the test images {shapes['test']}; give all images one size, "
            "and all of them in grey or all in colour"
        )
    for part, found in parts.items():
        which = "" if part == "all" else f" for {part}"
        _require_labels(which, found)
    if len({found.labels is None for found in parts.values()}) > 1:
        raise OwnImagesError("only one of train and test has labels; give both labels, or neither")
    if "all" in parts:
        whole = parts["all"]
        chosen = _chosen(len(whole.images), seed)
        train, test = (
            Part(whole.images[rows], None if whole.labels is None else whole.labels[rows]) for rows in (~chosen, chosen)
        )
    else:
        train, test = (parts[part] for part in SPLIT)
    if len(train.images) < LEAST_TRAIN or len(test.images) < LEAST_TEST:
        raise OwnImagesError(
            f"there are {len(train.images)} training and {len(test.images)} test images; at least {LEAST_TRAIN} and "
            f"{LEAST_TEST} are needed"
            + ("" if "train" in parts else f" (a fifth of {len(parts['all'].images)} images become test images)")
        )
    if (train.images == train.images[0]).all():
        raise OwnImagesError("all training images are the same; give different ones")
    tensors = [tensor for part in (train, test) for tensor in (_images(part.images), _labels(part))]
    return Dataset(NAME, content.levels, *tensors)


def _require_labels(which: str, part: Part) -> None:
    labels = part.labels
    if labels is None:
        return
    if labels.dtype.kind not in "iu":
        raise OwnImagesError(f"the labels{which} have the type {labels.dtype}; give whole numbers of 0 or more")
    if labels.shape != part.images.shape[:1]:
        raise OwnImagesError(
            f"there are {len(part.images)} images{which}, and the labels have the shape {labels.shape}; give one label "
            "per image"
        )
    if int(labels.min()) < 0 or int(labels.max()) >= MOST_CLASSES:
        raise OwnImagesError(
            f"the labels{which} go from {labels.min()} to {labels.max()}; give whole numbers from 0 to "
            f"{MOST_CLASSES - 1}"
        )


def _chosen(images: int, seed: int) -> NDArray[np.bool_]:
    """Which images are test images: a fifth of them, at random."""
    order = torch.randperm(images, generator=torch.Generator().manual_seed(seed)).numpy()
    chosen = np.zeros(images, dtype=np.bool_)
    chosen[order[: round(TEST_SHARE * images)]] = True
    return chosen


def _images(images: NDArray[np.uint8]) -> torch.Tensor:
    """As a tensor (n, height, width), or (n, 3, height, width)."""
    return torch.from_numpy(np.ascontiguousarray(images if images.ndim == 3 else np.moveaxis(images, 3, 1)))


def _labels(part: Part) -> torch.Tensor:
    """Labels as the least integers that hold all of them; zeros if there are none."""
    labels = np.zeros(len(part.images), np.uint8) if part.labels is None else part.labels
    return torch.from_numpy(labels.astype(np.int16 if labels.max() > 255 else np.uint8))
