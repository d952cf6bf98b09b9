"""The project in unusual places: line ends of another system, folders with unusual names."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import ROOT
from tools.clones import clone, environment, sh

# A stand-in for Python and for the programs of the environment: it makes an environment, and lists what it is asked.
PROGRAM = """#!/bin/bash
echo "$(basename "$0") $*" >> "$LOG"
if [ "$*" = "-m venv .venv" ]; then
    mkdir -p .venv/bin
    for name in python dvc; do cp "$0" ".venv/bin/$name"; done
fi
"""


def test_a_clone_that_would_convert_line_ends_has_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    clone(tmp_path / "first")
    sh(tmp_path, "git", "clone", "-q", "-c", "core.autocrlf=true", "first", "second")
    assert sh(tmp_path / "second", "git", "status", "--porcelain") == ""
    for name in sh(tmp_path / "first", "git", "ls-files", "-z").split("\0")[:-1]:
        assert (tmp_path / "second" / name).read_bytes() == (tmp_path / "first" / name).read_bytes(), name
    sh(tmp_path / "second", "tools/recover.py")


def make(folder: Path, *targets: str) -> "subprocess.CompletedProcess[str]":
    """Run make in a folder with the Makefile and a stand-in for Python."""
    folder.mkdir()
    for name in ("Makefile", "requirements.lock"):
        shutil.copy(ROOT / name, folder)
    (folder / "python3").write_text(PROGRAM, encoding="utf-8")
    (folder / "python3").chmod(0o755)
    variables = environment() | {"LOG": str(folder / "log"), "PATH": os.defpath}
    command = ["make", "-s", *targets, "PYTHON=./python3"]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["a b", "a%20b", "a?b", "é", "a'b", "a$HOME", "a;b&c"])
def test_make_works_in_a_folder_with_any_name(tmp_path: Path, name: str) -> None:
    result = make(tmp_path / name, "setup", "demo")
    assert result.returncode == 0, result.stderr
    assert f"The report: {tmp_path / name}/demo/report.html\n" in result.stdout
    log = (tmp_path / name / "log").read_text(encoding="utf-8").splitlines()
    assert [line.partition(" --")[0] for line in log[1:]] == [
        "python3 -m venv .venv",
        "python -m pip install",
        "python -m uv pip sync",
        "python -m tools.presets demo",
        "dvc get -q . reports/report.html",
        "dvc get -q . reports/explorer.html",
    ]


def test_make_refuses_a_folder_in_which_dvc_runs_no_experiment(tmp_path: Path) -> None:
    result = make(tmp_path / "a#b", "setup")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "DVC runs no experiment in a folder whose path contains #: rename or move" in result.stderr
    assert not (tmp_path / "a#b" / "log").exists()
