"""DVC's experiments, as the studies use them."""

import argparse
import json
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

import torch

from pipeline.errors import UserError
from tools import presets
from tools.clones import PATH
from tools.table import show

T = TypeVar("T")
R = TypeVar("R")


def job_count(text: str) -> int:
    """The value of the option `--jobs`, a whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1")
    return int(text)


# The option `--jobs`, for `ArgumentParser.add_argument`.
JOBS: dict[str, Any] = {
    "type": job_count, "default": 1, "metavar": "N",
    "help": "experiments at once, each with its share of the cores; trainings are not timed then",
}  # fmt: skip


def environment(jobs: int = 1) -> dict[str, str]:
    """Variables for DVC: the stages' `python` is the one of this virtual environment, also if it is not activated.

    Args:
        jobs: experiments that run at the same time. Each gets its share of the threads.
    """
    share = {} if jobs == 1 else {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // jobs))}
    return {**os.environ, "PATH": PATH, **share}


def at_once(run: Callable[[T], R], tasks: Iterable[T], jobs: int) -> Iterator[tuple[T, R]]:
    """Run tasks, some at the same time, and yield each with its result when it ends.

    Raises:
        UserError: the first of a task. No task starts after it; those that run end first, and their results are
            yielded.
    """
    waiting, running = iter(tasks), dict[Future[R], T]()
    failure: UserError | None = None
    with ThreadPoolExecutor(jobs) as pool:
        while True:
            while failure is None and len(running) < jobs and (task := next(waiting, None)) is not None:
                running[pool.submit(run, task)] = task
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task = running.pop(future)
                try:
                    result = future.result()
                except UserError as error:
                    failure = failure or error
                    continue
                yield task, result
    if failure:
        raise failure


def experiments() -> dict[str, dict[str, Any]]:
    """Parameters, metrics and revision of the experiments on the current commit, by name.

    Raises:
        UserError: if DVC cannot list them.
    """
    found: dict[str, dict[str, Any]] = {}
    for commit in json.loads(show()):
        for experiment in commit.get("experiments") or []:
            last = experiment["revs"][-1]
            if last.get("data"):
                found[experiment["name"]] = last["data"] | {"rev": last["rev"]}
    return found


def get(path: str, rev: str, target: Path) -> None:
    """Copy a file of an experiment to `target`, from git or from DVC's cache.

    Raises:
        UserError: if neither has it.
    """
    command = [*presets.DVC, "get", "-q", ".", path, "--rev", rev, "-o", str(target)]
    result = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    if result.returncode:
        raise UserError(
            f"{path} of {rev} is not in DVC's cache: {result.stderr.strip()}; remove the experiment with "
            "`dvc exp remove NAME` and run the study again"
        )


def run(command: list[str], jobs: int = 1, title: str = "") -> str:
    """Run a command, print its output line by line, and return it.

    Args:
        jobs: as in `environment`.
        title: printed before each line, to tell apart what runs at the same time.

    Raises:
        UserError: if the command fails.
    """
    lines: list[str] = []
    with subprocess.Popen(
        command, env=environment(jobs), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout
        for line in process.stdout:
            print(f"{title}{line}", end="", flush=True)
            lines.append(line)
    if process.returncode:
        reason = next((line for line in lines if line.startswith("error: ")), f"exit code {process.returncode}")
        raise UserError(f"{' '.join(command[:8])} ... failed: {reason.strip()}")
    return "".join(lines)
