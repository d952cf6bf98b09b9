"""The command line of a stage, and its progress bar."""

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def parse_paths(description: str | None, *names: str) -> argparse.Namespace:
    """Parse a stage's command line: each name is a required option `--name PATH`. Only dvc.yaml knows the paths."""
    parser = argparse.ArgumentParser(description=description)
    for name in names:
        parser.add_argument(f"--{name.replace('_', '-')}", type=Path, required=True, metavar="PATH")
    return parser.parse_args()


def progress(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """Yield the items, with a progress bar on a terminal and ten lines elsewhere."""
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=label)
        return
    for done, item in enumerate(items, start=1):
        yield item
        if done * 10 // total > (done - 1) * 10 // total:
            print(f"{label}: {done * 100 // total} %", flush=True)
