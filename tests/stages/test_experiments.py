"""Experiments under DVC: queued, restored from the cache, shared over a folder and over SSH, killed."""

import getpass
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from pipeline.process.lifecycle import GRACE
from tools.clones import environment, experiments, logged_runs, run_queue, sh

pytestmark = pytest.mark.slow

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")


def test_four_queued_experiments_with_two_workers_are_four_runs_of_the_same_names(clone: Path) -> None:
    run_queue(clone, ["-S", "model.latent=1,2,4,5", "-S", "train.epochs=1"], jobs=2, stage="evaluate", limit=600)
    states, runs = experiments(clone), logged_runs(clone)
    assert list(states.values()) == ["success"] * 4
    assert [(name, status) for name, status, _ in runs] == [(name, "FINISHED") for name in sorted(states)]
    assert len({experiment for _, _, experiment in runs}) == 1


def test_results_from_the_cache_are_one_run_after_sync_and_stay_one(clone: Path) -> None:
    sh(clone, "dvc", "exp", "run", "--temp", "--name", "first", "-S", "model.latent=2")
    shutil.rmtree(clone / "mlruns")
    output = sh(clone, "dvc", "exp", "run", "--name", "again", "-S", "model.latent=2")
    assert "Running stage 'train'" not in output
    try:
        for expected in ("", "; 0 changes"):
            assert expected in sh(clone, "python", "-m", "pipeline.tracking", "sync")
            [run] = [run for run in logged_runs(clone) if run[0] in ("first", "again")]
            assert run[1] == "FINISHED"
            store = sqlite3.connect(clone / "mlruns/mlflow.db")
            points = "select key, count(*) from metrics join runs using (run_uuid) where name = ? group by key"
            metrics = dict(store.execute(points, run[:1]).fetchall())
            tags = "select value from tags join runs using (run_uuid) where name = ? and key = 'cached'"
            cached = store.execute(tags, run[:1]).fetchall()
            store.close()
            assert metrics["train_elbo"] == 2
            assert {metrics[key] for key in ("test.log_px", "verify.difference", "compare.ppca", "epoch")} == {1}
            assert cached == [("true",)]
    finally:
        sh(clone, "git", "checkout", "-q", ".")
        sh(clone, "dvc", "checkout", "-q")


def share(clone: Path, remote: str, name: str, there: Path) -> None:
    """Push an experiment from one repository; pull and apply it in another, which has nothing of it."""
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
    """An SSH server on the loopback interface, with its own keys; its port."""
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


def wait_for(text: str, log: Path, process: "subprocess.Popen[bytes]") -> None:
    """Wait until a running process has written a text to its log."""
    deadline = time.monotonic() + 120
    while text not in log.read_text(encoding="utf-8"):
        assert process.poll() is None, log.read_text(encoding="utf-8")
        assert time.monotonic() < deadline, log.read_text(encoding="utf-8")
        time.sleep(0.1)


@contextmanager
def started(clone: Path, *options: str) -> "Iterator[tuple[subprocess.Popen[bytes], Path]]":
    """`dvc exp run`: its process and its log. What still runs at the end is killed."""
    path = clone.parent / "experiment.log"
    command = ["dvc", "exp", "run", *options]
    with (
        path.open("wb") as log,
        subprocess.Popen(
            command, cwd=clone, env=environment(), stdout=log, stderr=log, start_new_session=True
        ) as process,
    ):
        try:
            yield process, path
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def test_a_killed_experiment_continues_in_another_workspace(clone: Path) -> None:
    """Only dvc is killed: its stage saves its work and ends, and the next temporary workspace finds that work."""
    settings = ("-S", "train.epochs=200", "-S", "recovery.save_every=0.2", "-S", "model.latent=7")
    with started(clone, "--temp", "--name", "cut-short", *settings) as (dvc, log):
        wait_for("epoch  20/", log, dvc)
        stages = psutil.Process(dvc.pid).children(recursive=True)
        dvc.kill()
        dvc.wait()
        _, alive = psutil.wait_procs(stages, timeout=GRACE + 5)
        assert not alive
    sh(clone, "python", "-m", "tools.recover")
    output = sh(clone, "dvc", "exp", "run", "--temp", "--force", "--name", "continued", *settings, "train")
    assert "resuming from the state" in output
    sh(clone, "dvc", "get", ".", "reports/metrics/history.csv", "--rev", "continued", "-o", "continued.csv")
    history = (clone / "continued.csv").read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[0] for line in history[1:]] == [str(epoch) for epoch in range(1, 201)]
    assert not [path for path in (clone / ".scratch").iterdir() if path.is_dir()]


@pytest.mark.parametrize("options", [("--temp", "--name", "cut"), ("--name", "cut")])
def test_after_a_killed_experiment_the_repository_can_be_recovered(clone: Path, options: tuple[str, ...]) -> None:
    branch = sh(clone, "git", "rev-parse", "--abbrev-ref", "HEAD")
    with started(clone, *options, "-S", "train.epochs=100000") as (dvc, log):
        wait_for("epoch   3/", log, dvc)
        with pytest.raises(RuntimeError, match=f"{dvc.pid} .*dvc exp run"):
            sh(clone, "tools/recover.py")
        stages = psutil.Process(dvc.pid).children(recursive=True)
        for pid in (dvc.pid, *(stage.pid for stage in stages)):
            os.kill(pid, signal.SIGKILL)
        dvc.wait()

    sh(clone, "tools/recover.py")
    sh(clone, "git", "restore", "--staged", "--worktree", ".")
    sh(clone, "dvc", "checkout", "-q")
    assert sh(clone, "git", "rev-parse", "--abbrev-ref", "HEAD") == branch
    assert sh(clone, "git", "status", "--porcelain", "--untracked-files=no") == ""
    assert "unning" not in sh(clone, "dvc", "exp", "show", "--csv")
    assert "Running stage" not in sh(clone, "dvc", "repro")
