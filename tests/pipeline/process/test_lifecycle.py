"""Process lifecycle of a stage: clean shutdown on signals, one per workspace, exit when its dvc ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline.errors import UserError
from pipeline.process import lifecycle
from tests.support import ROOT

STAGE = """
import sys, time
sys.path.insert(0, {root!r})
from pipeline.process import lifecycle
lifecycle.LOCK_TIMEOUT = 2.0

def main():
    print("started", flush=True)
    try:
        for step in range(200):
            with lifecycle.defer_interrupts():
                time.sleep(0.05)
                end = time.monotonic() + {busy}
                while time.monotonic() < end:
                    pass
                print(f"step {{step}}", flush=True)
    finally:
        print("saved", flush=True)

sys.exit(lifecycle.run_stage(main))
"""


def stage(folder: Path, *, busy: float = 0.0) -> list[str]:
    """The command of a stage whose steps take 0.05 s and `busy` seconds more."""
    path = folder / "train.py"
    path.write_text(STAGE.format(root=str(ROOT), busy=busy), encoding="utf-8")
    return [sys.executable, str(path)]


def start(command: list[str], folder: Path, first_line: str = "started") -> subprocess.Popen[str]:
    process = subprocess.Popen(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline().startswith(first_line)
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_a_stage_after_the_current_step(tmp_path: Path, number: int, code: int) -> None:
    process = start(stage(tmp_path, busy=0.3), tmp_path)
    time.sleep(0.1)  # in the middle of step 0
    process.send_signal(number)
    output, errors = process.communicate(timeout=20)
    assert output.splitlines() == ["step 0", "saved"]
    assert errors == "interrupted\n"
    assert process.returncode == code
    assert [path.name for path in (tmp_path / ".scratch").iterdir()] == ["train.lock"]  # left for those who wait for it


def test_a_second_signal_stops_it_at_once(tmp_path: Path) -> None:
    process = start(stage(tmp_path, busy=20.0), tmp_path)
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
    output, _ = process.communicate(timeout=5)
    assert output == ""
    assert process.returncode == 143


def test_only_one_stage_runs_in_a_folder(tmp_path: Path) -> None:
    command = stage(tmp_path)
    first = start(command, tmp_path)
    second = start(command, tmp_path, first_line="stage train is already running in this folder (PID")
    first.terminate()
    first.communicate()
    assert second.stdout
    assert second.stdout.readline() == "started\n"

    third = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert third.returncode == 1
    assert "stage train is already running in this folder (PID" in third.stderr
    assert "started" not in third.stdout

    second.kill()  # a killed process holds no lock
    second.communicate()
    fourth = start(command, tmp_path)
    fourth.kill()
    fourth.communicate()


DVC = """
import os, subprocess, sys
subprocess.run(sys.argv[1], shell=True, env={**os.environ, "DVC_STAGE": "train"})
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "outer"),
    [
        pytest.param("", {}, id="no shell between"),
        pytest.param("; true", {}, id="shell between"),
        pytest.param("", {"DVC_STAGE": "vae"}, id="inside a stage of another project"),
    ],
)
def test_an_orphan_saves_and_stops(tmp_path: Path, suffix: str, outer: dict[str, str]) -> None:
    log = tmp_path / "log"
    command = f"{' '.join(stage(tmp_path))} > {log} 2>&1{suffix}"
    dvc = subprocess.Popen([sys.executable, "-c", DVC, command], env=os.environ | outer)
    deadline = time.monotonic() + 30
    while not log.exists() or "step 3" not in log.read_text(encoding="utf-8"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    orphans = psutil.Process(dvc.pid).children(recursive=True)
    assert orphans
    dvc.kill()
    dvc.wait()
    _, alive = psutil.wait_procs(orphans, timeout=5)
    assert not alive
    assert log.read_text(encoding="utf-8").splitlines()[-2:] == ["saved", "interrupted"]


def test_a_stage_does_not_run_if_its_dvc_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_STAGE", "train")
    first = psutil.Process(1)
    monkeypatch.setattr(psutil.Process, "parents", lambda self: [first])
    monkeypatch.setattr(lifecycle, "_is_python", lambda process: False)
    with pytest.raises(UserError, match="the dvc that started this stage has ended"):
        lifecycle.exit_with_parent()


def test_the_outermost_block_delays_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "_interrupted", 0)  # also restores it
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt) as caught:
        with lifecycle.defer_interrupts():
            with lifecycle.defer_interrupts():
                lifecycle._handle(signal.SIGTERM, None)
                done.append("inner")
            assert lifecycle.pending_interrupt() == signal.SIGTERM
            done.append("outer")
        done.append("after")
    assert caught.value.args == (signal.SIGTERM,)
    assert done == ["inner", "outer"]


def test_an_interrupt_replaces_an_error_of_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error may be its consequence: another process, interrupted too, has closed a connection."""
    monkeypatch.setattr(lifecycle, "_interrupted", 0)
    with pytest.raises(KeyboardInterrupt), lifecycle.defer_interrupts():
        lifecycle._handle(signal.SIGINT, None)
        raise UserError("connection lost")
    monkeypatch.setattr(lifecycle, "_interrupted", 0)
    with pytest.raises(KeyboardInterrupt):
        lifecycle._handle(signal.SIGINT, None)  # outside a block it takes effect at once


def test_a_worker_ignores_further_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is saving its work. If it takes too long, the launcher kills it."""
    exits: list[int] = []
    monkeypatch.setattr(os, "_exit", exits.append)
    monkeypatch.setattr(lifecycle, "_interrupted", 0)
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(KeyboardInterrupt):
        lifecycle.raise_interrupt(signal.SIGTERM)
    lifecycle._handle(signal.SIGTERM, None)
    assert exits == []
    monkeypatch.delenv("RANK")
    lifecycle._handle(signal.SIGTERM, None)
    assert exits == [143]
