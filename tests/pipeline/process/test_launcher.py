"""Several processes for one stage: the same numbers, one error message, and no process is left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pandas as pd
import psutil
import pytest
import torch
from safetensors.torch import load_file

from pipeline.errors import UserError
from pipeline.process import launcher
from pipeline.process.distributed import PeerLostError
from stages import evaluate, train
from tests.support import ROOT, command, run_stage

Params = Callable[..., Path]

# Makes rank 1 of a training fail: every Python process runs a sitecustomize.py of the current folder when it starts.
BREAK = """
import os, sys
sys.path.insert(0, {root!r})
if os.environ.get("RANK") == "1":
    from pipeline.errors import UserError
    from pipeline.training.trainer import Trainer

    def step(trainer):
        {action}

    Trainer.step = step
"""
MINUTES = {"train__epochs": 3000, "recovery__save_every": 0.05}


def start(name: str) -> subprocess.Popen[str]:
    """Start a stage. Each process has one thread, so that only the number of processes differs."""
    environment = os.environ | {"PYTHONPATH": f"{Path.cwd()}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", f"stages.{name}", *command(name)[3:]],
        env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def run(name: str, code: int = 0) -> tuple[str, str]:
    """Run a stage; return what it printed."""
    process = start(name)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    return output, errors


def wait_for_state(process: subprocess.Popen[str]) -> subprocess.Popen[str]:
    """Return the training as soon as it has saved a state."""
    deadline = time.monotonic() + 60
    while not list(Path(".scratch").glob("train-*/state-*")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    return process


@pytest.fixture
def digits(small_params: Params) -> Params:
    small_params()
    assert run_stage("download") == 0
    return small_params


@pytest.fixture
def training(digits: Params) -> Iterator[subprocess.Popen[str]]:
    """A training by two processes that has saved a state."""
    digits(runtime__processes=2, **MINUTES)
    process = wait_for_state(start("train"))
    yield process
    if process.poll() is None:
        process.kill()
        process.communicate()


def workers_of(process: subprocess.Popen[str]) -> dict[int, psutil.Process]:
    """The workers by rank."""
    children = psutil.Process(process.pid).children(recursive=True)
    return {int(child.environ()["RANK"]): child for child in children}


def alive(workers: dict[int, psutil.Process], within: float) -> list[psutil.Process]:
    return psutil.wait_procs(list(workers.values()), timeout=within)[1]


@pytest.mark.slow
def test_two_processes_give_the_results_of_one(digits: Params) -> None:
    """Up to rounding; and the metrics file names the number of processes."""
    run("train")
    run("evaluate")
    tables = [pd.read_csv("reports/metrics/history.csv"), pd.read_parquet("reports/images.parquet")]
    weights = load_file("models/vae.safetensors")

    digits(runtime__processes=2)
    output, errors = run("evaluate")  # of the same model
    assert errors == ""
    assert output.count("nats per image") == 1
    pd.testing.assert_frame_equal(pd.read_parquet("reports/images.parquet"), tables[1], rtol=1e-6, atol=1e-5)

    output, errors = run("train")
    assert errors == ""
    assert [line.split()[1] for line in output.splitlines() if line.startswith("epoch")] == ["1/2", "2/2"]
    assert "2 processes" in Path("reports/metrics/train.json").read_text(encoding="utf-8")
    pd.testing.assert_frame_equal(pd.read_csv("reports/metrics/history.csv"), tables[0], rtol=1e-4)
    for name, value in load_file("models/vae.safetensors").items():
        torch.testing.assert_close(value, weights[name], rtol=0, atol=1e-4)
    assert {path.suffix for path in Path(".scratch").iterdir()} == {".lock"}


@pytest.mark.slow
def test_there_may_be_fewer_images_than_processes(digits: Params) -> None:
    """A process without an image of a step, of the validation or of the test images waits for the others."""
    digits(runtime__processes=2, evaluate__images=2, evaluate__comparison=1, train__batch_size=1292, train__epochs=1)
    run("train")  # 1437 images, 144 held out: a step of 1292 images and one of 1
    assert not run("evaluate")[1]
    assert len(pd.read_parquet("reports/images.parquet")) == 2


@pytest.mark.slow
def test_a_killed_launcher_leaves_no_worker_and_the_next_run_gives_the_same_bytes(digits: Params) -> None:
    digits(runtime__processes=2, train__epochs=20, recovery__save_every=0.05)
    run("train")
    undisturbed = Path("models/vae.safetensors").read_bytes()
    Path("models/vae.safetensors").unlink()
    process = wait_for_state(start("train"))
    workers = workers_of(process)
    assert len(workers) == 2
    process.kill()
    process.communicate()
    assert not alive(workers, within=20)
    assert not Path("models/vae.safetensors").exists()
    output, errors = run("train")
    assert "resuming from the state" in output
    assert errors == ""
    assert Path("models/vae.safetensors").read_bytes() == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_all_processes(training: subprocess.Popen[str], number: int, code: int) -> None:
    workers = workers_of(training)
    training.send_signal(number)
    _, errors = training.communicate(timeout=20)
    assert errors == "interrupted\n"
    assert training.returncode == code
    assert not alive(workers, within=1)
    assert not Path("models").exists()


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_process_stops_all_after_the_same_step(training: subprocess.Popen[str], rank: int) -> None:
    workers = workers_of(training)
    workers[rank].terminate()
    _, errors = training.communicate(timeout=20)
    assert errors == "interrupted\n"
    assert training.returncode == 143
    assert not alive(workers, within=1)
    assert list(Path(".scratch").glob("train-*/state-*"))


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_others_and_is_reported(training: subprocess.Popen[str], rank: int) -> None:
    workers = workers_of(training)
    workers[rank].kill()
    _, errors = training.communicate(timeout=40)
    assert errors == f"error: process {rank} of this stage was ended by SIGKILL\n"
    assert training.returncode == 128 + signal.SIGKILL
    assert not alive(workers, within=1)
    assert list(Path(".scratch").glob("train-*/state-*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("action", "code", "end"),
    [
        ('raise UserError("no such luck")', 1, "error: no such luck\n"),
        ("raise ZeroDivisionError", 1, "ZeroDivisionError\n"),
        ("os._exit(7)", 7, "error: process 1 of this stage ended with code 7\n"),
    ],
)
def test_an_error_of_one_process_is_reported_once(digits: Params, action: str, code: int, end: str) -> None:
    digits(runtime__processes=2)
    Path("sitecustomize.py").write_text(BREAK.format(root=str(ROOT), action=action), encoding="utf-8")
    _, errors = run("train", code)
    assert errors.endswith(end)
    assert errors.count("Traceback") == ("Zero" in action)
    assert "lost the connection" not in errors


@pytest.mark.slow
def test_an_error_of_all_processes_is_reported_once(digits: Params) -> None:
    digits(runtime__processes=2, model__sigma=1e-30)
    _, errors = run("train", 3)
    assert errors.startswith("error: epoch 1, step 1 of")
    assert errors.count("\n") == 1


@pytest.mark.slow
def test_a_mistake_is_reported_once_before_a_worker_starts(digits: Params) -> None:
    digits(runtime__processes=0)
    _, errors = run("train", 2)
    assert errors.count("runtime.processes = 0: ") == 1
    digits(runtime__processes=2)
    Path("data/images.safetensors").unlink()
    for name in ("train", "evaluate"):
        _, errors = run(name, 1)
        assert errors.count("error:") == 1
        assert "is missing" in errors


def test_one_process_is_not_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not launcher.launch(1, torch.device("cpu"))
    monkeypatch.setenv("RANK", "0")
    assert not launcher.launch(2, torch.device("cpu"))


@pytest.mark.parametrize("stage", [evaluate, train])
def test_the_launcher_puts_nothing_on_a_gpu(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, stage: ModuleType
) -> None:
    monkeypatch.setattr(stage, "set_up", lambda *_: torch.device("cuda", 99))  # on any machine its use is an error
    monkeypatch.setattr(stage, "launch", lambda *_: True)
    assert run_stage(stage.__name__.removeprefix("stages.")) == 0


def test_each_process_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=r"the machine has 1; use runtime\.processes = 1, or runtime\.device = cpu"):
        launcher.launch(2, torch.device("cuda"))


LOST = PeerLostError.exit_code


@pytest.mark.parametrize(
    ("codes", "reports", "message", "code"),
    [
        pytest.param({1: 1, 0: LOST}, {1: "error: a", 0: "error: lost"}, "error: a", 1, id="the first"),
        pytest.param({0: LOST, 1: 1}, {1: "error: a", 0: "error: lost"}, "error: a", 1, id="the cause"),
        pytest.param({0: 0, 2: 2, 1: 1}, {1: "error: b", 2: "error: a"}, "error: a", 2, id="the first of two causes"),
        pytest.param({1: 143, 0: 143}, {1: "interrupted", 0: "interrupted"}, "interrupted", 143, id="a signal"),
        pytest.param({0: -15, 1: -9}, {}, "error: process 1 of this stage was ended by SIGKILL", 137, id="a kill"),
        pytest.param(
            {1: 7, 0: LOST}, {0: "error: lost"}, "error: process 1 of this stage ended with code 7", 7, id="a code"
        ),
        pytest.param({0: LOST, 1: 143}, {0: "error: lost", 1: "interrupted"}, "error: lost", LOST, id="only symptoms"),
    ],
)
def test_the_cause_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
    codes: dict[int, int], reports: dict[int, str], message: str, code: int,
) -> None:  # fmt: skip
    for rank, report in reports.items():
        (tmp_path / str(rank)).write_text(report, encoding="utf-8")
    with pytest.raises(SystemExit) as caught:
        launcher._fail(codes, tmp_path)
    assert capsys.readouterr().err == f"{message}\n"
    assert caught.value.code == code


STUBBORN = """
import signal, sys, time
signal.signal(signal.SIGTERM, {handler})
print("ready", flush=True)
time.sleep(60)
"""


def test_workers_that_do_not_end_are_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "TERMINATION", 0.5)
    codes: dict[int, int] = {}
    scripts = [
        "raise SystemExit(3)",
        *(STUBBORN.format(handler=handler) for handler in ("lambda *_: sys.exit(4)", "signal.SIG_IGN")),
    ]
    workers = [subprocess.Popen([sys.executable, "-S", "-c", script], stdout=subprocess.PIPE) for script in scripts]
    while not codes:
        launcher._poll(workers, codes)
    for worker in workers[1:]:
        assert worker.stdout
        assert worker.stdout.readline() == b"ready\n"
    launcher._end(workers, codes, signal.SIGTERM)
    assert codes == {0: 3, 1: 4}
    assert workers[2].returncode == -signal.SIGKILL
    for worker in workers:
        worker.communicate()
