"""Running a study: which experiments are started, and what counts as a result. A script stands in for dvc."""

import json
import os
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import UserError
from studies import __main__, experiments, models, page
from studies.grids import STUDIES, Study
from tools import presets

STUDY = Study(
    title="", story="", parameter="model.latent", axis="", values=(4.0, 8.0), panels=("kl", "kl", "kl", "kl"),
    settings=("verify.curve_temperatures=[10,30]",),
)  # fmt: skip


class Dvc:
    """A `dvc` whose `exp show` prints `show.json`, and whose `exp run` is logged and prints `output`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        script = folder / "dvc"
        script.write_text(
            f'#!/bin/sh\ncd {folder}\nif [ "$2" = show ]; then cat show.json; exit $(cat show_code); fi\n'
            f'echo "$@" >> log; cp after.json show.json; cat output; exit $(cat code)\n'
        )
        script.chmod(0o755)
        (folder / "log").touch()
        self.shows([])
        self.runs("", 0, [])

    def shows(self, experiments: list[dict[str, Any]], code: int = 0) -> None:
        (self.folder / "show.json").write_text(self.json(experiments))
        (self.folder / "show_code").write_text(str(code))

    def runs(self, output: str, code: int, after: list[dict[str, Any]]) -> None:
        (self.folder / "output").write_text(output)
        (self.folder / "code").write_text(str(code))
        (self.folder / "after.json").write_text(self.json(after))

    @staticmethod
    def json(experiments: list[dict[str, Any]]) -> str:
        return json.dumps([{"rev": "workspace"}, {"rev": "head", "experiments": experiments}])

    @property
    def started(self) -> list[str]:
        return (self.folder / "log").read_text().splitlines()


@pytest.fixture
def dvc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dvc:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setattr(presets, "DVC", [str(folder / "dvc")])
    return Dvc(folder)


def experiment(name: str, latent: int, temperatures: tuple[int, ...] = (10, 30)) -> dict[str, Any]:
    """An experiment as `dvc exp show --json` prints it."""
    params = {"model": {"latent": latent}, "verify": {"curve_temperatures": list(temperatures)}}
    data = {"params": {"params.yaml": {"data": params}}}
    return {"name": name, "revs": [{"rev": f"rev of {name}", "data": data}]}


def test_an_experiment_with_the_same_settings_is_not_run_again(dvc: Dvc) -> None:
    dvc.shows([experiment("latent-4", 4), experiment("latent-8", 8)])
    found = __main__.run("latent", STUDY, 4.0, [])
    assert isinstance(found, dict)
    assert found["rev"] == "rev of latent-4"
    assert dvc.started == []


@pytest.mark.parametrize(
    "earlier",
    [
        pytest.param([], id="no experiment"),
        pytest.param([experiment("latent-8", 4)], id="another name"),
        pytest.param([experiment("latent-4", 5)], id="another value"),
        pytest.param([experiment("latent-4", 4, (10, 20))], id="another setting of the study"),
        pytest.param([{"name": "latent-4", "revs": [{"rev": "r", "data": None}]}], id="not finished"),
    ],
)
def test_an_experiment_is_run_unless_it_exists_with_the_same_settings(dvc: Dvc, earlier: list[dict[str, Any]]) -> None:
    dvc.shows(earlier)
    dvc.runs("trained", 0, [experiment("latent-4", 4)])
    found = __main__.run("latent", STUDY, 4.0, [])
    assert isinstance(found, dict)
    assert found["rev"] == "rev of latent-4"
    assert dvc.started == [
        "exp run --temp --force --name latent-4 -S verify.curve_temperatures=[10,30] -S model.latent=4"
    ]


def test_a_setting_of_the_command_line_is_part_of_the_experiment(dvc: Dvc) -> None:
    dvc.shows([experiment("latent-4", 4)])
    dvc.runs("trained", 0, [experiment("latent-4", 4)])
    __main__.run("latent", STUDY, 4.0, ["train.epochs=5"])
    assert "-S train.epochs=5 " in dvc.started[0]


def test_experiments_that_run_at_once_share_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    assert experiments.environment(3)["OMP_NUM_THREADS"] == "2"
    assert experiments.environment(9)["OMP_NUM_THREADS"] == "1"
    assert experiments.environment().get("OMP_NUM_THREADS") == os.environ.get("OMP_NUM_THREADS")


def test_tasks_run_at_once_and_no_more_than_asked_for() -> None:
    """Each of the first two ends only when both run. The third starts when one has ended."""
    both, running, most = threading.Barrier(2), [0], [0]

    def run(task: int) -> int:
        running[0] += 1
        most[0] = max(most[0], running[0])
        if task < 2:
            both.wait(timeout=60)
        running[0] -= 1
        return task * task

    assert sorted(experiments.at_once(run, range(5), 2)) == [(task, task * task) for task in range(5)]
    assert most == [2]


def test_without_jobs_a_task_starts_when_the_result_of_the_last_has_been_used() -> None:
    log: list[str] = []
    for task, _ in experiments.at_once(lambda task: log.append(f"run {task}"), "ab", 1):
        log.append(f"use {task}")
    assert log == ["run a", "use a", "run b", "use b"]


def test_after_a_failure_no_task_starts_and_those_that_run_end_first() -> None:
    failed, started, found = threading.Event(), list[str](), list[str]()

    def run(task: str) -> None:
        started.append(task)
        if task == "bad":
            failed.set()
            raise UserError("bad failed")
        failed.wait(timeout=60)

    with pytest.raises(UserError, match="bad failed"):
        found.extend(task for task, _ in experiments.at_once(run, ("good", "bad", "never"), 2))
    assert sorted(started) == ["bad", "good"]
    assert found == ["good"]


@pytest.mark.parametrize("jobs", ["0", "-1", "two", "1.5"])
def test_the_number_of_jobs_is_checked(jobs: str, monkeypatch: pytest.MonkeyPatch, dvc: Dvc, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["studies", "latent", "--jobs", jobs])
    with pytest.raises(SystemExit):
        __main__.main()
    assert f"argument --jobs: {jobs} is not a whole number from 1" in capsys.readouterr().err
    assert dvc.started == []


def failed(stage: str, code: int, message: str) -> str:
    """What DVC prints of a stage that fails."""
    command = f"python -m stages.{stage} --data x --model y"
    return (
        f"Running stage '{stage}':\n> {command}\nsome output\nerror: {message}\n"
        f"ERROR: failed to reproduce '{stage}': failed to run: {command}, exited with {code}\nlast line\n"
    )


def test_a_training_that_diverges_is_a_result(dvc: Dvc) -> None:
    dvc.runs(failed("train", 3, "epoch 3: the ELBO is no longer finite"), 1, [])
    assert __main__.run("latent", STUDY, 4.0, []) == "epoch 3: the ELBO is no longer finite"


@pytest.mark.parametrize(
    ("stage", "code", "message"),
    [
        ("train", 1, "no space left"),
        ("train", 1, "history.csv has no column epoch; delete it"),
        ("train", 31, "epoch 3"),
        ("render", 1, "history.csv has no column epoch; delete it"),
        ("evaluate", 3, "epoch 3"),
    ],
)
def test_any_other_failure_stops_the_study_with_its_output(dvc: Dvc, stage: str, code: int, message: str) -> None:
    dvc.runs(failed(stage, code, message), 1, [])
    with pytest.raises(UserError, match=rf"(?s)latent-4 failed: error: {message}.*some output.*last line"):
        __main__.run("latent", STUDY, 4.0, [])


@pytest.mark.slow
def test_dvc_prints_of_a_training_that_diverges_what_a_study_looks_for(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(clone)
    study = replace(STUDY, parameter="train.learning_rate", settings=())
    reason = __main__.run("learning_rate", study, 1e30, [])
    assert isinstance(reason, str)
    assert reason.startswith("epoch 1, step ")


def test_a_failure_without_a_word_is_its_exit_code(dvc: Dvc) -> None:
    dvc.runs("", 7, [])
    with pytest.raises(UserError, match="latent-4 failed: exit code 7"):
        __main__.run("latent", STUDY, 4.0, [])


def test_a_dvc_that_cannot_list_experiments_is_an_error(dvc: Dvc) -> None:
    dvc.shows([], code=1)
    with pytest.raises(UserError, match="dvc exp show failed"):
        experiments.experiments()


def test_the_command_runs_the_grid_and_writes_its_page(dvc: Dvc, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Any] = []
    monkeypatch.setattr(page, "write", lambda *arguments: written.extend(arguments))
    monkeypatch.setattr(sys, "argv", ["studies", "latent", "--values", "4,8", "-S", "train.epochs=5"])
    monkeypatch.setitem(STUDIES, "latent", STUDY)
    dvc.runs(failed("train", 3, "epoch 1: the ELBO is no longer finite"), 1, [])
    with pytest.raises(UserError, match="no experiment of the study succeeded: epoch 1"):
        __main__.main()
    assert written == []

    dvc.runs("trained", 0, [experiment("latent-4", 4), experiment("latent-8", 8)])
    __main__.main()
    name, study, outcomes, folder = written
    assert (name, study, folder) == ("latent", STUDY, Path("reports/studies"))
    assert {value: outcome["rev"] for value, outcome in outcomes.items()} == {
        4.0: "rev of latent-4", 8.0: "rev of latent-8",
    }  # fmt: skip
    assert all("train.epochs=5" in line for line in dvc.started)


def test_the_study_of_models_has_its_own_options(monkeypatch: pytest.MonkeyPatch) -> None:
    words: list[str] = []
    monkeypatch.setattr(models, "main", words.extend)
    monkeypatch.setattr(sys, "argv", ["studies", "models", "--only", "good"])
    __main__.main()
    assert words == ["--only", "good"]
    monkeypatch.setattr(sys, "argv", ["studies", "--values", "1", "models"])
    with pytest.raises(SystemExit):
        __main__.main()
