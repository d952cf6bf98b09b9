"""Runs name the revision, the experiment and the process that made them."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.tracking.provenance import experiments, is_dead, process_tags, workspace_tags
from tools.clones import sh


def test_this_process_is_alive_and_one_that_has_ended_is_dead() -> None:
    tags = process_tags()
    assert not is_dead(tags)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert is_dead(tags | {"process.pid": str(ended.pid)})


def test_another_process_with_the_same_number_is_recognised_by_its_start() -> None:
    tags = process_tags()
    assert is_dead(tags | {"process.started": str(float(tags["process.started"]) - 60)})


def test_a_process_of_another_machine_or_of_nobody_is_not_known_to_be_dead() -> None:
    assert not is_dead(process_tags() | {"process.host": "elsewhere", "process.pid": "999999999"})
    assert not is_dead({})


def test_edited_code_is_dirty_and_edited_documents_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert workspace_tags() == ("workspace", {})  # no repository
    for path in ("logpx/noise.py", "README.md"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("a\n", encoding="utf-8")
    sh(tmp_path, "git", "init", "-q")
    sh(tmp_path, "git", "add", ".")
    sh(tmp_path, "git", "-c", "user.name=n", "-c", "user.email=e@example.org", "commit", "-q", "-m", "first")
    revision = sh(tmp_path, "git", "rev-parse", "HEAD").strip()

    (tmp_path / "README.md").write_text("b\n", encoding="utf-8")
    _, tags = workspace_tags()
    assert tags == {
        "git.revision": revision, "mlflow.source.git.commit": revision, "dvc.baseline_rev": revision,
        "git.dirty": "false",
    }  # fmt: skip
    (tmp_path / "logpx/noise.py").write_text("b\n", encoding="utf-8")
    monkeypatch.setenv("DVC_EXP_NAME", "humble-fish")
    name, tags = workspace_tags()
    assert (name, tags["dvc.experiment"], tags["git.dirty"]) == ("humble-fish", "humble-fish", "true")


def test_an_experiment_of_another_dvc_project_that_runs_this_one_in_a_stage_names_nothing_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_EXP_NAME", "of-the-other")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "a" * 40)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path.parent))
    assert workspace_tags() == ("workspace", {})
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert workspace_tags()[0] == "of-the-other"


def test_experiments_of_another_project_in_the_same_git_repository_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sh(tmp_path, "git", "init", "-q")
    author = ("-c", "user.name=n", "-c", "user.email=e@example.org")
    sh(tmp_path, "git", *author, "commit", "-q", "--allow-empty", "-m", "baseline")
    for name in ("mine", "theirs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dvc.lock").write_text("a\n", encoding="utf-8")
        sh(tmp_path, "git", "add", ".")
        sh(tmp_path, "git", *author, "commit", "-q", "-m", name)
        sh(tmp_path, "git", "update-ref", f"refs/exps/ab/{'c' * 38}/{name}", "HEAD")
    for folder, names in (("mine", ["mine"]), ("theirs", ["theirs"]), (".", ["mine", "theirs"])):
        monkeypatch.chdir(tmp_path / folder)
        assert [name for name, _ in experiments()] == names
