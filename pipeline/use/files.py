"""Files of images: what a trained model is given, and where its images and tables go."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from pipeline.data.dataset import load_dataset
from pipeline.data.image_format import ImageFormat, as_pictures
from pipeline.data.own import as_tensor
from pipeline.data.own_files import IMAGE_FILES, OwnImagesError, Part, files, read
from pipeline.errors import UserError
from pipeline.report import model_plots, plotting
from pipeline.storage.files import atomic, write_text
from pipeline.storage.tables import write_parquet

COLUMNS = 10  # images in a row of a picture


class Given(NamedTuple):
    """Images, the label of each if they have any, and a name for each."""

    images: UInt8[Tensor, "images *shape"]
    labels: list[int] | None
    names: Sequence[str]


def read_images(path: Path, images: ImageFormat, first: int | None) -> Given:
    """Read images: a folder of PNG or JPEG files, one such file, an .npz or IDX file, or a data set of the pipeline.

    Of images that come as train and test, those for test are taken.

    Args:
        images: of the model. Levels of a pixel are compared here, everything else when the images are used.
        first: number of images to take from the start; None takes all.

    Raises:
        UserError: if they cannot be read, or have another number of levels.
    """
    some = slice(first)
    if path.suffix == ".safetensors":
        dataset = load_dataset(path)
        names = [f"test {i}" for i in range(len(dataset.test_images))]
        return Given(dataset.test_images[some], dataset.test_labels[some].tolist(), names[some])
    try:
        content = read(path)
    except OwnImagesError as error:
        raise UserError(f"images in {path}: {error}") from None
    if content.levels != images.grey_levels:
        raise UserError(
            f"images in {path} have {content.levels} levels, and the model {images.grey_levels}; give an .npz file "
            f"with values 0 to {images.grey_levels - 1} and an array `levels`"
        )
    kind = "test" if "test" in content.parts else "all"
    part = content.parts[kind]
    names = _names(path, kind, part)
    labels = None if part.labels is None else part.labels[some].tolist()
    return Given(as_tensor(part.images[some]), labels, names[some])


def _names(path: Path, kind: str, part: Part) -> list[str]:
    """The files' names, if each image is a file; else numbers."""
    names = [name for name in files(path) if kind == "all" or name.startswith(f"{kind}/")]
    if all(Path(name).suffix.lower() in IMAGE_FILES for name in names):
        return names
    return [str(i) for i in range(len(part.images))]


def write_images(path: Path, shown: UInt8[Tensor, "images *shape"], levels: int, above: Tensor | None = None) -> None:
    """Write images: to a .png as a grid, to an .npz as arrays `images` and `levels`, or to a folder as one PNG each.

    Args:
        levels: of a pixel. PNG files have 256 levels, so others are stretched there.
        above: in a grid, each image has one of these above it.

    Raises:
        UserError: for another kind of file.
    """
    if path.suffix == ".png":
        plotting.save(_grid(shown, levels, above), path)
    elif path.suffix == ".npz":
        with atomic(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, images=_channels_last(shown), levels=levels)
    elif path.suffix:
        raise UserError(f"{path}: give a .png, an .npz, or a folder for one PNG of each image")
    else:
        grey = (_channels_last(shown) * (255 / (levels - 1))).round().astype(np.uint8)
        digits = len(str(len(grey) - 1))
        for number, image in enumerate(grey):
            with atomic(path / f"{number:0{digits}}.png") as temporary:
                Image.fromarray(image).save(temporary, format="png")


def write_table(path: Path | None, table: pd.DataFrame) -> None:
    """Write a table to a .csv or .parquet file, or print it if there is no path.

    Raises:
        UserError: for another kind of file.
    """
    if path is None:
        print(table.to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    elif path.suffix == ".csv":
        write_text(path, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    elif path.suffix == ".parquet":
        write_parquet(path, table)
    else:
        raise UserError(f"{path}: give a .csv or a .parquet file")


def _grid(shown: Tensor, levels: int, above: Tensor | None) -> plotting.Figure:
    """Rows of images; with `above`, a row of these over each row."""
    columns = min(COLUMNS, len(shown))
    if above is None:
        return plotting.grid(plotting.in_rows(_pictures(shown, levels), columns))
    return model_plots.reconstructions(_pictures(above, levels), _pictures(shown, levels), columns)


def _pictures(images: Tensor, levels: int) -> np.ndarray:
    """As figures show them, in [0, 1]."""
    return _channels_last(images) / (levels - 1)


def _channels_last(images: Tensor) -> np.ndarray:
    """(images, height, width), or (images, height, width, 3) in colour."""
    return as_pictures(images.flatten(1).numpy(), tuple(images.shape[1:]))
