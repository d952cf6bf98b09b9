"""The command that checks own images and enters them in params.yaml."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.code import ROOT
from pipeline.config import load_params
from pipeline.data.own import digest_of_own
from pipeline.errors import UserError
from pipeline.process.exit import run_cli
from tools import own

PARAMS = (ROOT / "params.yaml").read_text(encoding="utf-8")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A main repository with the default parameters and own images."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "params.yaml").write_text(PARAMS, encoding="utf-8")
    images = np.random.default_rng(0).integers(0, 256, (30, 4, 5), dtype=np.uint8)
    np.savez(folder / "it's mine #1.npz", images=images)
    monkeypatch.chdir(folder)
    return folder


def call(monkeypatch: pytest.MonkeyPatch, path: str) -> int:
    monkeypatch.setattr(sys, "argv", ["own", path])
    return run_cli(own.main)


@pytest.mark.parametrize("where", ["it's mine #1.npz", "./it's mine #1.npz", "../project/it's mine #1.npz"])
def test_three_keys_change_and_nothing_else(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    for _ in range(2):  # the second time the keys have values
        assert call(monkeypatch, where) == 0
        assert "24 training and 6 test images of 4 x 5 pixels, 256 grey levels, no classes" in capsys.readouterr().out
        data = load_params().data
        assert (data.name, data.path, data.sha256) == ("own", "it's mine #1.npz", digest_of_own("it's mine #1.npz"))
    before, after = PARAMS.splitlines(), (project / "params.yaml").read_text(encoding="utf-8").splitlines()
    changed = [old for old, new in zip(before, after, strict=True) if old != new]
    assert changed == ["  name: mnist", "  path: null", "  sha256: null"]


def test_images_outside_of_the_repository_have_an_absolute_path(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = project.parent / "outside.npz"
    (project / "it's mine #1.npz").rename(outside)
    assert call(monkeypatch, "../outside.npz") == 0
    assert load_params().data.path == str(outside)


@pytest.mark.parametrize("path", ["missing", "params.yaml"])
def test_what_is_refused_changes_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    assert call(monkeypatch, path) == 1
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith(f"error: own images in {path}: ")
    assert (project / "params.yaml").read_text(encoding="utf-8") == PARAMS


def test_another_mistake_in_the_parameters_is_reported_first(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = PARAMS.replace("  latent: 16", "  latent: 0")
    (project / "params.yaml").write_text(text, encoding="utf-8")
    assert call(monkeypatch, "missing") == 2
    assert "model.latent = 0" in capsys.readouterr().err
    assert (project / "params.yaml").read_text(encoding="utf-8") == text


def test_comments_behind_values_stay(project: Path) -> None:
    text = (
        "data:  # images\n  name: mnist # which\n  # a comment\n  path: 'x # y'  # where\n  sha256:\n"
        "model:\n  path: 3\n"
    )
    found = own.with_values(text, {"name": "own", "path": "a", "sha256": "b"})
    assert found == (
        "data:  # images\n  name: own # which\n  # a comment\n  path: 'a'  # where\n  sha256: 'b'\nmodel:\n  path: 3\n"
    )


@pytest.mark.parametrize("text", ["data: {name: mnist, path: null, sha256: null}\n", "model:\n  name: 3\n", ""])
def test_keys_that_are_not_on_their_own_lines_are_reported(text: str) -> None:
    with pytest.raises(UserError, match=re.escape("params.yaml: data.name is not on a line of its own; write it as")):
        own.with_values(text, {"name": "own"})
