"""Tracking: one run for each training, found by its model's digest; what fails is kept, and delivered once."""

import contextlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from mlflow import MlflowClient
from mlflow.entities import Run as Stored

from pipeline import checkpoint
from pipeline.config import Model, Tracking
from pipeline.errors import UserError
from pipeline.tracking import outbox, sink
from pipeline.tracking.run import Run
from pipeline.tracking.sink import EXPERIMENT, Sink
from pipeline.vae import VAE

DATA = ("digits", "d" * 64)
BEST_EFFORT, REQUIRED, OFF = (Tracking(mode=mode) for mode in ("best_effort", "required", "off"))


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with an empty store: making one takes seconds, copying it none."""
    folder = tmp_path_factory.mktemp("fresh")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(folder))
        Sink()
    return folder


@pytest.fixture
def repository(fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of its own for each test, seen from another folder, as from a temporary workspace."""
    folder = tmp_path / "repository"
    shutil.copytree(fresh, folder)
    with sqlite3.connect(folder / "mlruns/mlflow.db") as store:
        store.execute(
            "update experiments set artifact_location = replace(artifact_location, ?, ?)", (str(fresh), str(folder))
        )
    store.close()
    monkeypatch.setenv("DVC_ROOT", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    settings = Model(latent=2, encoder=(8,), decoder=(8,), activation="relu", sigma=0.1)
    description = checkpoint.Description(
        model=settings, height=3, width=4, levels=17, dataset="digits", data_sha256="d" * 64, epoch=2
    )
    path = tmp_path / "vae.safetensors"
    checkpoint.save(path, VAE(settings, 12).state_dict(), description)
    return path


def runs(repository: Path) -> list[Stored]:
    """All runs, oldest first."""
    client = MlflowClient(f"sqlite:///{repository}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"]))


def content(repository: Path) -> str:
    """All that the store has, as text."""
    with sqlite3.connect(repository / "mlruns/mlflow.db") as store:
        text = "\n".join(store.iterdump())
    store.close()
    return text


def train(model: Path, epochs: int = 2) -> None:
    with Run("train", BEST_EFFORT, DATA) as run:
        run.params({"model": {"latent": 2, "encoder": (3, 4)}, "data": {"name": "digits"}})
        for epoch in range(1, epochs + 1):
            run.metrics({"train_elbo": 10.0 * epoch, "best": True}, step=epoch)
        run.model(model, "f00d")
        run.metrics({"epoch": 2, "validation": {"elbo": 19.0}})


def evaluate(model_sha256: str = "f00d") -> None:
    with Run("evaluate", BEST_EFFORT, DATA, model_sha256) as run:
        run.settings({"evaluate": {"samples": 256}})
        run.metrics({"test": {"elbo": 5.0}})


def test_stages_of_one_model_share_a_run(
    repository: Path, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "humble-fish")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "abc123")
    train(model)
    evaluate()
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/a.png").write_bytes(b"png")
    with Run("report", BEST_EFFORT, DATA, "f00d") as run:
        run.artifacts("figures", tmp_path / "figures", model)

    [stored] = runs(repository)
    assert (stored.info.run_name, stored.info.status) == ("humble-fish", "FINISHED")
    assert stored.data.params == {"model.latent": "2", "model.encoder": "(3, 4)", "data.name": "digits"}
    expected = {"train_elbo": 20.0, "best": 1.0, "epoch": 2.0, "validation.elbo": 19.0, "test.elbo": 5.0}
    assert stored.data.metrics == expected
    tags = stored.data.tags
    assert (tags["dvc.baseline_rev"], tags["dvc.experiment"], tags["stage"]) == ("abc123", "humble-fish", "report")
    assert (tags["model.sha256"], tags["data.sha256"], tags["evaluate.samples"]) == ("f00d", "d" * 64, "256")
    assert stored.inputs is not None
    assert [i.dataset.name for i in stored.inputs.dataset_inputs] == ["digits"]
    client = MlflowClient(f"sqlite:///{repository}/mlruns/mlflow.db")
    history = client.get_metric_history(stored.info.run_id, "train_elbo")
    assert [(m.step, m.value) for m in history] == [(1, 10.0), (2, 20.0)]
    assert sorted(f.path for f in client.list_artifacts(stored.info.run_id, "figures")) == [
        "figures/a.png",
        "figures/vae.safetensors",
    ]
    assert stored.info.artifact_uri is not None
    assert stored.info.artifact_uri.startswith(f"file://{repository}/mlruns/artifacts")
    assert list(outbox.folder().iterdir()) == []


def test_the_logged_model_has_its_metrics_and_works_without_this_repository(
    repository: Path, model: Path, tmp_path: Path
) -> None:
    train(model)
    evaluate()
    [stored] = runs(repository)
    assert stored.outputs is not None
    [output] = stored.outputs.model_outputs
    logged = MlflowClient(f"sqlite:///{repository}/mlruns/mlflow.db").get_logged_model(output.model_id)
    assert (logged.status, logged.source_run_id) == ("READY", stored.info.run_id)
    assert logged.metrics is not None
    linked = {(m.key, m.value, m.dataset_name) for m in logged.metrics}
    assert {("test.elbo", 5.0, "digits"), ("validation.elbo", 19.0, "digits")} <= linked

    code = f"""
import json, sys, warnings
warnings.simplefilter("ignore")
import mlflow, numpy as np
mlflow.set_tracking_uri("sqlite:///{repository}/mlruns/mlflow.db")
model = mlflow.pyfunc.load_model("models:/{output.model_id}")
x = np.linspace(0, 1, 24, dtype=np.float32).reshape(2, 12)
found = {{name: model.predict(x, params={{"output": name}}).tolist() for name in ("reconstruction", "mean", "stddev")}}
import pipeline
print(json.dumps(found | {{"code": list(pipeline.__path__)}}))
"""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout.splitlines()[-1])
    assert not any(str(ROOT) in path for path in found["code"])

    vae = VAE(Model(latent=2, encoder=(8,), decoder=(8,), activation="relu", sigma=0.1), 12)
    checkpoint.restore(vae, checkpoint.load(model)[0], model)
    with torch.inference_mode():
        q = vae.encoder(torch.linspace(0, 1, 24).reshape(2, 12))
        expected = {"reconstruction": vae.decoder(q.mean).mean, "mean": q.mean, "stddev": q.stddev}
    for name, values in expected.items():
        torch.testing.assert_close(torch.tensor(found[name]), values, rtol=0, atol=1e-6)
    requirements = next((repository / "mlruns/artifacts").rglob("requirements.txt")).read_text()
    assert f"torch=={version('torch')}" in requirements


def test_two_trainings_are_two_runs_and_the_later_one_is_measured(repository: Path, model: Path) -> None:
    train(model)
    train(model)
    evaluate()
    assert ["test.elbo" in run.data.metrics for run in runs(repository)] == [False, True]


def test_evaluation_without_a_training_run_opens_one_that_says_so(repository: Path) -> None:
    evaluate("beef")
    evaluate("beef")
    [stored] = runs(repository)
    assert (stored.info.run_name, stored.data.tags["cached"]) == ("workspace", "true")
    assert stored.data.metrics == {"test.elbo": 5.0}


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_run_that_breaks_off_says_so(repository: Path, error: type[BaseException], status: str) -> None:
    with pytest.raises(error), Run("train", BEST_EFFORT, DATA):
        raise error
    assert [run.info.status for run in runs(repository)] == [status]


def test_a_killed_stage_ends_as_killed_when_the_next_one_finds_its_entry(repository: Path, model: Path) -> None:
    code = (
        "import os, signal\n"
        "from pipeline.config import Tracking\n"
        "from pipeline.tracking.run import Run\n"
        f"run = Run('train', Tracking(mode='best_effort'), {DATA})\n"
        "run.metrics({'train_elbo': 1.0}, step=1)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
    assert [run.info.status for run in runs(repository)] == ["RUNNING"]
    evaluate("beef")
    assert [run.info.status for run in runs(repository)] == ["KILLED", "FINISHED"]


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A server that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        yield listener.getsockname()[1]


def refuse(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    for name, value in sink.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def test_a_refused_server_costs_one_warning_and_sync_delivers_each_value_once(
    repository: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refuse(monkeypatch, 9)
    train(model, epochs=3)
    evaluate()
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2, told  # one a stage
    assert all(line.startswith("warning: MLflow at http://127.0.0.1:9 cannot be used: ") for line in told)
    assert len(list(outbox.folder().iterdir())) == 2

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    entries = sorted(outbox.folder().iterdir())
    saved = repository / "saved"
    shutil.copytree(outbox.folder(), saved)
    assert Sink().catch_up() == 2
    [stored] = runs(repository)
    assert stored.data.metrics["test.elbo"] == 5.0
    before = content(repository)
    assert before.count("'train_elbo'") == 3 + 1  # each epoch, and the latest

    # The same once more, as after a crash between the delivery and its note: nothing is doubled.
    for entry in entries:
        shutil.copytree(saved / entry.name, entry)
        (entry / "progress.json").unlink(missing_ok=True)
    assert Sink().catch_up() == 2
    assert content(repository).count("'train_elbo'") == 3 + 1
    assert len(runs(repository)) == 1
    assert runs(repository)[0].info.status == "FINISHED"


def test_a_server_that_never_answers_costs_seconds(
    repository: Path, silent_port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refuse(monkeypatch, silent_port)
    start = time.monotonic()
    evaluate()
    assert time.monotonic() - start < 30  # its limit is 3 s a call, and there is one
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_required_stops_at_once_and_off_never_loads_mlflow(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refuse(monkeypatch, 9)
    with pytest.raises(UserError, match="and MLflow at http://127"):
        Run("train", REQUIRED, DATA)
    assert list(outbox.folder().iterdir()) == []
    code = (
        "import sys\nfrom pipeline.config import Tracking\nfrom pipeline.tracking.run import Run\n"
        f"with Run('train', Tracking(mode='off'), {DATA}) as run:\n    run.metrics({{'a': 1.0}})\n"
        "assert 'mlflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
    assert list(outbox.folder().iterdir()) == []


def test_a_full_disk_for_the_store_is_survived_and_made_good(
    repository: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A store that refuses rows as SQLite does where the disk is full."""
    with sqlite3.connect(repository / "mlruns/mlflow.db") as store:
        store.execute("create trigger full before insert on metrics begin select raise(abort, 'disk is full'); end")
    store.close()
    train(model)
    assert "disk is full" in capsys.readouterr().err
    with sqlite3.connect(repository / "mlruns/mlflow.db") as store:
        store.execute("drop trigger full")
    store.close()
    evaluate()
    [stored] = runs(repository)
    assert stored.data.metrics["train_elbo"] == 20.0
    assert stored.data.metrics["test.elbo"] == 5.0


def test_a_really_full_disk_harms_no_stage(repository: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Store and outbox on a file system of their own, which is full from the start."""
    there, small = repository / "mlruns", repository / "small"
    small.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", small], capture_output=True, check=False
    ).returncode:
        pytest.skip("only root can mount a file system")
    try:
        shutil.copytree(there, small, dirs_exist_ok=True)
        shutil.rmtree(there)
        there.symlink_to(small)
        filler = small / "filler"
        with contextlib.suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(bytes(4096))
                file.flush()
        train(model)
        told = capsys.readouterr().err.splitlines()
        assert 1 <= len(told) <= 2, told
        assert all("No space left" in line or "disk is full" in line for line in told), told
        filler.unlink()
        evaluate()
        assert runs(repository)[-1].data.metrics["test.elbo"] == 5.0
    finally:
        subprocess.run(["umount", "--lazy", small], check=True)


def test_a_full_disk_for_the_outbox_is_said_once(
    repository: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Run("train", BEST_EFFORT, DATA) as run:
        for file in outbox.folder().iterdir():
            (file / "events.jsonl").unlink()
            (file / "events.jsonl").symlink_to("/dev/full")
        for epoch in range(3):
            run.metrics({"elbo": 1.0}, step=epoch)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert "No space left on device" in told[0]
