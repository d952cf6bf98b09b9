"""Devices, matrix multiplications, and the share of the machine that a process uses."""

import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from pipeline.errors import UserError
from pipeline.process import device
from pipeline.process.device import choose_device, environment, require_memory, set_up, use_onednn_matmul
from pipeline.process.dvc_queue import QueueWorker

CPU = torch.device("cpu")


def test_queue_workers_share_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(4)
    assert set_up("cpu", 0) == CPU
    assert torch.get_num_threads() == 4
    monkeypatch.setattr(device, "queue_worker", lambda: QueueWorker(3, 2))
    set_up("cpu", 0)
    assert torch.get_num_threads() == 2


def test_workers_take_turns_at_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(device, "queue_worker", lambda: QueueWorker(3, 2))
    assert set_up("cuda", 0) == torch.device("cuda", 0)
    monkeypatch.setattr(device, "queue_worker", lambda: QueueWorker(2, 2))
    assert set_up("auto", 0) == torch.device("cuda", 1)
    monkeypatch.setattr(device, "queue_worker", lambda: None)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert set_up("auto", 0) == torch.device("cuda", 1)
    assert current == [torch.device("cuda", number) for number in (0, 1, 1)]


def test_the_seed_fixes_the_global_generator() -> None:
    draws = []
    for seed in (0, 0, 1):
        set_up("cpu", seed)
        draws.append(torch.rand(3).tolist())
    assert draws[0] == draws[1] != draws[2]


def test_new_memory_is_not_filled() -> None:
    set_up("cpu", 0)
    assert torch.get_deterministic_debug_mode() == 2
    assert not torch.empty(10**6).isnan().all()


def test_a_missing_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == CPU
    with pytest.raises(UserError, match=r"runtime\.device = cuda: this machine has no such device; use cpu"):
        choose_device("cuda")


def test_work_that_does_not_fit_into_memory_is_refused() -> None:
    require_memory(1000, CPU, "a smaller model")
    with pytest.raises(UserError, match=r"not enough memory: 1000000\.0 GB needed, .* GB free; try a smaller model"):
        require_memory(10**15, CPU, "a smaller model")


def test_workers_share_the_memory_of_the_machine_but_not_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.psutil, "virtual_memory", lambda: SimpleNamespace(available=10**9))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10**9, 10**9))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    require_memory(250_000_000, CPU, "")
    require_memory(10**9, torch.device("cuda", 0), "")
    with pytest.raises(UserError, match=r"2\.0 GB needed, 1\.0 GB free"):
        require_memory(500_000_000, CPU, "")


def test_float32_matmuls_have_the_precision_of_float32(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On processors whose oneDNN would use bfloat16 too: there it is not used."""
    use_onednn_matmul()
    a, b = (torch.randn(300, 784, generator=generator, dtype=torch.float64) for _ in range(2))
    assert float((a.float() @ b.float().T - a @ b.T).abs().max()) < 1e-3
    monkeypatch.setattr(torch.Tensor, "float", lambda tensor: tensor.bfloat16().double())
    use_onednn_matmul()
    assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"  # pyright: ignore[reportAttributeAccessIssue]
    assert "default matmul" in environment(CPU)[0]


def test_the_environment_names_what_can_change_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(3)
    assert ", 3 threads" in environment(CPU)[0]
    assert environment(CPU)[-1].startswith(f"torch {torch.__version__.partition('+')[0]}")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "2 processes" in environment(CPU)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an option of glibc")
@pytest.mark.parametrize("call", ["", "keep_freed_memory()"])
def test_freed_memory_is_used_again(call: str) -> None:
    code = (
        "import torch\n"
        "from resource import RUSAGE_SELF, getrusage\n"
        "from pipeline.process.device import keep_freed_memory\n"
        f"{call}\n"
        "for repeat in range(20):\n"
        "    if repeat == 10:\n        before = getrusage(RUSAGE_SELF).ru_minflt\n"
        "    torch.ones(12 * 2**20)\n"  # 48 MB
        "print(getrusage(RUSAGE_SELF).ru_minflt - before)\n"
    )
    faults = int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    assert (faults < 100) == bool(call)  # new memory has a fault for each page, or for each huge page of 2 MB
