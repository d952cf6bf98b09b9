"""Stages under DVC and an MLflow server on SQLite: its death in mid-training, and artifacts that go through it."""

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from pipeline.tracking.mlflow_store import EXPERIMENT
from tools import presets
from tools.clones import configure, environment, sh, temporary_clone

pytestmark = pytest.mark.slow

EPOCHS = 150
MODEL = "models/vae.safetensors"


class Server:
    """`mlflow server` on a free port of the loopback interface, as docs/experiments.md starts it."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = str(free.getsockname()[1])
        self.folder, self.uri = folder, f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        options = [
            "--backend-store-uri",
            f"sqlite:///{self.folder}/mlflow.db",
            "--host",
            "127.0.0.1",
            "--port",
            self.port,
        ]
        options += ["--artifacts-destination", str(self.folder / "artifacts"), "--workers", "1"]
        with (self.folder / "log").open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                ["mlflow", "server", *options], env=environment(), stdout=log, stderr=log, start_new_session=True
            )
        # Its first answer takes seconds, longer than a stage waits.
        for _ in range(1200):
            with contextlib.suppress(requests.ConnectionError):
                requests.get(
                    f"{self.uri}/api/2.0/mlflow/experiments/search?max_results=1", timeout=120
                ).raise_for_status()
                return
            assert self.process.poll() is None, (self.folder / "log").read_text(encoding="utf-8")
            time.sleep(0.1)

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def select(self, query: str) -> list[tuple[object, ...]]:
        with contextlib.closing(sqlite3.connect(self.folder / "mlflow.db")) as store:
            return store.execute(query).fetchall()

    def epochs(self) -> list[object]:
        """The epochs of all runs, each as often as it was logged."""
        return [step for (step,) in self.select("select step from metrics where key = 'train_elbo' order by step")]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def clone() -> Iterator[Path]:
    with temporary_clone() as folder:
        configure(folder, presets.load("tiny"))
        yield folder


def track(clone: Path, mode: str) -> None:
    configure(clone, {"tracking": {"mode": mode}})


def test_a_server_killed_in_mid_training_costs_seconds_and_no_epoch(server: Server, clone: Path) -> None:
    configure(clone, {"train": {"epochs": EPOCHS}})
    track(clone, "off")
    sh(clone, "dvc", "repro", "download")
    start = time.monotonic()
    sh(clone, "dvc", "repro", "train")
    untracked, model = time.monotonic() - start, (clone / MODEL).read_bytes()

    track(clone, "best_effort")
    start = time.monotonic()
    log = clone.parent / "log"
    with log.open("w", encoding="utf-8") as file:
        training = subprocess.Popen(
            ["dvc", "repro", "--force", "--single-item", "train"], cwd=clone, stdout=file, stderr=file,
            env=environment() | {"MLFLOW_TRACKING_URI": server.uri},
        )  # fmt: skip
    while len(server.epochs()) < 3:
        assert training.poll() is None, log.read_text(encoding="utf-8")
        time.sleep(0.05)
    server.kill()
    assert training.wait(timeout=120) == 0
    took = time.monotonic() - start
    print(f"without tracking {untracked:.1f} s, with a server that was killed {took:.1f} s")
    assert took < untracked + 30  # most of it is the import of mlflow, on a busy machine
    assert log.read_text(encoding="utf-8").count("warning: ") == 1
    assert (clone / MODEL).read_bytes() == model
    assert 3 <= len(server.epochs()) < EPOCHS

    server.start()
    for changes in ("", " 0 changes\n"):
        output = sh(clone, "python", "-m", "pipeline.tracking", "sync", MLFLOW_TRACKING_URI=server.uri)
        assert output.endswith(changes)
        assert server.epochs() == list(range(1, EPOCHS + 1))
        assert server.select("select status from runs") == [("FINISHED",)]


def test_a_required_server_gets_runs_and_files_and_changes_no_output(server: Server, clone: Path) -> None:
    track(clone, "required")
    with pytest.raises(
        RuntimeError, match=r"tracking.mode = required, but MLflow at http://127.0.0.1:9 cannot be used"
    ):
        sh(clone, "dvc", "repro", "train", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert not (clone / MODEL).exists()

    sh(clone, "dvc", "repro", "evaluate", MLFLOW_TRACKING_URI=server.uri.replace("://", "://me:xyzzy@"))
    names = (MODEL, "reports/metrics/history.csv", "reports/metrics/evaluate.json", "reports/images.parquet")
    outputs = [(clone / name).read_bytes() for name in names]
    [(status, experiment)] = server.select("select status, e.name from runs join experiments e using (experiment_id)")
    assert (status, experiment) == ("FINISHED", EXPERIMENT)
    assert server.select("select count(*) from metrics where key = 'test.log_px'") == [(1,)]
    assert list((server.folder / "artifacts").rglob("vae.safetensors"))
    assert not (clone / "mlruns/mlflow.db").exists()
    stored = [path for path in (server.folder / "artifacts").rglob("*") if path.is_file()]
    assert not [path for path in (*stored, server.folder / "mlflow.db") if b"xyzzy" in path.read_bytes()]

    track(clone, "off")
    sh(clone, "dvc", "repro", "--force", "evaluate")
    assert [(clone / name).read_bytes() for name in names] == outputs
