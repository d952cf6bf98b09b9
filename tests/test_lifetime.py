"""A stage as a process: interrupted in order, alone in its workspace, gone when its dvc is gone."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import ROOT

STAGE = """
import sys, time
sys.path.insert(0, {root!r})
from pipeline import lifetime
lifetime.PATIENCE = 1.0

def main():
    print("started", flush=True)
    try:
        for step in range(200):
            with lifetime.deferred():
                time.sleep(0.05)
                end = time.monotonic() + {long}
                while time.monotonic() < end:
                    pass
                print(f"step {{step}}", flush=True)
    finally:
        print("saved", flush=True)

sys.exit(lifetime.run(main))
"""


def stage(folder: Path, *, long: float = 0.0) -> list[str]:
    path = folder / "train.py"
    path.write_text(STAGE.format(root=str(ROOT), long=long), encoding="utf-8")
    return [sys.executable, str(path)]


def begin(command: list[str], folder: Path, **variables: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        command, cwd=folder, env=os.environ | variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout
    assert process.stdout.readline() == "started\n"
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_stage_between_two_steps(tmp_path: Path, number: int, code: int) -> None:
    process = begin(stage(tmp_path, long=0.3), tmp_path)
    time.sleep(0.1)  # in the middle of step 0
    process.send_signal(number)
    output, errors = process.communicate(timeout=20)
    assert output.splitlines() == ["step 0", "saved"]
    assert errors == "interrupted\n"
    assert process.returncode == code
    assert not list((tmp_path / ".scratch").iterdir()) or process.returncode


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    process = begin(stage(tmp_path, long=20.0), tmp_path)
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
    process.communicate(timeout=5)
    assert process.returncode == 143


def test_a_second_stage_in_the_same_folder_waits_and_then_names_the_first(tmp_path: Path) -> None:
    command = stage(tmp_path)
    first = begin(command, tmp_path)
    second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert "stage train runs in this folder already (PID" in second.stderr
    assert "started" not in second.stdout
    first.kill()  # a lock does not outlive its process
    first.communicate()
    third = begin(command, tmp_path)
    third.kill()
    third.communicate()


PARENT = """
import os, subprocess, sys
subprocess.run(sys.argv[1], shell=True, env={**os.environ, "DVC_STAGE": "train"})
"""


@pytest.mark.parametrize("between", ["", "; true"])  # the shell replaced by the stage, or waiting for it
def test_an_orphan_saves_and_stops(tmp_path: Path, between: str) -> None:
    log = tmp_path / "log"
    command = f"{' '.join(stage(tmp_path))} > {log} 2>&1{between}"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, command])
    deadline = time.monotonic() + 30
    while not log.exists() or "step 3" not in log.read_text(encoding="utf-8"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    orphans = psutil.Process(parent.pid).children(recursive=True)
    assert orphans
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(orphans, timeout=5)
    assert not alive
    assert log.read_text(encoding="utf-8").splitlines()[-2:] == ["saved", "interrupted"]


def test_a_stage_whose_dvc_is_gone_before_it_began_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline import lifetime
    from pipeline.errors import UserError

    monkeypatch.setenv("DVC_STAGE", "train")
    first = psutil.Process(1)
    monkeypatch.setattr(psutil.Process, "parents", lambda self: [first])
    monkeypatch.setattr(lifetime, "_is_python", lambda process: False)
    with pytest.raises(UserError, match="has ended; nothing was run"):
        lifetime._end_with_starter()
