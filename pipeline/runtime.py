"""Where and how the arithmetic runs: device, determinism, paths on the command line, progress."""

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import torch
from tqdm import tqdm

from pipeline.errors import UserError

T = TypeVar("T")


def device(name: str) -> torch.device:
    """The device named by `runtime.device`; `auto` takes cuda, else mps, else the CPU.

    Raises:
        UserError: when the device asked for is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(candidate for candidate, available in there.items() if available)
    if not there[name]:
        available = ", ".join(n for n, is_there in there.items() if is_there)
        raise UserError(f"runtime.device = {name}: this machine has no such device; it has: {available} (or use auto)")
    return torch.device(name)


def deterministic(seed: int) -> None:
    """Seed every global generator, and refuse operations whose result depends on scheduling."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
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
