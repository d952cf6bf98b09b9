"""Rebuilding and comparing with dvc.lock; and kills anywhere, on a small scale."""

import json
import os
import subprocess
import sys
from pathlib import Path

from conftest import ROOT
from ruamel.yaml import YAML

from benchmarks import rebuild


def locked(folder: Path, model: str, threads: int) -> Path:
    """A dvc.lock with a training and an evaluation, listed in the wrong order, and their metrics."""
    folder.mkdir()
    content = {
        "schema": "2.0",
        "stages": {
            "evaluate": {"deps": [{"path": "m"}], "outs": [{"path": "e.json", "md5": f"of {model}"}]},
            "train": {"deps": [{"path": "d"}], "outs": [{"path": "m", "md5": model}, {"path": "t.json", "md5": "1"}]},
        },
    }
    YAML().dump(content, folder / "dvc.lock")
    for name in ("e", "t"):
        (folder / f"{name}.json").write_text(json.dumps({"environment": [f"{threads} threads", "torch 2"]}))
    return folder


def test_what_is_equal_is_equal(tmp_path: Path) -> None:
    assert rebuild.compare(locked(tmp_path / "a", "x", 2), locked(tmp_path / "b", "x", 2)) == []


def test_the_first_stage_that_differs_comes_first_with_what_may_be_why(tmp_path: Path) -> None:
    lines = rebuild.compare(locked(tmp_path / "a", "x", 2), locked(tmp_path / "b", "y", 4))
    assert lines == ["train: m", "  then: 2 threads", "  now:  4 threads", "evaluate: e.json"]


def test_a_difference_without_a_reason_is_said_to_have_none(tmp_path: Path) -> None:
    lines = rebuild.compare(locked(tmp_path / "a", "x", 2), locked(tmp_path / "b", "y", 2))
    assert "this should not be" in lines[1]


def test_kills_anywhere_leave_the_same_bytes() -> None:
    command = ["-m", "benchmarks.chaos", "--kills", "3", "--data", "digits", "--shortest", "3", "--longest", "9"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert json.loads(result.stdout.splitlines()[-1])["faults"] == []
