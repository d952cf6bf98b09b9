"""Where and how the arithmetic runs: device, determinism, paths on the command line, progress."""

import argparse
import math
import os
import platform
import re
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import psutil
import torch
from tqdm import tqdm

from pipeline.errors import UserError

T = TypeVar("T")


def start(name: str, seed: int) -> torch.device:
    """Make this process deterministic and give it its share of the machine; the device to work on, by `device`.

    One of several processes of a stage has its share of the threads from the one that started it (OMP_NUM_THREADS).
    """
    deterministic(seed)
    choose_products()
    chosen, worker = device(name), queue_worker()
    local_rank, siblings = (int(os.environ.get(key, 0)) for key in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    if worker and not siblings:
        # Threads of several processes on the same cores wait for each other: a worker takes its share alone.
        torch.set_num_threads(max(1, torch.get_num_threads() // worker.workers))
    if chosen.type == "cuda" and (worker or siblings):
        before = (worker.number - 1) * max(1, siblings) if worker else 0
        chosen = torch.device("cuda", (before + local_rank) % torch.cuda.device_count())
        torch.cuda.set_device(chosen)  # streams and graphs are made on the current device
    return chosen


class Worker(NamedTuple):
    """One of the workers that `dvc queue start -j WORKERS` started; number is from 1."""

    number: int
    workers: int


def queue_worker() -> Worker | None:
    """The worker that this process belongs to: DVC names its workers dvc-exp-REPOSITORY-NUMBER@localhost."""
    if "DVC_EXP_NAME" not in os.environ:
        return None
    names = [node for process in psutil.Process().parents() if (node := _node(process))]
    if not names:
        return None
    repository, _, number = names[0].rpartition("-")
    siblings = {node for process in psutil.process_iter() if (node := _node(process)).startswith(f"{repository}-")}
    return Worker(int(number), max(1, len(siblings)))


def _node(process: psutil.Process) -> str:
    """The name of the queue worker that a process is, without its host; empty for other processes."""
    try:
        command = process.cmdline()
    except psutil.Error:
        return ""
    named = [word for word in command if re.fullmatch(r"dvc-exp-\w+-\d+@\w+", word)]
    return named[0].partition("@")[0] if "queue-worker" in command and named else ""


def choose_products() -> None:
    """Let oneDNN make the float32 matrix products on the CPU, where it makes them in float32.

    PyTorch's default, MKL, leaves half of the speed of AVX-512 unused on processors that are not Intel's. PyTorch
    hands products to oneDNN only with leave to round their inputs to bfloat16, which oneDNN uses on processors with
    matrix units (AMX) alone. So the leave is given, the error of a product looked at, and the leave withdrawn where
    it is not that of float32: a rule of the processor, not of a clock, so that bytes stay the same.
    """
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 512, generator=generator, dtype=torch.float64) for _ in range(2))
    _onednn().fp32_precision = "bf16"
    error = (a.float() @ b.float().T - a @ b.T).abs().max() / math.sqrt(a.shape[1])
    if error > 1e-4:
        _onednn().fp32_precision = "ieee"


def _onednn() -> Any:
    """PyTorch's settings of oneDNN's matrix products, which its type stubs do not have."""
    return torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]


def environment(device: torch.device) -> list[str]:
    """What may round in its own way: with another processor, thread count or version, bytes may differ."""
    products = "oneDNN" if _onednn().fp32_precision == "bf16" else "default"
    capability, threads = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    where = [f"{_processor()}, {capability}, {products} products, {threads} threads"]
    if device.type == "cuda":
        where.append(f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}")
    if (processes := int(os.environ.get("WORLD_SIZE", 1))) > 1:
        where.append(f"{processes} processes")
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "scipy"))
    python = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    return [*where, python, packages]


def _processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def device(name: str) -> torch.device:
    """The device named by `runtime.device`; `auto` takes cuda where there is one, else the CPU.

    Not mps, Apple's: posterior modes are found in float64, which it has not.

    Raises:
        UserError: when the device asked for is not there.
    """
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise UserError("runtime.device = cuda: this machine has no such device; use cpu or auto")
    return torch.device("cuda" if there and name != "cpu" else "cpu")


def require_memory(needed: int, device: torch.device, remedy: str) -> None:
    """Refuse work that the machine would be brought down by, before it begins.

    Raises:
        UserError: when fewer than `needed` bytes are free.
    """
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if needed > free:
        raise UserError(
            f"there is not enough memory: {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free; try {remedy}"
        )


def deterministic(seed: int) -> None:
    """Seed every global generator, and refuse operations whose result depends on scheduling."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # As torch.use_deterministic_algorithms(True), which first imports the compiler: half of a stage's start.
    torch.set_deterministic_debug_mode("error")
    torch.manual_seed(seed)


def paths(description: str | None, *names: str) -> argparse.Namespace:
    """The stage's command line: each name is a required `--name PATH`. dvc.yaml alone knows the paths."""
    parser = argparse.ArgumentParser(description=description)
    for name in names:
        parser.add_argument(f"--{name.replace('_', '-')}", type=Path, required=True, metavar="PATH")
    return parser.parse_args()


def progress(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """Pass the items on, with a progress bar on a terminal and ten lines elsewhere."""
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=label)
        return
    for done, item in enumerate(items, start=1):
        yield item
        if done * 10 // total > (done - 1) * 10 // total:
            print(f"{label}: {done * 100 // total} %", flush=True)
