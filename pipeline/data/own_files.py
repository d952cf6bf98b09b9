"""The files of own images: a folder of PNG and JPEG files, an .npz file, or IDX files.

In a folder of images each subfolder is a class. A folder with the subfolders train and test has its own split. Nothing
is rescaled, cropped or converted: what is not understood is refused.
"""

import gzip
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

SPLIT = ("train", "test")
MOST_NUMBERS = 16_384  # per image: 128 x 128 grey pixels, or 73 x 73 in colour

IMAGE_FILES = {".png", ".jpg", ".jpeg"}
IDX_FILE = re.compile(r"idx\d-ubyte(\.gz)?$")
IDX_TYPES = {9: "int8", 11: "int16", 12: "int32", 13: "float32", 14: "float64"}
NPZ_ARRAYS = ("images", "labels", "train_images", "train_labels", "test_images", "test_labels", "levels")


class Part(NamedTuple):
    """Images (n, height, width) or (n, height, width, 3), uint8, and their labels, if they have any."""

    images: NDArray[np.uint8]
    labels: NDArray[np.integer] | None


class Content(NamedTuple):
    """What files hold: the parts `train` and `test`, or one part, `all`; and the number of levels of a pixel."""

    parts: dict[str, Part]
    levels: int = 256


class OwnImagesError(Exception):
    """A mistake in own data. The message says what is wrong, and after a semicolon what to do."""


def files(path: Path) -> dict[str, Path]:
    """The files of own images by their relative names, sorted. Hidden ones (.DS_Store, for example) are left out.

    Raises:
        OwnImagesError: if there are none, or folders are nested too deep.
    """
    if path.is_file():
        return {path.name: path}
    if not path.is_dir():
        raise OwnImagesError(f"{path} does not exist; give a folder, an .npz file or an IDX file")
    found = {file.relative_to(path).as_posix(): file for file in _walk(path, depth=2)}
    if not found:
        raise OwnImagesError("the folder is empty; give a folder with PNG or JPEG files, or with IDX files")
    return dict(sorted(found.items()))


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    """Files in a folder and `depth` levels below it."""
    for entry in folder.iterdir():
        if entry.name.startswith("."):
            continue
        if not entry.is_dir():
            yield entry
        elif depth:
            yield from _walk(entry, depth - 1)
        else:
            raise OwnImagesError(f"{entry} is nested too deep; put images into class folders, or into train/ and test/")


def read(path: Path) -> Content:
    """Read own images; sizes, counts and labels are not compared yet.

    Raises:
        OwnImagesError: if a file is not as it should be.
    """
    found = files(path)
    if idx := [name for name in found if IDX_FILE.search(name)]:
        if others := sorted(set(found) - set(idx)):
            raise OwnImagesError(f"{others[0]} is not an IDX file, as others here are; move it away")
        return _read_idx(found)
    if path.suffix == ".npz":
        return _read_npz(path)
    if path.is_dir() or path.suffix.lower() in IMAGE_FILES:
        return _read_folder(found)
    raise OwnImagesError("it is not a PNG, JPEG, .npz or IDX file; give one of these, or a folder of images")


# Folders of images


def _read_folder(found: Mapping[str, Path]) -> Content:
    places = {name: PurePosixPath(name).parts[:-1] for name in found}
    for name in found:
        if PurePosixPath(name).suffix.lower() not in IMAGE_FILES:
            raise OwnImagesError(f"{name} is not a PNG or JPEG file; move it away, or convert it")
    tops = {place[0] if place else "" for place in places.values()}
    if tops & set(SPLIT) and tops != set(SPLIT):
        raise OwnImagesError(
            "a folder train or test stands beside other images; put all images into train/ and test/, or name it "
            "differently"
        )
    given = tops == set(SPLIT)
    classes = {name: place[1:] if given else place for name, place in places.items()}
    if deep := [name for name, place in classes.items() if len(place) > 1]:
        raise OwnImagesError(f"{deep[0]} is nested too deep; put images into class folders, or into train/ and test/")
    if len({bool(place) for place in classes.values()}) > 1:
        name = next(name for name, place in classes.items() if not place)
        raise OwnImagesError(f"{name} is in no class folder, as others are; put it into one, or use no class folders")
    labels = _labels_of_folders({place[0] for place in classes.values() if place})
    images = _decoded(found)
    parts = {}
    for part in SPLIT if given else ("all",):
        mine = [name for name in found if not given or places[name][0] == part]
        named = np.array([labels[classes[name][0]] for name in mine]) if labels else None
        parts[part] = Part(np.stack([images[name] for name in mine]), named)
    return Content(parts)


def _labels_of_folders(names: set[str]) -> dict[str, int]:
    """The label of each class folder: its name, if all names are numbers, or else its place in their order."""
    if all(re.fullmatch("[0-9]+", name) for name in names):
        if len({int(name) for name in names}) < len(names):
            raise OwnImagesError("two class folders are the same number; give each class one folder")
        return {name: int(name) for name in names}
    return {name: label for label, name in enumerate(sorted(names))}


def _decoded(found: Mapping[str, Path]) -> dict[str, NDArray[np.uint8]]:
    """The pixels of image files, which all have the same size and colours."""
    images: dict[str, NDArray[np.uint8]] = {}
    first: tuple[str, tuple[int, ...]] | None = None
    for name, file in found.items():
        images[name] = _decode(name, file, first)
        first = first or (name, images[name].shape)
    return images


def _decode(name: str, file: Path, first: tuple[str, tuple[int, ...]] | None) -> NDArray[np.uint8]:
    from PIL import Image, UnidentifiedImageError  # only folders of images need it

    try:
        with warnings.catch_warnings(), Image.open(file, formats=("PNG", "JPEG")) as image:
            warnings.simplefilter("ignore")  # Pillow warns of damage that it skips, and of very large images
            shape = image.size[::-1]
            if first and shape != first[1][:2]:
                raise OwnImagesError(
                    f"{name} has {size_text(shape)}, {first[0]} {size_text(first[1][:2])}; give all images one size"
                )
            _require_size(shape)  # before anything is decoded
            if image.has_transparency_data:
                raise OwnImagesError(f"{name} is transparent in places; save it without an alpha channel")
            if _bits(file) > 8:
                raise OwnImagesError(f"{name} has 16 bits per pixel; save it with 8")
            modes = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB"}  # these conversions lose nothing
            if image.mode not in modes:
                raise OwnImagesError(f"{name} is in the colour mode {image.mode}; save it as grey or RGB")
            pixels = np.array(image.convert(modes[image.mode]))
    except UnidentifiedImageError:
        raise OwnImagesError(f"{name} is not a PNG or JPEG file, whatever its name says; move it away") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise OwnImagesError(f"{name} cannot be read ({error}); replace it or move it away") from None
    if first and pixels.ndim != len(first[1]):
        colours = {2: "is grey", 3: "has colours"}
        raise OwnImagesError(
            f"{name} {colours[pixels.ndim]}, {first[0]} {colours[len(first[1])]}; give all images in grey or all in "
            "colour"
        )
    _require_size(pixels.shape)
    return pixels


def _bits(file: Path) -> int:
    """Bits per value of a PNG, which Pillow would silently reduce to 8; 8 of a JPEG."""
    with file.open("rb") as opened:
        start = opened.read(25)
    return start[24] if start.startswith(b"\x89PNG") else 8


def size_text(shape: Sequence[int]) -> str:
    """Height and width, for messages, and whether there are colours."""
    return f"{shape[0]} x {shape[1]} pixels{' in colour' if len(shape) > 2 else ''}"


def _require_size(shape: Sequence[int]) -> None:
    """Raise an error for images that are too large. `shape` may lack the channels."""
    if int(np.prod(shape)) > MOST_NUMBERS:
        raise OwnImagesError(
            f"the images have {size_text(shape)}, and at most {MOST_NUMBERS} numbers per image are possible (128 x 128 "
            "grey pixels, 73 x 73 in colour); make them smaller"
        )


# .npz files


def _read_npz(path: Path) -> Content:
    try:
        with path.open("rb") as opened:
            file = np.load(opened, allow_pickle=False)
            if isinstance(file, np.ndarray):
                raise OwnImagesError("the file holds one array and no names; write it with numpy.savez")
            arrays = {name: np.asarray(file[name]) for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise OwnImagesError(
            f"not a readable .npz file ({reason}); write it with numpy.savez, without objects"
        ) from None
    split = {f"{part}_images" for part in SPLIT} <= set(arrays)
    if unknown := sorted(set(arrays) - set(NPZ_ARRAYS)):
        raise OwnImagesError(f"there is an array {unknown[0]}; an .npz file has the arrays {', '.join(NPZ_ARRAYS)}")
    wanted = {"train": "train_", "test": "test_"} if split else {"all": ""}
    if not split and ("images" not in arrays or len({name.partition("_")[0] for name in arrays} & set(SPLIT))):
        raise OwnImagesError(
            f"the arrays are {', '.join(sorted(arrays)) or 'none'}; give images, or train_images and test_images"
        )
    if split and ("images" in arrays or "labels" in arrays):
        raise OwnImagesError("there are images for training and testing, and others; give one or the other")
    levels = _levels(arrays.get("levels"))
    parts, all_levels = {}, set()
    for part, prefix in wanted.items():
        images, found = _pixels(f"{prefix}images", arrays[f"{prefix}images"], levels)
        parts[part] = Part(images, arrays.get(f"{prefix}labels"))
        all_levels.add(found)
    if len(all_levels) > 1:
        raise OwnImagesError("train_images and test_images have different types; give them one")
    return Content(parts, all_levels.pop())


def _levels(array: NDArray[Any] | None) -> int | None:
    if array is None:
        return None
    if array.shape or array.dtype.kind not in "iu" or not 2 <= int(array) <= 256:
        raise OwnImagesError("levels is not a whole number from 2 to 256; leave it out for 256 levels")
    return int(array)


def _pixels(name: str, array: NDArray[Any], levels: int | None) -> tuple[NDArray[np.uint8], int]:
    """An array as values 0 .. levels − 1, and the number of levels, which is 256 unless it is given or they are bools.

    Floats in [0, 1] are taken as v / (levels − 1), if each of them is such a number.
    """
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[3] != 3):
        raise OwnImagesError(
            f"{name} has the shape {array.shape}; grey images have the shape (images, height, width), colour images "
            "(images, height, width, 3)"
        )
    if 0 in array.shape:
        raise OwnImagesError(f"{name} has the shape {array.shape}, with nothing in it; give at least one image")
    _require_size(array.shape[1:])
    if array.dtype == np.bool_:
        return array.astype(np.uint8), 2
    most = (levels or 256) - 1
    if array.dtype.kind == "f":
        return _from_floats(name, array, most), most + 1
    if array.dtype.kind not in "iu":
        raise OwnImagesError(f"{name} has the type {array.dtype}; give uint8, or floats in [0, 1]")
    least, largest = int(array.min()), int(array.max())
    if least < 0 or largest > most:
        raise OwnImagesError(f"{name} has values from {least} to {largest}; give values from 0 to {most}")
    if levels is None and largest <= 1:
        raise OwnImagesError(
            f"the largest value of {name} is {largest} of 255, which is black; for black and white images add an array "
            "levels = 2"
        )
    return array.astype(np.uint8), most + 1


def _from_floats(name: str, array: NDArray[np.floating], most: int) -> NDArray[np.uint8]:
    if not np.isfinite(array).all():
        raise OwnImagesError(f"{name} has values that are not finite; replace them")
    least, largest = float(array.min()), float(array.max())
    if least < 0 or largest > 1:
        raise OwnImagesError(
            f"{name} are floats from {least:g} to {largest:g}, which are not rescaled; give floats in [0, 1], or uint8"
        )
    scaled = array.astype(np.float64) * most
    values = scaled.round()
    if np.abs(scaled - values).max() > most * float(np.finfo(array.dtype).eps):
        raise OwnImagesError(
            f"{name} are floats that are not all multiples of 1/{most}, the levels of a pixel; round them, and store "
            "uint8"
        )
    return values.astype(np.uint8)


# IDX files


def _read_idx(found: Mapping[str, Path]) -> Content:
    arrays: dict[str, dict[bool, NDArray[np.uint8]]] = {}
    for name, file in found.items():
        part = "train" if "train" in name else "test" if re.search("test|t10k", name) else "all"
        array = _idx(name, file)
        images = array.ndim > 1
        if images in arrays.setdefault(part, {}):
            raise OwnImagesError(f"{name} is a second file of {'images' if images else 'labels'} for {part}; keep one")
        arrays[part][images] = array
    if set(arrays) not in ({"all"}, set(SPLIT)):
        raise OwnImagesError(
            f"the IDX files are {', '.join(found)}; give files with train and with test (or t10k) in their names, or "
            "with neither"
        )
    for part, both in arrays.items():
        if True not in both:
            raise OwnImagesError(f"there are labels for {part} without images; add the file of images")
    # The pixels of IDX files are bytes, and these are checked as those of an .npz file are.
    return Content(
        {part: Part(_pixels("images", both[True], None)[0], both.get(False)) for part, both in arrays.items()}
    )


def _idx(name: str, file: Path) -> NDArray[np.uint8]:
    try:
        content = gzip.decompress(file.read_bytes()) if name.endswith(".gz") else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise OwnImagesError(f"{name} cannot be decompressed ({error}); replace it") from None
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in {8, *IDX_TYPES} or not content[3]:
        raise OwnImagesError(f"{name} does not start as an IDX file does; replace it")
    if content[2] != 8:
        raise OwnImagesError(f"{name} has values of type {IDX_TYPES[content[2]]}; give unsigned bytes (type 8)")
    start = 4 + 4 * content[3]
    shape = tuple(int(side) for side in np.frombuffer(content[4:start].ljust(start - 4, b"\0"), ">u4"))
    wanted = int(np.prod(shape, dtype=object))
    if len(content) - start != wanted:
        raise OwnImagesError(f"{name} has {len(content) - start} values, and its header says {shape}; replace it")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
