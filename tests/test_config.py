"""Every mistake in params.yaml is told at once, by key, value and what is allowed."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from pipeline.config import ParameterError, Params, load

GOOD = (ROOT / "params.yaml").read_text(encoding="utf-8")


def write(folder: Path, *changes: tuple[str, str]) -> Path:
    text = GOOD
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path = folder / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def mistakes(path: Path) -> list[str]:
    with pytest.raises(ParameterError) as caught:
        load(path)
    return str(caught.value).splitlines()[1:]


def test_the_committed_file_is_valid() -> None:
    assert isinstance(load(ROOT / "params.yaml"), Params)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("  sigma:", "  sgima:", "model.sgima: unknown key; did you mean model.sigma?"),
        ("  latent: 16", '  latent: "16"', 'model.latent = "16": input should be a valid integer'),
        ("  latent: 16", "  latent: 16.0", "model.latent = 16.0: input should be a valid integer"),
        ("  latent: 16", "  latent: true", "model.latent = true: input should be a valid integer"),
        ("  sigma: 0.0707107", "  sigma: -1", "model.sigma = -1: input should be greater than 0"),
        ("  sigma: 0.0707107", "  sigma: .nan", "model.sigma = NaN: input should be a finite number"),
        ("  sigma: 0.0707107", "  sigma: .inf", "model.sigma = Infinity: input should be a finite number"),
        (
            "  encoder: [512, 512]",
            "  encoder: [512, 0]",
            "model.encoder.1 = 0: input should be greater than or equal to 1",
        ),
        ("  activation: silu", "  activation: sliu", "did you mean silu?"),
        (
            "  name: mnist",
            "  name: mnits",
            "data.name = \"mnits\": input should be 'mnist', 'fashion_mnist', 'kmnist' or",
        ),
        ("  device: auto", "  device:", "runtime.device = null: input should be 'auto', 'cpu' or 'cuda'"),
        ("runtime:\n", "runtmie:\n", "runtmie: unknown key; did you mean runtime?"),
        ("  latent: 16", "  epochs: 3\n  latent: 16", "model.epochs: unknown key; did you mean train.epochs?"),
        ("  latent: 16", "  latent: 16\n  latent: 33", "duplicate key"),
        ("model:\n", "model: [\n", "not valid YAML: line"),
        (
            "  latent: 16",
            "  latent: 100000000",
            "model.latent = 100000000: input should be less than or equal to 65536",
        ),
        ("  encoder: [512, 512]", "  encoder: &a [*a, *a]", "aliases (*name) are not used here"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert any(told in line for line in mistakes(write(tmp_path, (old, new)))), mistakes(tmp_path / "params.yaml")


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, ("  sigma:", "  sgima:"), ("  epochs: ", "  epochs: -"), ("  device: auto", "  device: gpu"))
    told = mistakes(path)
    assert len(told) == 4  # the unknown key, the missing one, and two values
    assert any("model.sigma: missing" in line for line in told)


def test_scientific_notation_is_a_number_as_for_dvc(tmp_path: Path) -> None:
    assert load(write(tmp_path, ("  learning_rate: 0.002", "  learning_rate: 1e-3"))).train.learning_rate == 1e-3


@pytest.mark.parametrize("content", ["", "42", "- a\n- b", "null"])
def test_a_file_that_is_no_mapping(tmp_path: Path, content: str) -> None:
    (tmp_path / "params.yaml").write_text(content)
    assert "a mapping of sections is expected" in mistakes(tmp_path / "params.yaml")[0]


def test_a_file_of_any_size_is_read_no_further_than_the_limit(tmp_path: Path) -> None:
    with (tmp_path / "params.yaml").open("wb") as file:
        file.truncate(1 << 40)
    assert "larger than 1048576 bytes" in mistakes(tmp_path / "params.yaml")[0]


def test_a_missing_file(tmp_path: Path) -> None:
    assert "cannot be read" in mistakes(tmp_path / "params.yaml")[0]


@pytest.mark.parametrize("stage", ["download", "train", "evaluate", "render", "report"])
def test_every_stage_refuses_before_work_with_exit_code_2(tmp_path: Path, stage: str) -> None:
    write(tmp_path, ("  sigma:", "  sgima:"))
    # The files named do not exist: a stage that looked at them first would say so.
    from test_contract import command

    result = subprocess.run(
        [sys.executable, "-m", f"stages.{stage}", *command(stage)[3:]],
        cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 2, result.stderr
    assert "did you mean model.sigma?" in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(p.name for p in tmp_path.rglob("*")) == [".scratch", "params.yaml"]
