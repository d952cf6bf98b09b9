"""A real MLflow server on PostgreSQL: runs, artifacts through the server, and its death in the middle of a training."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = pytest.mark.skipif(
    not shutil.which("pg_ctl") and not list(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl")),
    reason="PostgreSQL is not installed",
)


class Server:
    """`tools/server` in a folder of its own, on free ports."""

    def __init__(self, folder: Path) -> None:
        ports = []
        for _ in range(2):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                ports.append(str(free.getsockname()[1]))
        self.folder, self.uri = folder, f"http://127.0.0.1:{ports[0]}"
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = os.environ | {
            "SERVER_DIR": str(folder), "MLFLOW_PORT": ports[0], "PGPORT": ports[1], "PATH": path
        }  # fmt: skip

    def call(self, action: str) -> str:
        # Into a file: the server inherits what it is given, and a pipe would stay open for as long as it lives.
        with (self.folder / "call.log").open("w+", encoding="utf-8") as log:
            code = subprocess.call([ROOT / "tools/server", action], env=self.environment, stdout=log, stderr=log)
            log.seek(0)
            text = log.read()
        assert code == 0, text
        return text

    def kill(self) -> None:
        """As if its machine had died; the database stays."""
        os.killpg(int((self.folder / "mlflow.pid").read_text()), signal.SIGKILL)

    def sql(self, query: str) -> list[str]:
        command = ["psql", "-h", "127.0.0.1", "-U", "mlflow", "mlflow", "-Atc", query]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True).stdout.split()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="mlflow-"))
    folder.chmod(0o755)  # PostgreSQL's user must reach it
    running = Server(folder)
    running.call("up")
    yield running
    running.call("down")
    shutil.rmtree(folder, ignore_errors=True)


Stage = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def stage(server: Server, tmp_path: Path) -> Stage:
    """Start a stage, or the tracking command, as a process that logs to the server."""

    def start(module: str, *arguments: str, uri: str = server.uri) -> "subprocess.Popen[str]":
        environment = os.environ | {
            "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": uri, "DVC_ROOT": str(tmp_path),
            "DVC_EXP_NAME": tmp_path.name,
        }  # fmt: skip
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments], cwd=tmp_path, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    return start


TRAIN = ("--data", "data.safetensors", "--model", "vae.safetensors", "--history", "h.csv", "--metrics", "t.json")
EPOCHS = 120


def done(process: "subprocess.Popen[str]") -> str:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


def epochs_of(server: Server, name: str) -> list[str]:
    """Steps of the training ELBO of all runs of this name."""
    return server.sql(
        "select step from metrics join runs using (run_uuid) "
        f"where key = 'train_elbo' and name = '{name}' order by step"
    )


def test_a_server_killed_in_the_middle_costs_seconds_and_no_epoch(
    server: Server, stage: Stage, small_params: Callable[..., Path], tmp_path: Path
) -> None:
    small_params(train__epochs=EPOCHS, tracking__mode="off")
    done(stage("stages.download", "--data", "data.safetensors"))
    start = time.monotonic()
    done(stage("stages.train", *TRAIN))
    alone = time.monotonic() - start
    untracked = (tmp_path / "vae.safetensors").read_bytes()

    small_params(train__epochs=EPOCHS, tracking__mode="best_effort")
    start = time.monotonic()
    training = stage("stages.train", *TRAIN)
    while len(epochs_of(server, tmp_path.name)) < 3:
        assert training.poll() is None, training.communicate()[0]
        time.sleep(0.1)
    server.kill()
    output = done(training)
    took = time.monotonic() - start
    print(f"alone {alone:.1f} s, with a server that was killed {took:.1f} s")
    assert took < alone + 10
    assert output.count("warning: ") == 1, output
    before = len(epochs_of(server, tmp_path.name))
    assert 3 <= before < EPOCHS
    assert (tmp_path / "vae.safetensors").read_bytes() == untracked

    server.call("up")
    for _ in range(2):
        # There is no dvc.lock here: what the outbox holds is sent all the same.
        stage("pipeline.tracking", "sync").communicate(timeout=60)
        assert epochs_of(server, tmp_path.name) == [str(epoch) for epoch in range(1, EPOCHS + 1)]
    assert server.sql(f"select status from runs where name = '{tmp_path.name}'") == ["FINISHED"]


def test_a_run_is_the_same_with_a_server_and_its_files_go_through_it(
    server: Server, stage: Stage, small_params: Callable[..., Path], tmp_path: Path
) -> None:
    small_params(tracking__mode="required")
    done(stage("stages.download", "--data", "data.safetensors"))
    with_server = done(stage("stages.train", *TRAIN)), *(tmp_path / n for n in ("vae.safetensors", "h.csv", "t.json"))
    outs = [path.read_bytes() for path in with_server[1:]]
    evaluate = (
        "--data",
        "data.safetensors",
        "--model",
        "vae.safetensors",
        "--table",
        "t.parquet",
        "--metrics",
        "e.json",
    )
    done(stage("stages.evaluate", *evaluate))
    found = server.sql(f"select count(*) from runs where name = '{tmp_path.name}'")
    assert found == ["1"]
    logged = server.sql(
        "select count(*) from logged_model_metrics join runs on runs.run_uuid = run_id "
        f"where metric_name = 'test.log_px' and name = '{tmp_path.name}'"
    )
    assert logged == ["1"]
    assert list((server.folder / "artifacts").rglob("vae.safetensors"))
    assert not (tmp_path / "mlruns/mlflow.db").exists()

    small_params(tracking__mode="off")
    done(stage("stages.train", *TRAIN))
    assert [path.read_bytes() for path in with_server[1:]] == outs


def test_required_without_a_server_trains_nothing(
    stage: Stage, small_params: Callable[..., Path], tmp_path: Path
) -> None:
    small_params(tracking__mode="required")
    done(stage("stages.download", "--data", "data.safetensors"))
    training = stage("stages.train", *TRAIN, uri="http://127.0.0.1:9")
    output, _ = training.communicate(timeout=60)
    assert training.returncode == 1
    assert "error: tracking.mode = required, and MLflow at http://127.0.0.1:9 cannot be used" in output
    assert "epoch" not in output
    assert not (tmp_path / "vae.safetensors").exists()
