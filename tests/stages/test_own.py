"""Own images through all stages: in colour with class folders, grey without labels, and labels from 1 to 26."""

import gzip
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from pipeline.config import load_params
from pipeline.data.dataset import load_dataset
from pipeline.data.own import digest_of_own
from pipeline.model.checkpoint import load_model
from pipeline.report.pictures import PICTURES
from pipeline.storage.files import read_metrics
from tests.pipeline.report.test_wording import read
from tests.stages.test_models import FEW
from tests.stages.test_stages import CONDITIONAL, check_outputs
from tests.support import STAGES, Run, outputs
from tools.clones import experiments, run_queue, sh

CPU = torch.device("cpu")
OF_LABELS = {"entanglement", "latent_space", "upside_down"}  # pictures that need labels


def squares(classes: NDArray[np.integer], height: int, width: int) -> NDArray[np.uint8]:
    """Images of a bright square, at a place that depends on the class."""
    random = np.random.default_rng(0)
    images = random.integers(0, 30, (len(classes), height, width), dtype=np.uint8)
    for image, label in zip(images, classes, strict=True):
        top, left = 2 + label % 5 * (height // 8), 2 + label // 5 * (width // 8)
        image[top : top + 6, left : left + 6] += 200
    return images


def colour_folder(path: Path) -> None:
    """200 colour images of 32 × 32 pixels in four class folders."""
    classes = np.arange(200) % 4
    colours = np.array([[255, 80, 80], [80, 255, 80], [80, 80, 255], [255, 255, 80]])
    images = squares(classes, 32, 32)[..., None] * colours[classes][:, None, None] // 255
    for i, (label, image) in enumerate(zip(classes, images, strict=True)):
        folder = path / ["apple", "leaf", "sky", "sun"][label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.astype(np.uint8)).save(folder / f"{i:03}.png")


def grey_npz(path: Path) -> None:
    """500 grey images of 20 × 24 pixels without labels."""
    np.savez(path, images=squares(np.arange(500) % 7, 20, 24))


def letters(path: Path) -> None:
    """IDX files with labels from 1 to 26, as EMNIST's."""
    path.mkdir()
    for part, count in (("train", 260), ("test", 52)):
        labels = (np.arange(count) % 26 + 1).astype(np.uint8)
        for name, array in (("images-idx3", squares(labels, 28, 28)), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            (path / f"emnist-letters-{part}-{name}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))


CASES: dict[str, tuple[Callable[[Path], None], dict[str, Any]]] = {
    "colour": (colour_folder, {"model__network": "conv", "model__width": 2, "model__observation": "logistic"}),
    "grey.npz": (grey_npz, {}),
    # Each image is measured with every label.
    "letters": (
        letters,
        {
            "model__condition": "label",
            "model__prior": "flow",
            "model__observation": "logistic",
            "evaluate__images": 2,
            "evaluate__training_images": 1,
            "compare__images": 1,
        },
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_own_images_run_through_all_stages(
    small_params: Callable[..., Path], run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    make, model = CASES[name]
    make(tmp_path / name)
    own = {"data__name": "own", "data__path": name, "data__sha256": digest_of_own(str(tmp_path / name))}
    small_params(**FEW | own | model)
    for stage in STAGES:
        assert run(stage) == 0, capsys.readouterr().err
    assert "Error" not in capsys.readouterr().err  # no picture failed
    written, unlabelled = outputs(tmp_path), name == "grey.npz"
    drawn = {Path(path).stem for path in written if path.startswith("reports/figures/")}
    left_out = {"manifold"} | (OF_LABELS if unlabelled else set()) | (set() if name == "letters" else CONDITIONAL)
    assert drawn == set(PICTURES) - left_out
    if not unlabelled:
        check_outputs(tmp_path, manifold=False, conditional=name == "letters")

    dataset, vae = load_dataset(Path("data/images.safetensors")), load_model(Path("models/vae.safetensors"), CPU).vae
    assert dataset.shape == {"colour": (3, 32, 32), "grey.npz": (20, 24), "letters": (28, 28)}[name]
    assert vae.images == dataset.format()
    assert vae.labels() == (list(range(1, 27)) if name == "letters" else [])
    assert len(pd.read_parquet("reports/images.parquet")) == load_params().evaluate.images
    test = read_metrics(Path("reports/metrics/evaluate.json"))["test"]
    assert test["bits_per_dim"] == pytest.approx(8 - test["log_px"] / (dataset.format().pixels * np.log(2)), abs=1e-3)
    sample = read_metrics(Path("reports/metrics/sample.json"))["sample"]
    assert ("recognised" in sample) == ("frechet" in sample) == (not unlabelled)
    assert sample["distance"] > 0
    pages = [Path(f"reports/report.{end}").read_text(encoding="utf-8") for end in ("html", "md")]
    for page in pages:
        assert "own images" in page
        assert ("So there is no judge" in page) == unlabelled
        assert not re.search(r"\bnan\b", re.sub(r'src="data[^"]*"', "", page))
    for page in (*pages, Path("reports/explorer.html").read_text(encoding="utf-8")):
        assert "digit" not in read(page).lower()


def test_own_images_that_changed_stop_the_download_before_it_writes(
    small_params: Callable[..., Path], run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grey_npz(tmp_path / "own.npz")
    small_params(data__name="own", data__path="own.npz", data__sha256="0" * 64)
    assert run("download") == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: own images in own.npz: their SHA-256 is\n")
    assert digest_of_own(str(tmp_path / "own.npz")) in printed
    assert not outputs(tmp_path)
    np.savez(tmp_path / "own.npz", images=np.zeros((5, 4, 4)))
    small_params(data__name="own", data__path="own.npz", data__sha256=digest_of_own(str(tmp_path / "own.npz")))
    assert run("download") == 1
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith("error: own images in own.npz: there are 4 training and 1 test images; at least 10 and 2")
    assert not outputs(tmp_path)


def test_images_without_labels_cannot_condition_a_model(
    small_params: Callable[..., Path], run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grey_npz(tmp_path / "own.npz")
    digest = digest_of_own(str(tmp_path / "own.npz"))
    own = {"data__name": "own", "data__path": "own.npz", "data__sha256": digest}
    small_params(**FEW | own | {"model__condition": "label"})
    assert run("download") == 0
    capsys.readouterr()
    assert run("train") == 1
    (message,) = capsys.readouterr().err.splitlines()
    assert "model.condition = label: the training images have no labels of two or more classes; use none" in message


@pytest.mark.slow
def test_dvc_runs_own_images_in_temporary_workspaces_and_in_the_queue(clone: Path) -> None:
    """The folder is not in git. The command that enters it in params.yaml is the only preparation."""
    colour_folder(clone / "my images")
    grey_npz(clone / "grey.npz")
    (clone / ".git/info/exclude").write_text("/my images/\n/grey.npz\n", encoding="utf-8")
    few = [f"{key.replace('__', '.')}={value}" for key, value in FEW.items()]
    settings = [word for setting in few for word in ("-S", setting)]
    try:
        assert "4 classes" in sh(clone, "python", "-m", "tools.own", "my images")
        sh(clone, "dvc", "exp", "run", "--temp", "--name", "in-colour", *settings)
        assert "no classes" in sh(clone, "python", "-m", "tools.own", "grey.npz")
        run_queue(clone, ["--name", "in-the-queue", *settings], jobs=1)
        assert experiments(clone) == {"in-colour": "success", "in-the-queue": "success"}
        for name, shape in (("in-colour", (3, 32, 32)), ("in-the-queue", (20, 24))):
            sh(clone, "dvc", "get", "-f", ".", "data/images.safetensors", "--rev", name, "-o", f"{name}.safetensors")
            assert load_dataset(clone / f"{name}.safetensors").shape == shape
    finally:
        sh(clone, "git", "checkout", "-q", ".")
        sh(clone, "dvc", "checkout", "-q")
