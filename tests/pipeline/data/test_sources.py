"""The registry of data sets: names, digests, mirrors, decoding, and the bundled digits."""

import gzip
import hashlib
import os
import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import torchvision
from torchvision.datasets.mnist import read_image_file, read_label_file

from pipeline.config import Compare, Data
from pipeline.data import sources
from pipeline.data.dataset import PARTS
from pipeline.data.download import Pinned
from pipeline.data.sources import BUNDLED, IDX_SOURCES, IdxSource, get_dataset, image_shape
from pipeline.errors import UserError
from tests.support import ROOT

NAMES = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]
# A copy of MNIST: the data mirror of whoever runs the tests, which the tests themselves do not see, or a download.
MNIST = Path(os.environ.get("DATA_MIRROR", ROOT / "downloads" / "mnist"))


def test_the_registry_has_the_names_that_params_allow() -> None:
    names = {*IDX_SOURCES, *BUNDLED}
    assert names | {"own"} == set(get_args(Data.model_fields["name"].annotation))
    assert names | {"none"} == set(get_args(Compare.model_fields["other"].annotation))


@pytest.mark.parametrize("name", sorted(IDX_SOURCES))
def test_digests_are_sha256_and_mirrors_are_urls(name: str) -> None:
    source = IDX_SOURCES[name]
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in source.digests)
    assert len(set(source.digests)) == 4
    mirrors = getattr(torchvision.datasets, source.torchvision).mirrors
    assert mirrors
    assert all(url.startswith(("http://", "https://")) for url in mirrors)


def test_digits_are_those_of_scikit_learn() -> None:
    digits = get_dataset("digits")
    assert (digits.levels, digits.shape) == (17, (8, 8))
    assert (len(digits.train_images), len(digits.test_images)) == (1437, 360)
    assert int(digits.train_images.max()) == int(digits.test_images.max()) == 16
    assert set(digits.test_labels.tolist()) == set(range(10))
    # The first image of the file is a zero and for testing; the second is a one and for training.
    assert digits.test_images[0, 0].tolist() == [0, 0, 5, 13, 9, 1, 0, 0]
    assert (int(digits.test_labels[0]), int(digits.train_labels[0])) == (0, 1)


def write_source(folder: Path, shapes: list[tuple[int, ...]], **entry: Any) -> IdxSource:
    """Write four IDX files of random bytes, gzipped and not, and return their entry for the registry."""
    random = np.random.default_rng(0)
    digests = []
    for name, shape in zip(NAMES, shapes, strict=True):
        header = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
        content = header + random.integers(0, 256 if len(shape) == 3 else 27, shape, dtype=np.uint8).tobytes()
        digests.append(hashlib.sha256(content).hexdigest())
        (folder / name).write_bytes(content)
        (folder / f"{name}.gz").write_bytes(gzip.compress(content, 0))
    return IdxSource("MNIST", tuple(digests), **entry)


def test_idx_files_of_any_size_are_decoded_as_torchvision_decodes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_source(tmp_path, [(6, 4, 5), (6,), (2, 4, 5), (2,)], shape=(4, 5), train=6, test=2)
    monkeypatch.setitem(IDX_SOURCES, "letters", source)
    monkeypatch.setenv("DATA_MIRROR", str(tmp_path))
    dataset = get_dataset("letters")
    assert (dataset.name, dataset.levels, dataset.shape, image_shape("letters")) == ("letters", 256, (4, 5), (4, 5))
    for part, name in zip(PARTS, NAMES, strict=True):
        read = read_image_file if "images" in part else read_label_file
        assert torch.equal(getattr(dataset, part), read(str(tmp_path / name)).to(torch.uint8))


def test_published_sources_have_60_000_and_10_000_images_of_28_by_28(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in IDX_SOURCES:
        asked: list[Pinned] = []
        monkeypatch.setattr(sources, "fetch", lambda _, files, __, asked=asked: asked.extend(files) or [])
        with pytest.raises(ValueError, match="zip"):  # nothing is decoded
            get_dataset(name)
        assert [file.size for file in asked] == [47_040_016, 60_008, 7_840_016, 10_008]
        assert [file.name for file in asked] == NAMES


def test_a_file_whose_header_differs_from_its_entry_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_source(tmp_path, [(6, 5, 4), (6,), (2, 5, 4), (2,)], shape=(4, 5), train=6, test=2)
    monkeypatch.setitem(IDX_SOURCES, "letters", source)
    monkeypatch.setenv("DATA_MIRROR", str(tmp_path))
    with pytest.raises(UserError, match=r"letters: train-images-idx3-ubyte .* 6 x 4 x 5 .*IDX_SOURCES"):
        get_dataset("letters")


def test_a_source_has_its_own_number_of_levels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_source(tmp_path, [(6, 4, 5), (6,), (2, 4, 5), (2,)], shape=(4, 5), train=6, test=2, levels=16)
    monkeypatch.setitem(IDX_SOURCES, "letters", source)
    monkeypatch.setenv("DATA_MIRROR", str(tmp_path))
    with pytest.raises(UserError, match=r"data set letters: train_images have values up to \d+, not 15"):
        get_dataset("letters")


@pytest.mark.skipif(not MNIST.is_dir(), reason="no copy of MNIST: neither DATA_MIRROR nor downloads/mnist is a folder")
def test_real_mnist_has_the_pinned_content(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_MIRROR", str(MNIST))
    dataset = get_dataset("mnist")
    assert dataset.test_labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert torch.bincount(dataset.train_labels.long()).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip
