"""The registry of data sets: names, digests, mirrors, decoding, and the bundled digits."""

import gzip
import hashlib
import os
import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
import torchvision
from torchvision.datasets.mnist import read_image_file, read_label_file

from pipeline.config import Data
from pipeline.data.sources import BUNDLED, IDX_SOURCES, IdxSource, get_dataset
from tests.support import ROOT

# A copy of MNIST: the data mirror of whoever runs the tests, which the tests themselves do not see, or a download.
MNIST = Path(os.environ.get("DATA_MIRROR", ROOT / "downloads" / "mnist"))


def test_the_registry_has_the_names_that_params_allow() -> None:
    assert {*IDX_SOURCES, *BUNDLED} == set(get_args(Data.model_fields["name"].annotation))


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


def test_idx_files_are_decoded_as_torchvision_decodes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    names = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]
    shapes = [(60_000, 28, 28), (60_000,), (10_000, 28, 28), (10_000,)]
    digests = []
    for name, shape in zip(names, shapes, strict=True):
        header = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
        content = header + random.integers(0, 256 if len(shape) == 3 else 10, shape, dtype=np.uint8).tobytes()
        digests.append(hashlib.sha256(content).hexdigest())
        (tmp_path / name).write_bytes(content)
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content, 0))
    monkeypatch.setitem(IDX_SOURCES, "mnist", IdxSource("MNIST", tuple(digests)))
    monkeypatch.setenv("DATA_MIRROR", str(tmp_path))
    dataset = get_dataset("mnist")
    assert torch.equal(dataset.train_images, read_image_file(str(tmp_path / names[0])))
    assert torch.equal(dataset.train_labels, read_label_file(str(tmp_path / names[1])).to(torch.uint8))
    assert torch.equal(dataset.test_images, read_image_file(str(tmp_path / names[2])))
    assert torch.equal(dataset.test_labels, read_label_file(str(tmp_path / names[3])).to(torch.uint8))


@pytest.mark.skipif(not MNIST.is_dir(), reason="no copy of MNIST: neither DATA_MIRROR nor downloads/mnist is a folder")
def test_real_mnist_has_the_pinned_content(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_MIRROR", str(MNIST))
    dataset = get_dataset("mnist")
    assert dataset.test_labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert torch.bincount(dataset.train_labels.long()).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip
