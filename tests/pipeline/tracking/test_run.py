"""A stage logs: a training while it runs, each stage its files at its end. A store that fails harms no stage."""

import contextlib
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import requests
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    BAD_REQUEST,
    INTERNAL_ERROR,
    PERMISSION_DENIED,
    REQUEST_LIMIT_EXCEEDED,
    RESOURCE_DOES_NOT_EXIST,
)

from pipeline.errors import UserError
from pipeline.process.exit import run_cli
from pipeline.tracking.__main__ import main
from pipeline.tracking.mlflow_store import ENVIRONMENT, Store, explain, is_refusal
from pipeline.tracking.publish import publish
from pipeline.tracking.results import of_workspace
from tests.pipeline.tracking.project import AFTER_TRAINING, Project, client, runs, steps
from tests.support import ROOT


def response(status: int) -> requests.Response:
    found = requests.Response()
    found.status_code = status
    return found


def test_all_stages_of_one_model_share_a_run(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "humble-fish")
    project.train(epochs=3)
    project.evaluate(5.0, *AFTER_TRAINING[1:])

    [run] = runs(project)
    assert (run.info.run_name, run.info.status) == ("humble-fish", "FINISHED")
    measured = {"test.log_px": 5.0, "verify.difference": 5.0, "compare.ppca": 5.0}
    trained = {"epoch": 3.0, "validation.elbo": 19.5, "best": 1.0, "train_elbo": 30.000001, "validation_elbo": 28.5}
    judged = {"judge.accuracy": 5.0, "sample.recognised": 5.0}
    assert run.data.metrics == trained | measured | judged
    assert steps(project, run) == [1, 2, 3]
    assert run.data.params["model.encoder"] == "[16]"
    assert {key.partition(".")[0] for key in run.data.params} == {"data", "model", "train", "runtime"}
    tags = run.data.tags
    assert (tags["data.sha256"], tags["evaluate.samples"], len(tags["model.sha256"])) == ("d" * 64, "64", 64)
    assert "cached" not in tags
    files = [
        f.path for folder in ("figures", "reports") for f in client(project).list_artifacts(run.info.run_id, folder)
    ]
    assert {"figures/a.png", "reports/overview.png", "reports/report.html", "reports/report.md"} <= set(files)
    assert str(run.info.artifact_uri).startswith(f"file://{project.folder}/mlruns/artifacts")


def test_two_trainings_of_one_model_are_two_runs_and_the_later_one_is_measured(project: Project) -> None:
    project.train()
    project.train()
    project.evaluate(5.0)
    assert ["test.log_px" in run.data.metrics for run in runs(project)] == [False, True]


def test_a_measurement_without_a_training_run_opens_one_that_is_marked(project: Project) -> None:
    project.write_training()
    project.commit("train")
    for _ in range(2):
        project.evaluate(5.0)
    [run] = runs(project)
    assert (run.info.run_name, run.data.tags["cached"], run.info.status) == ("workspace", "true", "FINISHED")
    assert steps(project, run) == [1, 2]
    assert run.data.metrics["test.log_px"] == 5.0


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_training_that_breaks_off_ends_its_run(project: Project, error: type[BaseException], status: str) -> None:
    with pytest.raises(error), project.run("train"):
        raise error
    assert [run.info.status for run in runs(project)] == [status]


def test_a_measurement_that_fails_changes_nothing(project: Project) -> None:
    project.train()
    with pytest.raises(ValueError, match="no"), project.run("evaluate"):
        raise ValueError("no")
    [run] = runs(project)
    assert (run.info.status, "evaluate.sha256" in run.data.tags) == ("FINISHED", False)


def test_a_stage_that_is_run_by_hand_publishes_no_files(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files may be others than those of dvc.yaml."""
    monkeypatch.delenv("DVC_STAGE")
    project.train()
    [run] = runs(project)
    assert (run.info.status, steps(project, run), "model.sha256" in run.data.tags) == ("FINISHED", [1, 2], False)
    publish(Store(), of_workspace())
    [run] = runs(project)
    assert "model.sha256" in run.data.tags


def test_the_run_of_a_dead_process_is_closed_as_killed_and_that_of_a_living_one_stays(project: Project) -> None:
    living, dead = project.run("train"), project.run("train")
    dead.log_epoch(project.epoch(1))
    store, last = client(project), runs(project)[-1].info.run_id
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    store.set_tag(last, "process.pid", str(ended.pid))
    [point] = store.get_metric_history(last, "train_elbo")

    Store()
    assert [run.info.status for run in runs(project)] == ["RUNNING", "KILLED"]
    assert store.get_run(last).info.end_time == point.timestamp
    with living:
        pass


def loads(project: Project) -> list[set[str]]:
    """Names of the metrics of the machine's load that each run has."""
    return [{key for key in run.data.metrics if key.startswith("system/")} for run in runs(project)]


@pytest.mark.parametrize("enabled", ["true", "false"])
def test_the_load_of_the_machine_is_logged_while_a_model_trains(
    project: Project, enabled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", enabled)
    with project.run("train") as run:
        run.log_epoch(project.epoch(1))
        deadline = time.monotonic() + 30
        while enabled == "true" and not loads(project)[0] and time.monotonic() < deadline:
            time.sleep(0.1)
        project.write_training(1)
    project.commit("train")
    project.evaluate(5.0)
    [found] = loads(project)
    assert ("system/cpu_utilization_percentage" in found) == (enabled == "true")
    assert not [thread for thread in threading.enumerate() if thread.name == "SystemMetricsMonitor"]
    assert [run.info.status for run in runs(project)] == ["FINISHED"]


def test_the_thread_that_logs_the_load_ends_with_a_training_that_fails_and_harms_none(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    with pytest.raises(ValueError, match="stop"), project.run("train"), full_store(project):
        time.sleep(1)
        raise ValueError("stop")
    assert not [thread for thread in threading.enumerate() if thread.name == "SystemMetricsMonitor"]
    assert loads(project) == [set()]
    assert capsys.readouterr().err == ""
    assert [run.info.status for run in runs(project)] == ["FAILED"]


def use_port(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def test_a_refused_port_costs_one_warning_in_each_stage_and_sync_publishes_each_value_once(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_port(monkeypatch, 9)
    project.train(epochs=3)
    project.evaluate(5.0)
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 2, warnings
    start = "warning: this stage logs nothing more: MLflow at http://127.0.0.1:9 cannot be used: "
    assert all(line.startswith(start) for line in warnings)

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    publish(Store(), of_workspace())
    [run] = runs(project)
    assert (run.info.status, steps(project, run), run.data.metrics["test.log_px"]) == ("FINISHED", [1, 2, 3], 5.0)


def test_a_server_that_never_answers_costs_seconds(
    project: Project, silent_port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_port(monkeypatch, silent_port)
    start = time.monotonic()
    project.train()
    assert time.monotonic() - start < 30  # one call of 3 s, on a busy machine
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_required_refuses_before_the_work_and_off_does_not_load_mlflow(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_port(monkeypatch, 9)
    with pytest.raises(UserError, match=r"tracking.mode = required, but MLflow at http://127"):
        project.run("train", "required")
    code = (
        "import argparse, sys\nfrom pipeline.config import load_params\nfrom pipeline.tracking.run import Run\n"
        "with Run('train', load_params(), argparse.Namespace()) as run:\n    run.log_epoch({'epoch': 1})\n"
        "assert 'mlflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)


@pytest.mark.parametrize("address", ["http://me:secret@127.0.0.1:9", "postgresql://me:secret@127.0.0.1:9/runs"])
def test_no_message_shows_a_password(
    project: Project, address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_port(monkeypatch, 9)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    project.train()
    with pytest.raises(UserError) as error:
        project.run("train", "required")
    printed = [str(error.value), capsys.readouterr().err]
    for action in ("ui", "sync"):
        monkeypatch.setattr("sys.argv", ["tracking", action])
        run_cli(main, printed.append)
        printed.append(capsys.readouterr().out)
    assert "secret" not in "".join(printed)
    assert sum(address.replace("me:secret", "***") in text for text in printed) >= 3


@contextlib.contextmanager
def full_store(project: Project) -> Iterator[None]:
    """A store that refuses metrics as SQLite does when the disk is full."""
    database = project.folder / "mlruns/mlflow.db"
    refuse = "create trigger full before insert on metrics begin select raise(abort, 'disk is full'); end"
    for statement in (refuse, "drop trigger full"):
        with contextlib.closing(sqlite3.connect(database)) as store, store:
            store.execute(statement)
        if statement == refuse:
            yield


def test_a_full_disk_cuts_a_run_off_and_the_next_stage_completes_it(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    with project.run("train") as run:
        run.log_epoch(project.epoch(1))
        with full_store(project):
            run.log_epoch(project.epoch(2))
        run.log_epoch(project.epoch(3))  # nothing is sent after the first failure
        project.write_training(epochs=3)
    project.commit("train")
    [warning] = capsys.readouterr().err.splitlines()
    assert "disk is full" in warning
    [cut_off] = runs(project)
    assert (cut_off.info.status, steps(project, cut_off)) == ("RUNNING", [1])

    client(project).set_tag(cut_off.info.run_id, "process.started", "0")  # as if that process had ended
    project.evaluate(5.0)
    [run] = runs(project)
    assert (run.info.run_id, run.info.status, steps(project, run)) == (cut_off.info.run_id, "FINISHED", [1, 2, 3])
    assert "cached" not in run.data.tags


def test_a_run_that_was_cut_off_with_other_epochs_stays_as_it_is(project: Project) -> None:
    with pytest.raises(ValueError, match="stop"), project.run("train") as run:
        run.log_epoch(project.epoch(1, seed=7))
        raise ValueError("stop")
    project.restore(5.0)
    publish(Store(), of_workspace())
    assert [(run.info.status, steps(project, run)) for run in runs(project)] == [("FAILED", [1]), ("FINISHED", [1, 2])]


def test_a_run_that_is_deleted_while_it_trains_costs_one_warning_and_is_logged_to_another(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    with project.run("train") as run:
        run.log_epoch(project.epoch(1))
        [deleted] = runs(project)
        client(project).delete_run(deleted.info.run_id)
        for number in (2, 3):
            run.log_epoch(project.epoch(number))
        project.write_training(epochs=3)
    project.commit("train")
    [warning] = capsys.readouterr().err.splitlines()
    assert "logged when it ends, in another run: MLflow at sqlite:" in warning
    assert "Current state is deleted; restore it there, or" in warning
    [other] = runs(project)
    assert (other.info.status, steps(project, other)) == ("FINISHED", [1, 2, 3])
    project.evaluate(5.0)
    [run] = runs(project)
    assert (run.info.run_id, run.data.metrics["test.log_px"]) == (other.info.run_id, 5.0)


@pytest.mark.parametrize("fails", [False, True])
def test_a_run_that_is_deleted_after_its_last_epoch_costs_nothing(
    project: Project, fails: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.suppress(ValueError), project.run("train") as run:
        run.log_epoch(project.epoch(1))
        client(project).delete_run(runs(project)[0].info.run_id)
        project.write_training(epochs=1)
        if fails:
            raise ValueError
    assert capsys.readouterr().err == ""
    assert [run.info.status for run in runs(project)] == ([] if fails else ["FINISHED"])


def test_a_deleted_experiment_is_named_with_the_way_out(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client(project).delete_experiment("1")
    project.train()
    message = (
        "the experiment measured-vae was deleted in MLflow; set MLFLOW_EXPERIMENT_NAME to another name, or restore it: "
        f"MLFLOW_TRACKING_URI=sqlite:///{project.folder}/mlruns/mlflow.db mlflow experiments restore --experiment-id 1"
    )
    [warning] = capsys.readouterr().err.splitlines()
    assert message in warning
    with pytest.raises(UserError) as error:
        project.run("train", "required")
    assert str(error.value) == f"tracking.mode = required, but {message}; or use tracking.mode = best_effort"

    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "another")
    project.evaluate(5.0)
    assert client(project).search_runs(["2"])[0].data.metrics["test.log_px"] == 5.0
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    client(project).restore_experiment("1")
    project.evaluate(5.0)
    assert [run.data.metrics["test.log_px"] for run in runs(project)] == [5.0]


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (MlflowException("no such run", RESOURCE_DOES_NOT_EXIST), True),
        (MlflowException("not for you", PERMISSION_DENIED), True),
        (MlflowException("wait", REQUEST_LIMIT_EXCEEDED), False),
        (MlflowException("refused connection", INTERNAL_ERROR), False),
        (MlflowException("a damaged database", BAD_REQUEST), False),
        (requests.HTTPError("a file that is too large", response=response(413)), True),
        (requests.HTTPError("down", response=response(503)), False),
        (requests.ConnectionError("down"), False),
        (OSError("a full disk"), False),
    ],
)
def test_a_refusal_is_not_an_outage(error: Exception, refused: bool) -> None:
    assert is_refusal(error) == refused
    way = "MLflow at sqlite:.* refuses this: .*; correct that" if refused else "MLflow at sqlite:.* cannot be used: "
    assert re.match(way, explain(error))


def test_an_experiment_that_is_deleted_while_it_trains_is_refused_and_not_down(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    with project.run("train") as run:
        client(project).delete_experiment("1")
        run.log_epoch(project.epoch(1))
        project.write_training(epochs=1)
    first, second = capsys.readouterr().err.splitlines()
    assert "another run" in first
    assert "logs nothing more: MLflow at sqlite:" in second
    assert "set MLFLOW_EXPERIMENT_NAME to another name" in second
    assert "start it" not in first + second


@pytest.mark.slow
def test_a_really_full_disk_harms_no_stage(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """The store has its own file system."""
    store, small = project.folder / "mlruns", project.folder / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", small]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a file system")
    try:
        shutil.copytree(store, small, dirs_exist_ok=True)
        shutil.rmtree(store)
        store.symlink_to(small)
        filler = small / "filler"
        with contextlib.suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(bytes(4096))
                file.flush()
        project.train()
        [warning] = capsys.readouterr().err.splitlines()
        assert "No space left" in warning or "disk is full" in warning
        filler.unlink()
        project.evaluate(5.0)
        assert runs(project)[-1].data.metrics["test.log_px"] == 5.0
    finally:
        subprocess.run(["umount", "--lazy", small], check=True)
