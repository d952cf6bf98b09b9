"""Several processes for one stage: the same numbers, one voice, and an end in order however it comes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file
from test_contract import command

from pipeline.ranks import ALONE, Ranks
from stages import download

Params = Callable[..., Path]

# Any stage may break: a sitecustomize.py in the current folder is run by every Python process started there.
BREAK = """
import os, sys
sys.path.insert(0, {root!r})
if os.environ.get("RANK") == "1":
    import pipeline.training
    from pipeline.errors import UserError

    def step(training):
        {action}

    pipeline.training._Training.take_step = step
"""
MINUTES = {"train__epochs": 3000, "recovery__save_every": 0.05}


def stage(name: str) -> subprocess.Popen[str]:
    # One thread in each, so that what differs is the processes alone.
    environment = os.environ | {"PYTHONPATH": f"{Path.cwd()}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", f"stages.{name}", *command(name)[3:]],
        env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def run(name: str, code: int = 0) -> tuple[str, str]:
    process = stage(name)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    return output, errors


def saved(process: subprocess.Popen[str]) -> subprocess.Popen[str]:
    """The training, as soon as it has saved a state."""
    deadline = time.monotonic() + 60
    while not list(Path(".scratch").glob("train-*/state-*")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    return process


@pytest.fixture
def digits(small_params: Params, monkeypatch: pytest.MonkeyPatch) -> Params:
    small_params()
    monkeypatch.setattr(sys, "argv", ["download", *command("download")[3:]])
    download.main()
    return small_params


@pytest.fixture
def training(digits: Params) -> Iterator[subprocess.Popen[str]]:
    """A training by two processes that has saved a state."""
    digits(runtime__processes=2, **MINUTES)
    process = saved(stage("train"))
    yield process
    if process.poll() is None:
        process.kill()
        process.communicate()


def alive(started: list[psutil.Process], within: float) -> list[psutil.Process]:
    return psutil.wait_procs(started, timeout=within)[1]


@pytest.mark.parametrize(("items", "size"), [(10, 3), (1, 2), (0, 2), (8, 4)])
def test_shares_are_all_the_items_in_order(items: int, size: int) -> None:
    numbers = list(range(items))
    shares = [numbers[Ranks(rank, size).share(items)] for rank in range(size)]
    assert list(chain.from_iterable(shares)) == numbers
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert sorted(chain.from_iterable(Ranks(rank, size).dealt(numbers) for rank in range(size))) == numbers


def test_one_process_has_nothing_to_put_together() -> None:
    values = {"a": torch.arange(3)}
    assert ALONE.gather(values) == [values]
    assert ALONE.broadcast(None) is None
    assert ALONE.share(5) == slice(0, 5)


def test_what_is_sent_arrives(tmp_path: Path) -> None:
    """By torchrun's own environment variables, as when several machines are joined by hand."""
    code = """
import torch
from pipeline.ranks import joined

with joined(torch.device("cpu")) as ranks:
    assert ranks.size == 2
    parts = ranks.gather({"mine": torch.full((ranks.rank + 1,), ranks.rank)} if ranks.rank else {})
    assert parts[0] == {} and parts[1]["mine"].tolist() == [1, 1]
    state = ({"w": torch.tensor([1.5, float("nan")])}, {"epoch": 3, "totals": [0.1]})
    tensors, numbers = ranks.broadcast(state if ranks.rank == 0 else None)
    assert torch.equal(tensors["w"].isnan(), torch.tensor([False, True])) and numbers == state[1]
    assert ranks.broadcast(None) is None
    values = torch.tensor([1.0, 2.0])
    ranks.sum_(values)
    assert values.tolist() == [2.0, 4.0]
    print("well", flush=True)
"""
    path = tmp_path / "joined.py"
    path.write_text(code, encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(path)],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["well"]


def test_two_processes_train_and_measure_as_one_does(digits: Params) -> None:
    """And write all of it: what differs is rounding, and the environment that is named."""
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
    assert not list(Path(".scratch").iterdir())


def test_fewer_images_than_processes(digits: Params) -> None:
    """A process without an image of the last step, of the validation or of the test images waits for the others."""
    digits(
        runtime__processes=2, evaluate__images=1 + 1, evaluate__comparison=1, train__batch_size=1292, train__epochs=1
    )
    run("train")  # 1437 images, 144 held out: a step of 1292 images and one of 1
    assert not run("evaluate")[1]
    assert len(pd.read_parquet("reports/images.parquet")) == 2


def test_killed_it_leaves_no_process_and_goes_on_to_the_same_bytes(digits: Params) -> None:
    digits(runtime__processes=2, train__epochs=60, recovery__save_every=0.05)
    run("train")
    undisturbed = Path("models/vae.safetensors").read_bytes()
    Path("models/vae.safetensors").unlink()
    process = saved(stage("train"))
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) == 2
    process.kill()
    process.communicate()
    assert not alive(workers, within=20)
    assert not Path("models/vae.safetensors").exists()
    output, errors = run("train")
    assert "going on from the state" in output
    assert errors == ""
    assert Path("models/vae.safetensors").read_bytes() == undisturbed


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_all_of_them_in_order(training: subprocess.Popen[str], number: int, code: int) -> None:
    workers = psutil.Process(training.pid).children(recursive=True)
    training.send_signal(number)
    _, errors = training.communicate(timeout=20)
    assert errors == "interrupted\n"
    assert training.returncode == code
    assert not alive(workers, within=1)
    assert not Path("models").exists()


def test_a_signal_to_one_of_them_stops_all_together(training: subprocess.Popen[str]) -> None:
    """None is left waiting for a step that the other one does not take."""
    workers = psutil.Process(training.pid).children(recursive=True)
    next(worker for worker in workers if worker.environ()["RANK"] == "1").terminate()
    _, errors = training.communicate(timeout=20)
    assert errors == "interrupted\n"
    assert training.returncode == 143
    assert not alive(workers, within=1)
    assert list(Path(".scratch").glob("train-*/state-*"))


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_others_and_is_named(training: subprocess.Popen[str], victim: int) -> None:
    workers = psutil.Process(training.pid).children(recursive=True)
    chosen = next(worker for worker in workers if worker.environ()["RANK"] == str(victim))
    chosen.kill()
    _, errors = training.communicate(timeout=40)
    assert errors == f"error: process {victim} of this stage was ended by SIGKILL\n"
    assert training.returncode == 128 + signal.SIGKILL
    assert not alive(workers, within=1)
    assert list(Path(".scratch").glob("train-*/state-*"))


@pytest.mark.parametrize(
    ("action", "code", "end"),
    [
        ('raise UserError("no such luck")', 1, "error: no such luck\n"),
        ("raise ZeroDivisionError", 1, "ZeroDivisionError\n"),
        ("os._exit(7)", 7, "error: process 1 of this stage ended with code 7\n"),
    ],
)
def test_what_one_of_them_fails_of_is_told_once(digits: Params, action: str, code: int, end: str) -> None:
    digits(runtime__processes=2)
    Path("sitecustomize.py").write_text(BREAK.format(root=str(ROOT), action=action), encoding="utf-8")
    _, errors = run("train", code)
    assert errors.endswith(end)
    assert errors.count("Traceback") == ("Zero" in action)
    assert "lost each other" not in errors


def test_what_all_of_them_fail_of_is_told_once(digits: Params) -> None:
    digits(runtime__processes=2, model__sigma=1e-30)
    _, errors = run("train", 1)
    assert errors.startswith("error: epoch 1, step 1 of")
    assert errors.count("\n") == 1


def test_a_mistake_is_told_once_before_anything_starts(digits: Params) -> None:
    digits(runtime__processes=0)
    _, errors = run("train", 2)
    assert errors.count("runtime.processes = 0: ") == 1
    digits(runtime__processes=2)
    Path("data/images.safetensors").unlink()
    for name in ("train", "evaluate"):
        _, errors = run(name, 1)
        assert errors.count("error:") == 1
        assert "is missing" in errors
