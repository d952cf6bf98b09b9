"""Own images: every form in which they may come, their digest, their split, and what is refused."""

import gzip
import io
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from pipeline.data.dataset import Dataset
from pipeline.data.own import digest_of_own, get_own, located, read_own
from pipeline.errors import UserError

Array = NDArray[Any]


def pixels(count: int = 20, *shape: int, seed: int = 0) -> NDArray[np.uint8]:
    """Random images, 6 × 5 grey ones by default."""
    return np.random.default_rng(seed).integers(0, 256, (count, *(shape or (6, 5))), dtype=np.uint8)


def write(folder: Path, names: list[str], images: NDArray[np.uint8], **options: Any) -> None:
    for name, image in zip(names, images, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name, **options)


def names_of(count: int, *folders: str) -> list[str]:
    """File names, in the folders in turn; sorted as the reader sorts them."""
    return sorted(f"{folders[i % len(folders)]}/{i:02}.png" if folders else f"{i:02}.png" for i in range(count))


def idx(array: NDArray[np.uint8], kind: int = 8) -> bytes:
    return bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def together(dataset: Dataset) -> Array:
    """All images of a data set that was split by a seed, sorted; colours last."""
    images = torch.cat([dataset.train_images, dataset.test_images]).numpy()
    images = images if images.ndim == 3 else np.moveaxis(images, 1, 3)
    return images[np.lexsort(images.reshape(len(images), -1).T)]


def in_order(images: Array) -> Array:
    return images[np.lexsort(images.reshape(len(images), -1).T)]


# Forms


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3)])
def test_a_folder_of_images(tmp_path: Path, shape: tuple[int, ...]) -> None:
    images = pixels(20, *shape)
    write(tmp_path, names_of(20), images)
    (tmp_path / ".DS_Store").write_bytes(b"hidden files are no images")
    dataset = read_own(str(tmp_path), 0)
    assert (dataset.name, dataset.levels, dataset.labelled) == ("own", 256, False)
    assert dataset.shape == ((6, 5) if shape == (6, 5) else (3, 6, 5))
    assert (len(dataset.train_images), len(dataset.test_images)) == (16, 4)
    assert np.array_equal(together(dataset), in_order(images))


@pytest.mark.parametrize(
    ("folders", "labels"),
    [(["dog", "cat"], {"cat": 0, "dog": 1}), (["1", "26", "3"], {"1": 1, "26": 26, "3": 3})],
    ids=["names", "numbers"],
)
def test_class_folders_are_labels(tmp_path: Path, folders: list[str], labels: dict[str, int]) -> None:
    names, images = names_of(21, *folders), pixels(21)
    write(tmp_path, names, images)
    dataset = read_own(str(tmp_path), 0)
    assert dataset.labelled
    expected = {image.tobytes(): labels[name.partition("/")[0]] for name, image in zip(names, images, strict=True)}
    for part, found in ((dataset.train_images, dataset.train_labels), (dataset.test_images, dataset.test_labels)):
        assert [expected[image.numpy().tobytes()] for image in part] == found.tolist()


@pytest.mark.parametrize("classes", [(), ("a", "b")])
def test_train_and_test_folders_are_the_split(tmp_path: Path, classes: tuple[str, ...]) -> None:
    train, test = pixels(12, seed=1), pixels(4, seed=2)
    write(tmp_path / "train", names_of(12, *classes), train)
    write(tmp_path / "test", names_of(4, *classes), test)
    dataset = read_own(str(tmp_path), 0)
    assert np.array_equal(dataset.train_images, train)
    assert np.array_equal(dataset.test_images, test)
    assert dataset.train_labels.tolist() == ([0] * 6 + [1] * 6 if classes else [0] * 12)


def test_jpeg_and_other_lossless_modes_are_read(tmp_path: Path) -> None:
    colours = pixels(11, 6, 5, 3)
    write(tmp_path, [f"{i:02}.JPG" for i in range(11)], colours, format="JPEG", quality=90)
    Image.fromarray(colours[0]).quantize(30).save(tmp_path / "palette.png")
    assert read_own(str(tmp_path), 0).shape == (3, 6, 5)
    with Image.open(tmp_path / "03.JPG") as image:
        decoded = np.array(image)
    assert any(np.array_equal(np.moveaxis(decoded, 2, 0), x) for x in read_own(str(tmp_path), 0).train_images)


def test_an_npz_file(tmp_path: Path) -> None:
    images, labels = pixels(30, 4, 7), np.arange(30) % 5 + 300
    np.savez(tmp_path / "own.npz", images=images, labels=labels)
    dataset = read_own(str(tmp_path / "own.npz"), 0)
    assert np.array_equal(together(dataset), in_order(images))
    assert dataset.train_labels.dtype == torch.int16
    assert sorted([*dataset.train_labels.tolist(), *dataset.test_labels.tolist()]) == sorted(labels.tolist())
    train, test = images[:20], images[20:]
    np.savez_compressed(
        tmp_path / "split.npz", train_images=train, test_images=test, train_labels=labels[:20], test_labels=labels[20:]
    )
    dataset = read_own(str(tmp_path / "split.npz"), 0)
    assert np.array_equal(dataset.test_images, test)
    assert dataset.test_labels.tolist() == labels[20:].tolist()


@pytest.mark.parametrize(
    ("change", "levels"),
    [
        (lambda v: v.astype(np.int64), 256),
        (lambda v: v / 255, 256),
        (lambda v: (v / 255).astype(np.float32), 256),
        (lambda v: (v / 255).astype(np.float16), 256),
        (lambda v: v[..., None], 256),
    ],
    ids=["int64", "float64", "float32", "float16", "one channel"],
)
def test_every_type_is_taken_as_the_values_that_it_is(
    tmp_path: Path, change: Callable[[Array], Array], levels: int
) -> None:
    images = pixels(20, 16, 16)  # all 256 values
    np.savez(tmp_path / "own.npz", images=change(images))
    dataset = read_own(str(tmp_path / "own.npz"), 0)
    assert dataset.levels == levels
    assert np.array_equal(together(dataset), in_order(images))


def test_other_numbers_of_levels(tmp_path: Path) -> None:
    few = pixels() % 17
    for name, array, levels in (("int", few, 17), ("float", few / 16, 17)):
        np.savez(tmp_path / f"{name}.npz", images=array, levels=levels)
        dataset = read_own(str(tmp_path / f"{name}.npz"), 0)
        assert dataset.levels == 17
        assert np.array_equal(together(dataset), in_order(few))
    np.savez(tmp_path / "bool.npz", images=pixels() > 100)
    assert read_own(str(tmp_path / "bool.npz"), 0).levels == 2


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files(tmp_path: Path, packed: bool) -> None:
    """As EMNIST's: labels from 1 to 26."""
    train, test = pixels(30, seed=1), pixels(26, seed=2)
    arrays = {
        "letters-train-images-idx3-ubyte": train, "letters-test-images-idx3-ubyte": test,
        "letters-train-labels-idx1-ubyte": (np.arange(30) % 26 + 1).astype(np.uint8),
        "letters-test-labels-idx1-ubyte": np.arange(1, 27).astype(np.uint8),
    }  # fmt: skip
    for name, array in arrays.items():
        content = idx(array)
        (tmp_path / f"{name}{'.gz' if packed else ''}").write_bytes(gzip.compress(content) if packed else content)
    dataset = read_own(str(tmp_path), 0)
    assert np.array_equal(dataset.train_images, train)
    assert np.array_equal(dataset.test_images, test)
    assert dataset.test_labels.tolist() == list(range(1, 27))
    assert dataset.class_shares()[0] == 0


def test_one_idx_file_is_split_by_the_seed(tmp_path: Path) -> None:
    images = pixels(20, 6, 5, 3)
    (tmp_path / "some-idx4-ubyte").write_bytes(idx(images))
    dataset = read_own(str(tmp_path / "some-idx4-ubyte"), 0)
    assert np.array_equal(together(dataset), in_order(images))
    assert dataset.shape == (3, 6, 5)


def test_the_seed_chooses_the_test_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", images=pixels(50))
    first, same, other = (read_own(str(tmp_path / "own.npz"), seed) for seed in (1, 1, 2))
    assert torch.equal(first.test_images, same.test_images)
    assert not torch.equal(first.test_images, other.test_images)


# Path and digest


def test_a_relative_path_starts_at_the_main_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    workspace = tmp_path / ".dvc/tmp/exps/tmp1"
    (workspace / ".git").mkdir(parents=True)
    for folder in (tmp_path, workspace):
        monkeypatch.chdir(folder)
        assert located("my images") == tmp_path / "my images"
        assert located("/elsewhere") == Path("/elsewhere")
    monkeypatch.setenv("HOME", "/home/me")
    assert located("~/mine") == Path("/home/me/mine")


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "00.png").rename(folder / "99.png"),
        lambda folder: (folder / "00.png").unlink(),
        lambda folder: write(folder, ["00.png"], pixels(1, seed=5)),
    ],
    ids=["renamed", "removed", "changed"],
)
def test_a_changed_folder_has_another_digest_and_is_refused(tmp_path: Path, change: Callable[[Path], Any]) -> None:
    write(tmp_path, names_of(20), pixels())
    pinned = digest_of_own(str(tmp_path))
    assert len(get_own(str(tmp_path), pinned, 0).train_images) == 16
    (tmp_path / ".hidden").write_bytes(b"")
    assert digest_of_own(str(tmp_path)) == pinned
    change(tmp_path)
    found = digest_of_own(str(tmp_path))
    assert found != pinned
    with pytest.raises(UserError, match=rf"{found}\n.*\n  {pinned}\n.*python -m tools.own"):
        get_own(str(tmp_path), pinned, 0)


def test_a_copy_elsewhere_has_the_same_digest(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write(tmp_path / folder, names_of(12, "x", "y"), pixels(12))
    assert digest_of_own(str(tmp_path / "a")) == digest_of_own(str(tmp_path / "b"))


# What is refused

Make = Callable[[Path], object]


def npz(**arrays: Any) -> Make:
    return lambda folder: np.savez(folder / "own.npz", **arrays)


def folder_of(*parts: tuple[str, NDArray[np.uint8]]) -> Make:
    def make(folder: Path) -> None:
        write(folder, names_of(20), pixels())
        for name, image in parts:
            write(folder, [name], image[None])

    return make


def file_of(name: str, content: bytes) -> Make:
    return lambda folder: (folder / name).write_bytes(content)


def both(*makes: Make) -> Make:
    return lambda folder: [make(folder) for make in makes]


def png(mode: str, dtype: Any = np.uint8) -> bytes:
    content = io.BytesIO()
    image = Image.fromarray(np.full((6, 5), 300, np.uint16)) if dtype == np.uint16 else Image.new(mode, (5, 6))
    image.save(content, format="PNG")
    return content.getvalue()


def sixteen_bits_in_colour() -> bytes:
    """A PNG of 16 bits per channel, which Pillow cannot write. Only its header is read here."""
    content = bytearray(png("RGB"))
    content[24] = 16
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


IMAGES, LABELS = pixels(20), np.arange(20) % 4
MALFORMED: dict[str, tuple[Make, str]] = {
    "nothing there": (lambda folder: folder.rmdir(), "does not exist; give a folder"),
    "empty folder": (lambda folder: None, "the folder is empty"),
    "another file": (both(folder_of(), file_of("notes.txt", b"")), r"notes\.txt is not a PNG or JPEG file"),
    "text as image": (both(folder_of(), file_of("a.png", b"text")), r"a\.png is not a PNG or JPEG file, whatever"),
    "cut image": (both(folder_of(), file_of("a.png", png("L")[:45])), r"a\.png (cannot be read|is not a PNG)"),
    "transparent": (both(folder_of(), file_of("a.png", png("RGBA"))), "transparent in places; save it without"),
    "16 bits": (both(folder_of(), file_of("a.png", png("L", np.uint16))), "16 bits per pixel; save it with 8"),
    "16 bits in colour": (file_of("a.png", sixteen_bits_in_colour()), "16 bits per pixel; save it with 8"),
    "another mode": (
        lambda folder: Image.new("CMYK", (5, 6)).save(folder / "a.jpg"), "colour mode CMYK; save it as grey or RGB"
    ),
    "two sizes": (folder_of(("a.png", pixels(1, 6, 4)[0])), r"a\.png has 6 x 4 pixels, 00\.png 6 x 5 pixels; give all"),
    "grey and colour": (folder_of(("a.png", pixels(1, 6, 5, 3)[0])), r"a\.png has colours, 00\.png is grey; give all"),
    "beside class folders": (folder_of(("a/a.png", IMAGES[0])), r"00\.png is in no class folder, as others are"),
    "nested": (folder_of(("a/b/a.png", IMAGES[0])), "nested too deep"),
    "nested deeper": (folder_of(("a/b/c/a.png", IMAGES[0])), "nested too deep"),
    "train without test": (folder_of(("train/a.png", IMAGES[0])), "a folder train or test stands beside other images"),
    "one number twice": (
        lambda folder: write(folder, names_of(20, "1", "01"), IMAGES), "two class folders are the same number"
    ),
    "large image": (lambda folder: write(folder, ["a.png"], pixels(1, 129, 128)), "at most 16384 numbers per image"),
    "large colour image": (lambda folder: write(folder, ["a.png"], pixels(1, 74, 74, 3)), "at most 16384 numbers"),
    "too few": (lambda folder: write(folder, names_of(11), pixels(11)), "9 training and 2 test images; at least 10"),
    "all the same": (npz(images=np.full((20, 6, 5), 9, np.uint8)), "all training images are the same"),
    "not an npz": (file_of("own.npz", b"text"), "not a readable .npz file"),
    "cut npz": (
        lambda folder: (np.savez(folder / "a.npz", images=IMAGES),
                        (folder / "own.npz").write_bytes((folder / "a.npz").read_bytes()[:300]),
                        (folder / "a.npz").unlink()), "not a readable .npz file",
    ),
    "one array": (
        lambda folder: (np.save(folder / "a.npy", IMAGES), (folder / "a.npy").rename(folder / "own.npz")),
        "holds one array and no names",
    ),
    "objects": (npz(images=np.array([IMAGES[0], "x"], dtype=object)), "not a readable .npz file"),
    "no images": (npz(labels=LABELS), "the arrays are labels; give images"),
    "unknown array": (npz(images=IMAGES, weights=LABELS), "there is an array weights"),
    "train only": (npz(train_images=IMAGES), "the arrays are train_images; give images, or"),
    "split and whole": (npz(train_images=IMAGES, test_images=IMAGES, images=IMAGES), "and others; give one or the"),
    "floats beyond 1": (npz(images=IMAGES.astype(np.float32)), r"floats from 0 to 255, which are not rescaled; give"),
    "floats below 0": (npz(images=IMAGES / 127.5 - 1), r"floats from -1 to 1, which are not rescaled"),
    "floats between levels": (npz(images=IMAGES / 256), "not all multiples of 1/255, the levels of a pixel; round"),
    "not finite": (npz(images=np.where(IMAGES > 200, np.nan, IMAGES / 255)), "values that are not finite"),
    "negative": (npz(images=IMAGES.astype(int) - 1), "values from -1 to 254; give values from 0 to 255"),
    "beyond 255": (npz(images=IMAGES.astype(int) + 1), "values from 1 to 256; give values from 0 to 255"),
    "beyond the levels": (npz(images=IMAGES, levels=17), "values from 0 to 255; give values from 0 to 16"),
    "wrong levels": (npz(images=IMAGES, levels=1.5), "levels is not a whole number from 2 to 256"),
    "zeros and ones": (npz(images=(IMAGES > 99).astype(np.uint8)), "black and white images add an array levels = 2"),
    "texts": (npz(images=IMAGES.astype(str)), "images has the type <U3; give uint8, or floats"),
    "one flat image": (npz(images=IMAGES.reshape(20, 30)), r"has the shape \(20, 30\); grey images have the shape"),
    "channels first": (npz(images=pixels(20, 3, 6, 5)), r"has the shape \(20, 3, 6, 5\); grey images have"),
    "no pixels": (npz(images=IMAGES[:, :0]), r"has the shape \(20, 0, 5\), with nothing in it"),
    "two sizes of arrays": (
        npz(train_images=IMAGES, test_images=pixels(20, 6, 4)), "training images have 6 x 5 pixels, the test images 6"
    ),
    "two types": (npz(train_images=IMAGES, test_images=IMAGES > 3), "train_images and test_images have different"),
    "labels missing": (npz(images=IMAGES, labels=LABELS[:19]), r"20 images, and the labels have the shape \(19,\)"),
    "labels as columns": (npz(images=IMAGES, labels=LABELS[:, None]), r"the labels have the shape \(20, 1\)"),
    "labels as floats": (npz(images=IMAGES, labels=LABELS / 2), "the labels have the type float64; give whole numbers"),
    "labels as texts": (npz(images=IMAGES, labels=LABELS.astype(str)), "the labels have the type <U"),
    "negative labels": (npz(images=IMAGES, labels=LABELS - 1), "the labels go from -1 to 2; give whole numbers from 0"),
    "large labels": (npz(images=IMAGES, labels=LABELS + 997), "the labels go from 997 to 1000; give whole numbers"),
    "half of the labels": (npz(train_images=IMAGES, test_images=IMAGES, train_labels=LABELS), "only one of train and"),
    "idx of floats": (file_of("a-idx3-ubyte", idx(IMAGES, kind=13)), "values of type float32; give unsigned bytes"),
    "cut idx": (file_of("a-idx3-ubyte", idx(IMAGES)[:-1]), r"599 values, and its header says \(20, 6, 5\)"),
    "idx without header": (file_of("a-idx3-ubyte", b"text of a file"), "does not start as an IDX file does"),
    "cut header": (file_of("a-idx3-ubyte", idx(IMAGES)[:7]), "values, and its header says|does not start as"),
    "cut gzip": (file_of("a-idx3-ubyte.gz", gzip.compress(idx(IMAGES))[:-9]), "cannot be decompressed"),
    "idx labels only": (file_of("a-idx1-ubyte", idx(LABELS.astype(np.uint8))), "labels for all without images"),
    "idx train only": (file_of("train-idx3-ubyte", idx(IMAGES)), "give files with train and with test"),
    "idx twice": (
        both(file_of("a-idx3-ubyte", idx(IMAGES)), file_of("b-idx3-ubyte", idx(IMAGES))), "is a second file of images"
    ),
    "idx and others": (both(file_of("a-idx3-ubyte", idx(IMAGES)), folder_of()), "is not an IDX file, as others here"),
    "one image": (file_of("own.png", png("L")), "1 training and 0 test images; at least 10 and 2 are needed"),
}  # fmt: skip


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_images_get_one_message_that_ends_in_a_remedy(tmp_path: Path, kind: str) -> None:
    make, message = MALFORMED[kind]
    folder = tmp_path / "own"
    folder.mkdir()
    make(folder)
    files = list(folder.iterdir()) if folder.is_dir() else []
    path = files[0] if len(files) == 1 and files[0].suffix == ".npz" else folder
    with pytest.raises(UserError, match=message) as raised:
        read_own(str(path), 0)
    text = str(raised.value)
    assert text.startswith(f"own images in {path}: ")
    assert "\n" not in text
    assert re.search("; |at least", text)


def test_a_single_image_is_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png("L"))
    with pytest.raises(UserError, match=r"there are 1 training and 0 test images; at least 10 and 2 are needed"):
        read_own(str(tmp_path / "a.png"), 0)
