"""A stage logs: a training while it runs, each stage its files at its end. A store that fails harms no stage."""

import contextlib
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from pipeline.errors import UserError
from pipeline.tracking.mlflow_store import ENVIRONMENT, Store
from pipeline.tracking.publish import publish
from pipeline.tracking.results import of_workspace
from tests.pipeline.tracking.project import Project, client, runs, steps
from tests.support import ROOT


def test_all_stages_of_one_model_share_a_run(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "humble-fish")
    project.train(epochs=3)
    project.evaluate(5.0, "verify", "compare", "render", "report")

    [run] = runs(project)
    assert (run.info.run_name, run.info.status) == ("humble-fish", "FINISHED")
    measured = {"test.log_px": 5.0, "verify.difference": 5.0, "compare.ppca": 5.0}
    trained = {"epoch": 3.0, "validation.elbo": 19.5, "best": 1.0, "train_elbo": 30.000001, "validation_elbo": 28.5}
    assert run.data.metrics == trained | measured
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


def use_port(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A server that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        yield listener.getsockname()[1]


def test_a_refused_port_costs_one_warning_in_each_stage_and_sync_publishes_each_value_once(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_port(monkeypatch, 9)
    project.train(epochs=3)
    project.evaluate(5.0)
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 2, warnings
    assert all(
        line.startswith("warning: this stage logs nothing more to MLflow at http://127.0.0.1:9: ") for line in warnings
    )

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
