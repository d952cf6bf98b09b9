"""`python -m pipeline.use`: files in, files out, and one message for a mistake."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.data.dataset import load_dataset
from pipeline.process.exit import run_cli
from pipeline.use.__main__ import main
from pipeline.use.functions import draw, encode, load, measure, reconstruct

DATA = "data/images.safetensors"

Use = Callable[..., tuple[int, str, str]]


@pytest.fixture
def use(workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Use:
    """Run the command in a workspace with a trained model; returns its exit code, standard output and error."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["use", *words])
        code = run_cli(main)
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_drawn_images_are_a_grid_an_archive_or_files(use: Use) -> None:
    assert use("draw", "grid.png", "--count", "12") == (0, "", "")
    with Image.open("grid.png") as grid:
        assert grid.size[0] > 100
    assert use("draw", "drawn.npz", "--count", "12", "--seed", "4")[0] == 0
    with np.load("drawn.npz") as archive:
        assert np.array_equal(archive["images"], draw(load(), 12, seed=4).numpy())
        assert archive["levels"] == 17
    assert use("draw", "folder", "--count", "12", "--seed", "4")[0] == 0
    files = sorted(Path("folder").iterdir())
    assert [file.name for file in files] == [f"{i:02}.png" for i in range(12)]
    stretched = np.round(draw(load(), 12, seed=4)[11].numpy() * (255 / 16))
    with Image.open(files[11]) as last:
        assert np.array_equal(np.asarray(last), stretched)


def test_the_same_command_twice_writes_the_same_bytes(use: Use) -> None:
    for name in ("grid.png", "drawn.npz"):
        use("draw", name)
        before = Path(name).read_bytes()
        use("draw", name)
        assert Path(name).read_bytes() == before


def test_an_archive_is_encoded_reconstructed_and_measured(use: Use) -> None:
    images = load_dataset(Path(DATA)).test_images[:3]
    np.savez("mine.npz", images=images.numpy(), levels=17)
    assert use("encode", "mine.npz", "codes.csv")[0] == 0
    codes, (mean, deviation) = pd.read_csv("codes.csv"), encode(load(), images)
    assert list(codes) == ["image", *(f"{kind}_{i}" for kind in ("mean", "sd") for i in range(3))]
    assert codes["image"].tolist() == [0, 1, 2]
    assert codes.iloc[:, 1:].to_numpy() == pytest.approx(np.concatenate([mean, deviation], 1), rel=1e-4)
    assert use("reconstruct", "mine.npz", "again.npz")[0] == 0
    with np.load("again.npz") as archive:
        assert np.array_equal(archive["images"], reconstruct(load(), images).numpy())
    assert use("reconstruct", "mine.npz", "pairs.png")[0] == 0
    assert use("measure", "mine.npz", "log-px.parquet")[0] == 0
    table = pd.read_parquet("log-px.parquet")
    pd.testing.assert_frame_equal(table.drop(columns="image"), measure(load(), images))


def test_test_images_are_measured_and_printed(use: Use) -> None:
    code, out, _ = use("measure", DATA, "--first", "2")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["image", "log_px", "log_px_se", "bits_per_dim", "trusted"]
    expected = measure(load(), load_dataset(Path(DATA)).test_images[:2])["log_px"]
    assert [float(line.split()[2]) for line in lines[1:]] == pytest.approx(expected.tolist(), abs=1e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("draw", "x.jpg"), "x.jpg: give a .png, an .npz, or a folder"),
        (("draw", "x.png", "--digit", "7"), "this model knows no labels"),
        (("draw", "x.png", "--model", "missing"), "model missing is neither a file nor a revision"),
        (("measure", "missing"), "images in missing: "),
        (("measure", "grey.npz"), "have 256 levels, and the model 17"),
        (("measure", "large.npz"), r"not uint8 of shape (images, 8, 8)"),
        (("encode", DATA, "codes.txt"), "codes.txt: give a .csv or a .parquet file"),
        (("measure", "params.yaml"), "images in params.yaml: "),
    ],
)
def test_a_mistake_is_one_message_and_nothing_is_written(use: Use, words: tuple[str, ...], message: str) -> None:
    np.savez("grey.npz", images=np.full((2, 8, 8), 255, np.uint8))
    np.savez("large.npz", images=np.zeros((2, 9, 9), np.uint8), levels=17)
    before = sorted(Path().rglob("*"))
    code, out, err = use(*words)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("words", [(), ("paint",), ("draw",), ("draw", "x.png", "--count", "0"), ("measure",)])
def test_a_wrong_command_line_shows_how_it_is_used(
    use: Use, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        use(*words)
    assert ended.value.code == 2
    assert "usage: python -m pipeline.use" in capsys.readouterr().err
