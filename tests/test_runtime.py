"""The process's share of the machine: devices, and the workers of DVC's queue."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from pipeline import runtime
from pipeline.errors import UserError


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def ask_as_worker(number: int, siblings: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """What `queue_worker` says in a child of a process that has the command line of DVC's worker, beside others."""
    monkeypatch.setenv("DVC_EXP_NAME", "humble-fish")
    wait = "import sys; sys.stdin.read()"
    others = [
        subprocess.Popen([sys.executable, "-c", wait, "exp", "queue-worker", f"dvc-exp-0a1b2c-{n}@localhost"],
                         stdin=subprocess.PIPE)
        for n in range(1, siblings + 1) if n != number
    ]  # fmt: skip
    ask = "from pipeline.runtime import queue_worker; print(queue_worker())"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {ask!r}], check=True)"
    node = f"dvc-exp-0a1b2c-{number}@localhost"
    try:
        return subprocess.run(
            [sys.executable, "-c", code, "exp", "queue-worker", node], capture_output=True, text=True, check=True
        ).stdout.strip()
    finally:
        for other in others:
            other.communicate()


def test_a_worker_of_the_queue_knows_its_number_and_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask_as_worker(2, 3, monkeypatch) == "Worker(number=2, workers=3)"
    assert ask_as_worker(1, 1, monkeypatch) == "Worker(number=1, workers=1)"


def test_outside_the_queue_there_is_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    assert runtime.queue_worker() is None
    monkeypatch.setenv("DVC_EXP_NAME", "humble-fish")
    assert runtime.queue_worker() is None


def test_workers_share_cores_and_take_turns_at_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert runtime.start("cpu", 0) == torch.device("cpu")
    assert torch.get_num_threads() == 4
    monkeypatch.setattr(runtime, "queue_worker", lambda: runtime.Worker(3, 2))
    runtime.start("cpu", 0)
    assert torch.get_num_threads() == 2
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert runtime.start("cuda", 0) == torch.device("cuda", 0)
    monkeypatch.setattr(runtime, "queue_worker", lambda: runtime.Worker(2, 2))
    assert runtime.start("auto", 0) == torch.device("cuda", 1)
    assert current == [torch.device("cuda", 0), torch.device("cuda", 1)]


def test_a_device_that_is_not_there_is_named_with_those_that_are() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match=r"runtime\.device = cuda: this machine has no such device; use cpu"):
        runtime.device("cuda")


def test_float32_products_are_rounded_as_float32(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on processors whose oneDNN would use bfloat16: there the leave to do so is withdrawn."""
    products = torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]
    before = products.fp32_precision
    try:
        runtime.choose_products()
        a, b = (torch.randn(300, 784, generator=generator, dtype=torch.float64) for _ in range(2))
        assert float((a.float() @ b.float().T - a @ b.T).abs().max()) < 1e-3
        monkeypatch.setattr(torch.Tensor, "float", lambda tensor: tensor.bfloat16().double())
        runtime.choose_products()
        assert products.fp32_precision == "ieee"
    finally:
        products.fp32_precision = before
