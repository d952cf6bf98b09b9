"""Repairing the repository after a killed `dvc`."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.support import ROOT
from tests.tools.small_project import commit, make_project
from tools.clones import environment, sh


@pytest.mark.slow
def test_in_a_subfolder_of_a_git_repository_a_killed_experiment_no_longer_runs(tmp_path: Path) -> None:
    project = make_project(tmp_path, "research/vae", "touch started && sleep 60")
    dvc = subprocess.Popen(
        ["python", "-m", "tools.dvc", "exp", "run", "--temp", "--name", "cut"], cwd=project, env=environment()
    )
    deadline = time.monotonic() + 60
    while not list(project.glob(".dvc/tmp/exps/standalone/*/research/vae/started")):
        assert time.monotonic() < deadline
        assert dvc.poll() is None
        time.sleep(0.05)
    with pytest.raises(RuntimeError, match=f"{dvc.pid} .*tools.dvc exp run"):
        sh(project, "tools/recover.py")
    for process in [*psutil.Process(dvc.pid).children(recursive=True), psutil.Process(dvc.pid)]:
        os.kill(process.pid, signal.SIGKILL)
    dvc.wait()
    assert "Running" in sh(project, "dvc", "exp", "show", "--csv")
    sh(project, "tools/recover.py")
    assert "Running" not in sh(project, "dvc", "exp", "show", "--csv")


@pytest.mark.slow
def test_the_advice_works_in_a_clone_without_a_cache(tmp_path: Path) -> None:
    project = make_project(tmp_path / "first", "vae")
    sh(project, "dvc", "repro")
    commit(project)
    sh(tmp_path, "git", "clone", "-q", "first", "second")
    clone = tmp_path / "second/vae"
    (clone / "params.yaml").write_text("epochs: 3\n", encoding="utf-8")
    (tmp_path / "second/other").write_text("of another project", encoding="utf-8")
    sh(clone, "git", "add", "../other")
    output = sh(clone, "tools/recover.py")
    assert "params.yaml" in output
    assert "other" not in output.replace("another", "")
    [advice] = [line.partition(": ")[2] for line in output.splitlines() if line.startswith("keep them")]
    sh(clone, "bash", "-c", advice)
    assert (clone / "params.yaml").read_text(encoding="utf-8") == "epochs: 1\n"
    sh(clone, "dvc", "repro")
    assert (clone / "model.txt").is_file()


def test_outside_a_git_repository_gits_message_is_the_only_one(tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools/recover.py", tmp_path / "tools")
    result = subprocess.run(
        ["python", "tools/recover.py"], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "not a git repository" in result.stderr
    assert "Traceback" not in result.stderr
