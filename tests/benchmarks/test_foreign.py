"""The published decoder's benchmark, with weights whose log p(x) is known."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks import foreign
from pipeline.data.dataset import Dataset, save_dataset
from pipeline.process.exit import run_cli

Run = tuple[Path, Path, Dataset]


@pytest.fixture
def files(tmp_path: Path, generator: torch.Generator) -> Run:
    """Weights of a decoder that ignores z, and twenty images of noise."""
    torch.manual_seed(0)
    weights = foreign.Published().state_dict()
    weights["fc6.weight"] = torch.zeros(784, 200)
    images = torch.randint(0, 256, (20, 28, 28), generator=generator, dtype=torch.uint8)
    labels = torch.zeros(20, dtype=torch.uint8)
    dataset = Dataset("noise", 256, images[:5].clone(), labels[:5].clone(), images, labels)
    save_file(weights, tmp_path / "weights.safetensors")
    save_dataset(tmp_path / "images.safetensors", dataset)
    return tmp_path / "weights.safetensors", tmp_path / "images.safetensors", dataset


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["foreign", *map(str, words)])
    return run_cli(foreign.main)


def test_a_decoder_that_ignores_z_gives_its_likelihood(
    files: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, images, dataset = files
    assert run(monkeypatch, weights, "--images", images, "--count", 3) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    x: Tensor = (dataset.test_images[:3].flatten(1) > 127).double()
    p = torch.sigmoid(foreign.load(weights).fc6.bias.double()).detach()
    expected = (x * p.log() + (1 - x) * (1 - p).log()).sum(1).mean()
    assert found["images"] == 3
    for start in ("encoder", "mean", "none"):  # equal weights but for the proposal's own spread around the prior
        assert found[start]["log_px"] == pytest.approx(float(expected), abs=0.2)
        assert found[start]["trusted"] == 1


@pytest.mark.slow
def test_the_figure_is_drawn(files: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    weights, images, _ = files
    assert run(monkeypatch, weights, "--images", images, "--count", 1, "--figure", tmp_path / "folder/curves.png") == 0
    assert (tmp_path / "folder/curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no such file"),
        ({"text": torch.zeros(3)}, "has other weights"),
        ({"fc1.weight": torch.zeros(3, 3)}, "has other weights"),
        (b"no weights", "is not a safetensors file"),
    ],
)
def test_wrong_weights_are_one_message(
    files: Run,
    content: dict[str, Tensor] | bytes | None,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights, images, _ = files
    weights.unlink()
    if isinstance(content, bytes):
        weights.write_bytes(content)
    elif content is not None:
        save_file(content, weights)
    assert run(monkeypatch, weights, "--images", images) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{weights}: {reason}" in error


@pytest.mark.parametrize("count", [0, -1])
def test_at_least_one_image_is_needed(
    files: Run, count: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, images, _ = files
    assert run(monkeypatch, weights, "--images", images, "--count", count) == 1
    assert "at least one" in capsys.readouterr().err
