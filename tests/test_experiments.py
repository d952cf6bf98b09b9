"""Experiments under DVC: in parallel, restored from the cache, shared over a folder and over SSH."""

import getpass
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks.queue import run_queue, sh, verdict
from pipeline.lifetime import GRACE

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")


def test_four_queued_experiments_with_two_workers_are_four_runs_of_the_same_names(clone: Path) -> None:
    run_queue(clone, "model.latent=1,2,4,5", {"train.epochs": "1"}, jobs=2, last="evaluate", limit=600)
    found = verdict(clone)
    assert len(found["experiments"]) == 4
    assert set(found["experiments"].values()) == {"success"}
    assert [status for _, status in found["runs"]] == ["FINISHED"] * 4
    assert found["same_names"]
    assert found["one_experiment"]


def test_what_the_cache_restored_is_one_run_after_sync_and_stays_one(clone: Path) -> None:
    sh(clone, "dvc", "exp", "run", "--temp", "--name", "first", "-S", "model.latent=2")
    shutil.rmtree(clone / "mlruns")
    output = sh(clone, "dvc", "exp", "run", "--name", "again", "-S", "model.latent=2")
    assert "Running stage 'train'" not in output
    try:
        for expected in (None, "0 changes"):
            told = sh(clone, "python", "-m", "pipeline.tracking", "sync")
            assert expected is None or expected in told, told
            with sqlite3.connect(clone / "mlruns/mlflow.db") as store:
                runs = store.execute("select run_uuid, name, status from runs").fetchall()
                metrics = dict(store.execute("select key, count(*) from metrics group by key").fetchall())
                cached = store.execute("select value from tags where key = 'cached'").fetchall()
            store.close()
            assert [run[2] for run in runs] == ["FINISHED"]
            assert runs[0][1] in ("first", "again")
            assert metrics["train_elbo"] == 2
            assert {metrics[key] for key in ("test.log_px", "verify.difference", "compare.ppca", "epoch")} == {1}
            assert cached == [("true",)]
    finally:
        sh(clone, "git", "checkout", "-q", ".")
        sh(clone, "dvc", "checkout", "-q")


def share(clone: Path, remote: str, name: str, there: Path) -> None:
    """Push an experiment from one repository, pull and apply it in another, which has nothing of it."""
    sh(clone, "dvc", "exp", "run", "--temp", "--force", "--name", name, "-S", "model.latent=2", "-S", "train.epochs=1")
    sh(there, "git", "init", "-q", "--bare", "shared.git")
    branch = sh(clone, "git", "rev-parse", "--abbrev-ref", "HEAD").strip()
    sh(clone, "git", "remote", "add", name, str(there / "shared.git"))
    sh(clone, "git", "push", "-q", name, branch)
    sh(clone, "dvc", "remote", "add", "--local", "--force", "--default", "store", remote)
    sh(clone, "dvc", "push", "-q")
    sh(clone, "dvc", "exp", "push", name, name)

    sh(there, "git", "clone", "-q", "-b", branch, "shared.git", "other")
    other = there / "other"
    sh(other, "dvc", "remote", "add", "--local", "--default", "store", remote)
    sh(other, "dvc", "exp", "pull", "origin", name)
    sh(other, "dvc", "exp", "apply", name)
    found = json.loads((other / "reports/metrics/train.json").read_text(encoding="utf-8"))
    assert found["epoch"] == 1
    assert "latent: 2\n" in (other / "params.yaml").read_text(encoding="utf-8")
    assert (other / "models/vae.safetensors").is_file()
    assert (other / "reports/report.html").is_file()
    assert "Running stage" not in sh(other, "dvc", "repro")


def test_an_experiment_is_shared_over_a_folder(clone: Path, tmp_path: Path) -> None:
    share(clone, str(tmp_path / "store"), "over-a-folder", tmp_path)


@pytest.fixture
def ssh(tmp_path: Path) -> Iterator[int]:
    """An SSH server on the loopback interface, with keys of its own; its port."""
    assert SSHD
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / key], check=True)
    shutil.copy(tmp_path / "user.pub", tmp_path / "authorized")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/authorized\n"
        f"PidFile {tmp_path}/pid\nStrictModes no\nUsePAM no\nSubsystem sftp internal-sftp\nPermitRootLogin yes\n",
        encoding="utf-8",
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    server = subprocess.Popen([SSHD, "-D", "-f", tmp_path / "config", "-E", tmp_path / "log"])
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    yield port
    server.terminate()
    server.wait()


@pytest.mark.skipif(not SSHD, reason="no SSH server is installed")
def test_an_experiment_is_shared_over_ssh(clone: Path, ssh: int, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    url = f"ssh://{getpass.getuser()}@127.0.0.1:{ssh}{tmp_path}/store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path))
        (tmp_path / ".ssh").mkdir()
        (tmp_path / ".ssh/config").write_text(
            f"Host 127.0.0.1\n  IdentityFile {tmp_path}/user\n  StrictHostKeyChecking no\n", encoding="utf-8"
        )
        share(clone, url, "over-ssh", tmp_path)
    assert any((tmp_path / "store/files").rglob("*"))


def killed(clone: Path, *options: str) -> None:
    """`dvc exp run` and its stage, killed while training."""
    command = ["dvc", "exp", "run", *options, "-S", "train.epochs=100000"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with (clone.parent / "killed.log").open("w+", encoding="utf-8") as log:
        process = subprocess.Popen(
            command, cwd=clone, env=os.environ | {"PATH": path}, stdout=log, stderr=log, start_new_session=True
        )
        deadline = time.monotonic() + 120
        while "epoch   3/" not in (clone.parent / "killed.log").read_text(encoding="utf-8"):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert (
            subprocess.run(["tools/recover"], cwd=clone, env=os.environ | {"PATH": path}, check=False).returncode == 1
        )
        stages = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        for pid in (process.pid, *stages):
            os.kill(pid, signal.SIGKILL)
        process.wait()


def test_a_killed_experiment_goes_on_where_it_was_from_another_workspace(clone: Path) -> None:
    """dvc alone is killed: its stage saves, ends by itself, and the next temporary workspace finds the work."""
    settings = ("-S", "train.epochs=400", "-S", "recovery.save_every=0.2", "-S", "model.latent=7")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    log = clone.parent / "temp.log"
    with log.open("w", encoding="utf-8") as file:
        dvc = subprocess.Popen(
            ["dvc", "exp", "run", "--temp", "--name", "cut-short", *settings],
            cwd=clone, env=os.environ | {"PATH": path}, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
    deadline = time.monotonic() + 120
    while "epoch 100/" not in log.read_text(encoding="utf-8"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    stages = psutil.Process(dvc.pid).children(recursive=True)
    dvc.kill()
    dvc.wait()
    _, alive = psutil.wait_procs(stages, timeout=GRACE + 5)
    assert not alive
    sh(clone, "python", "tools/recover")
    told = sh(clone, "dvc", "exp", "run", "--temp", "--force", "--name", "gone-on", *settings, "train")
    assert "going on from the state" in told
    sh(clone, "dvc", "get", ".", "reports/metrics/history.csv", "--rev", "gone-on", "-o", "gone-on.csv")
    history = (clone / "gone-on.csv").read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[0] for line in history[1:]] == [str(epoch) for epoch in range(1, 401)]
    assert not [path for path in (clone / ".scratch").iterdir() if path.is_dir()]


@pytest.mark.parametrize("options", [("--temp", "--name", "cut"), ("--name", "cut")])
def test_after_a_killed_experiment_the_repository_can_be_put_right(clone: Path, options: tuple[str, ...]) -> None:
    branch = sh(clone, "git", "rev-parse", "--abbrev-ref", "HEAD")
    killed(clone, *options)
    sh(clone, "python", "tools/recover")
    sh(clone, "git", "restore", "--staged", "--worktree", ".")
    sh(clone, "dvc", "checkout", "-q")
    assert sh(clone, "git", "rev-parse", "--abbrev-ref", "HEAD") == branch
    assert sh(clone, "git", "status", "--porcelain", "--untracked-files=no") == ""
    assert "unning" not in sh(clone, "dvc", "exp", "show", "--csv")
    assert "Running stage" not in sh(clone, "dvc", "repro")
