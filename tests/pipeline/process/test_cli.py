"""The command line of a stage, and its progress."""

import sys
from pathlib import Path

import pytest

from pipeline.process.cli import parse_paths, progress


def test_every_path_is_a_required_option(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "--data", "a/b", "--train-log", "c"])
    arguments = parse_paths(None, "data", "train_log")
    assert (arguments.data, arguments.train_log) == (Path("a/b"), Path("c"))
    with pytest.raises(SystemExit):
        parse_paths(None, "data", "train_log", "model")
    assert "required: --model" in capsys.readouterr().err


@pytest.mark.parametrize(("total", "lines"), [(5, 5), (10, 10), (1000, 10)])
def test_progress_is_at_most_ten_lines_and_ends_at_100_percent(
    capsys: pytest.CaptureFixture[str], total: int, lines: int
) -> None:
    assert list(progress(range(total), total, "images")) == list(range(total))
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == lines
    assert printed[-1] == "images: 100 %"
