"""Comparing a rebuilt experiment with dvc.lock."""

import json
from pathlib import Path

from ruamel.yaml import YAML

from tools import rebuild


def locked(folder: Path, model: str, threads: int) -> Path:
    """A folder with a dvc.lock of a training and an evaluation, in the wrong order, and with their metrics."""
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


def test_equal_outputs_give_no_differences(tmp_path: Path) -> None:
    assert rebuild.compare(locked(tmp_path / "a", "x", 2), locked(tmp_path / "b", "x", 2)) == []


def test_the_first_stage_that_differs_comes_first_with_a_possible_reason(tmp_path: Path) -> None:
    lines = rebuild.compare(locked(tmp_path / "a", "x", 2), locked(tmp_path / "b", "y", 4))
    assert lines == ["train: m", "  then: 2 threads", "  now:  4 threads", "evaluate: e.json"]


def test_a_difference_without_a_reason_is_said_to_have_none(tmp_path: Path) -> None:
    lines = rebuild.compare(locked(tmp_path / "a", "x", 2), locked(tmp_path / "b", "y", 2))
    assert "please report this" in lines[1]
