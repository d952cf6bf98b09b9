"""The example in one file: it runs, it is the pipeline's default model, and its numbers agree with the pipeline's."""

import re
import struct
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from examples import vae_in_one_file as example
from pipeline.config import Params
from pipeline.model.checkpoint import load_checkpoint
from pipeline.storage.files import read_metrics
from tests.support import Run
from tools import presets

SMALL = ("--latent", 2, "--hidden", 16, "--epochs", 2, "--images", 10)


@pytest.fixture
def learn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the example with these words in an empty folder; returns what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> str:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["vae_in_one_file.py", *map(str, words)])
        example.main()
        return capsys.readouterr().out

    return run


def numbers(printed: str) -> tuple[float, float]:
    """The test images' mean ELBO and log p(x) that the example prints."""
    ((elbo, log_px),) = re.findall(r"ELBO = (\S+) nats\nlog p\(x\) = (\S+) ±", printed)
    return float(elbo), float(log_px)


def test_it_has_at_most_120_lines() -> None:
    assert len(Path(example.__file__).read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.parametrize("digits", [False, True])
def test_the_settings_are_those_of_the_pipeline(
    digits: bool, params: Params, learn: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[example.Settings] = []
    monkeypatch.setattr(example, "load", lambda folder: (torch.zeros(0), torch.zeros(1, 2, 2), 2))
    monkeypatch.setattr(example, "fit", lambda vae, images, levels, settings: used.append(settings))
    learn("--digits" if digits else "folder", "--images", 1)
    dumped = params.model_dump(mode="json")
    expected = presets.merge(dumped, presets.load("demo")) if digits else dumped
    model, train, settings = expected["model"], expected["train"], asdict(used[0])
    assert model["encoder"] == model["decoder"] == [settings.pop("hidden")] * 2
    del settings["images"]
    assert settings == {name: (model | train)[name] for name in settings}
    fixed = (model["activation"], model["observation"], train["optimizer"], train["objective"], train["weight_decay"])
    assert fixed == ("silu", "gaussian", "adamw", "elbo", 0)


def test_digits_end_to_end_twice_with_the_same_numbers(learn: Callable[..., str]) -> None:
    first = learn("--digits", *SMALL)
    lines = first.splitlines()
    assert [line[:9] for line in lines[:2]] == ["epoch   1", "epoch   2"]
    assert "trusted: " in first
    # 64 pixels with 17 levels: bits/dim = log2 17 − nats / (64 ln 2).
    assert float(lines[-1].removeprefix("bits/dim = ")) == pytest.approx(4.0875 - numbers(first)[1] / 44.3614, abs=2e-3)
    assert (picture := Path("samples.png").read_bytes()).startswith(b"\x89PNG")
    assert learn("--digits", *SMALL) == first
    assert Path("samples.png").read_bytes() == picture


def test_mnist_is_read_from_its_folder(learn: Callable[..., str], generator: torch.Generator) -> None:
    raw = Path("folder/MNIST/raw")
    raw.mkdir(parents=True)
    for name, count in ("train", 40), ("t10k", 12):
        images = torch.randint(0, 256, (count, 28, 28), generator=generator, dtype=torch.uint8)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(
            struct.pack(">4i", 2051, count, 28, 28) + bytes(images.flatten())
        )
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, count) + bytes(count))
    assert "mean of 10 images" in learn("folder", *SMALL)


def test_a_folder_without_mnist_is_one_message_with_a_remedy(learn: Callable[..., str]) -> None:
    with pytest.raises(SystemExit, match=r"^error: no MNIST in nowhere; .*MNIST\('nowhere', download=True\)"):
        learn("nowhere")


@pytest.mark.parametrize(("words", "code"), [(["--help"], 0), ([], 2), (["folder", "--digits"], 2)])
def test_help_and_wrong_arguments_end_it(words: list[str], code: int, learn: Callable[..., str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        learn(*words)
    assert stopped.value.code == code


@pytest.mark.slow
def test_its_numbers_agree_with_those_of_the_pipeline(
    learn: Callable[..., str], small_params: Callable[..., Path], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two trainings, and two measurements of one model, within 4 standard deviations: about 1 in 3 000 seeds fails."""
    settings = {f"model__{name}": value for name, value in presets.load("demo")["model"].items()}
    settings |= {"train__batch_size": 64, "train__epochs": 20, "evaluate__images": 100, "evaluate__training_images": 1}
    small_params(**settings, evaluate__samples=256, evaluate__budget=4096, evaluate__chunk=0)
    assert [run(stage) for stage in ("download", "train", "evaluate")] == [0, 0, 0]
    metrics = read_metrics(Path("reports/metrics/evaluate.json"))["test"]
    elbo, log_px = metrics["elbo"], metrics["log_px"]
    # Over 26 seeds the ELBO has a standard deviation of 4 nats here, 6 in the pipeline; the means differ by 0.3 ± 1.4.
    found = numbers(learn("--digits", "--epochs", 20, "--images", 100))
    assert found == (pytest.approx(elbo, abs=30), pytest.approx(log_px, abs=25))
    # Only the noise differs: standard deviations of 1.3 and 0.4 nats.
    rename = {"encoder.network": "net", "decoder.network": "decoder"}
    trained, _ = load_checkpoint(Path("models/vae.safetensors"))
    weights = {rename[name[:15]] + name[15:]: value for name, value in trained.items()}
    monkeypatch.setattr(example, "fit", lambda vae, images, levels, settings: vae.load_state_dict(weights))
    assert numbers(learn("--digits", "--images", 100)) == (pytest.approx(elbo, abs=5), pytest.approx(log_px, abs=2))
