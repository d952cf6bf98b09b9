"""Where and how the arithmetic runs: device, determinism, threads, matrix multiplications."""

import ctypes
import math
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

from pipeline.errors import UserError
from pipeline.process.dvc_queue import queue_worker

KEPT = 2**26  # more would be kept in vain: glibc reuses only a part of what it keeps
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt


def set_up(name: str, seed: int) -> torch.device:
    """Make this process deterministic, limit it to its share of the machine, and return its device.

    The workers of a DVC queue share the threads and take turns at the GPUs. A worker of a stage gets its threads from
    the launcher, in OMP_NUM_THREADS.

    Args:
        name: `runtime.device`, see `choose_device`.
    """
    make_deterministic(seed)
    use_onednn_matmul()
    keep_freed_memory()
    device, worker = choose_device(name), queue_worker()
    local_rank, local_size = (int(os.environ.get(key, 0)) for key in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    if worker and not local_size:
        # Threads of several processes on the same cores wait for each other.
        torch.set_num_threads(max(1, torch.get_num_threads() // worker.workers))
    if device.type == "cuda" and (worker or local_size):
        first = (worker.number - 1) * max(1, local_size) if worker else 0
        device = torch.device("cuda", (first + local_rank) % torch.cuda.device_count())
        torch.cuda.set_device(device)  # streams and graphs are created on the current device
    return device


def choose_device(name: str) -> torch.device:
    """The device for `runtime.device`; `auto` is cuda if available, else cpu.

    Apple's mps is not supported: posterior modes need float64, which it lacks.

    Raises:
        UserError: if the device is not available.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UserError("runtime.device = cuda: this machine has no such device; use cpu or auto")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def make_deterministic(seed: int) -> None:
    """Seed the global generators, and make PyTorch raise an error for nondeterministic operations."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Like torch.use_deterministic_algorithms(True), which imports the compiler first: half of a stage's start-up time.
    torch.set_deterministic_debug_mode("error")
    # In this mode PyTorch fills new memory with NaN, which shows reads of memory that nothing was written to. The tests
    # keep that; here it would only cost time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    torch.manual_seed(seed)


def use_onednn_matmul() -> None:
    """Use oneDNN for float32 matmuls on the CPU, if it computes them in float32.

    PyTorch's default, MKL, reaches half the speed of AVX-512 on processors that are not Intel's. PyTorch uses oneDNN
    only if bfloat16 is allowed. On processors without matrix units (AMX) oneDNN computes in float32 all the same. So:
    allow bfloat16, measure one matmul, and disallow it if the error is bfloat16's. The choice depends on the processor
    and not on a timing, so results stay the same to the bit.
    """
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 512, generator=generator, dtype=torch.float64) for _ in range(2))
    _onednn_matmul().fp32_precision = "bf16"
    error = (a.float() @ b.float().T - a @ b.T).abs().max() / math.sqrt(a.shape[1])
    if error > 1e-4:
        _onednn_matmul().fp32_precision = "ieee"


def keep_freed_memory() -> None:
    """Let glibc, where it is the C library, keep freed memory for the next tensors of at most `KEPT` bytes.

    By default it returns large tensors to the system, which then clears each page of the next one. That is a fifth of
    the time of a training step with many samples.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, KEPT)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _onednn_matmul() -> Any:
    """PyTorch's settings of oneDNN's matmuls, which its type stubs lack."""
    return torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]


def environment(device: torch.device) -> list[str]:
    """What can change rounding: processor, matmul library, threads, processes, versions."""
    library = "oneDNN" if _onednn_matmul().fp32_precision == "bf16" else "default"
    capability, threads = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    hardware = [f"{_processor()}, {capability}, {library} matmul, {threads} threads"]
    if device.type == "cuda":
        hardware.append(f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}")
    if (processes := int(os.environ.get("WORLD_SIZE", 1))) > 1:
        hardware.append(f"{processes} processes")
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "scipy"))
    python = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    return [*hardware, python, packages]


def _processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def require_memory(needed: int, device: torch.device, remedy: str) -> None:
    """Refuse work that does not fit into memory before it starts.

    Args:
        needed: bytes, of each process. The workers on one machine share its memory, but each has its own GPU.

    Raises:
        UserError: if fewer bytes are free.
    """
    if device.type == "cpu":
        needed *= int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if needed > free:
        raise UserError(f"not enough memory: {needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free; try {remedy}")
