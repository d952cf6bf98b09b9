"""Temporary clones of this repository, and commands that run in them."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML

from pipeline.code import ROOT

# The programs of this virtual environment come first, also if it is not activated.
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def environment() -> dict[str, str]:
    """Variables for a command in a clone: it tracks to the clone's own store, and finds the same data mirror."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "MLFLOW_"))}
    if (mirror := variables.get("DATA_MIRROR", "")) and "://" not in mirror:
        variables["DATA_MIRROR"] = str((ROOT / mirror).resolve())
    return variables | {"PATH": PATH}


def sh(folder: Path, *command: str, **variables: str) -> str:
    """Run a command in a folder and return its output.

    Args:
        variables: environment variables to set.

    Raises:
        RuntimeError: with the output, if the command fails.
    """
    result = subprocess.run(
        command, cwd=folder, env=environment() | variables, capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{result.stdout}\n{result.stderr}")
    return result.stdout


def clone(folder: Path) -> None:
    """Make a repository of one commit, with the files here that git has or would add."""
    for name in sh(ROOT, "git", "ls-files", "-co", "--exclude-standard").splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    sh(folder, "git", "init", "-q")
    sh(folder, "git", "config", "user.email", "nobody@example.org")
    sh(folder, "git", "config", "user.name", "Nobody")
    sh(folder, "git", "add", ".")
    sh(folder, "git", "commit", "-q", "-m", "clone")


@contextmanager
def temporary_clone() -> Iterator[Path]:
    """A clone that is deleted at the end of the block."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "project"
        folder.mkdir()
        clone(folder)
        yield folder


def configure(folder: Path, settings: Mapping[str, Mapping[str, Any]]) -> None:
    """Change keys of a folder's params.yaml, given by section."""
    yaml = YAML()
    content = yaml.load(folder / "params.yaml")
    for section, values in settings.items():
        content[section].update(values)
    yaml.dump(content, folder / "params.yaml")


def start_repro(folder: Path, *options: str) -> "subprocess.Popen[bytes]":
    """Start `dvc repro` in a clone, in its own session; it writes to `log` beside the clone."""
    with (folder.parent / "log").open("wb") as log:
        return subprocess.Popen(
            ["dvc", "repro", *options], cwd=folder, env=environment(), stdout=log, stderr=log, start_new_session=True
        )


def stage_processes(folder: Path) -> list[psutil.Process]:
    """Processes of stages that work in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if stage_name(process) and Path(process.cwd()).is_relative_to(folder):
                found.append(process)
        except psutil.Error:
            continue
    return found


def stage_name(process: psutil.Process) -> str:
    """The stage that a process runs; empty for other processes and for one that has ended."""
    try:
        words = [word for word in process.cmdline() if word.startswith("stages.")]
    except psutil.Error:
        return ""
    return words[0].removeprefix("stages.") if words else ""


def remove_results(folder: Path) -> None:
    """Remove all outputs from a clone, and DVC's cache and records of them."""
    for name in ("data", "models", "reports", "dvc.lock", ".dvc/cache", ".dvc/tmp", "mlruns", ".scratch"):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def run_queue(folder: Path, options: Sequence[str], jobs: int, *, stage: str = "report", limit: float = 1800) -> float:
    """Queue experiments and run them; return the seconds that the queue took.

    Args:
        options: of `dvc exp run --queue`; a setting such as `-S model.latent=2,4` makes one experiment for each value.
        jobs: how many run at a time.
        stage: the last stage to run.
        limit: seconds.

    Raises:
        RuntimeError: with the queue's status, if the queue takes longer than the limit.
    """
    sh(folder, "dvc", "exp", "run", "--queue", *options, stage)
    start = time.monotonic()
    sh(folder, "dvc", "queue", "start", "-j", str(jobs))
    while any(word in (status := sh(folder, "dvc", "queue", "status")) for word in ("Running", "Queued")):
        if time.monotonic() - start > limit:
            raise RuntimeError(status)
        time.sleep(1)
    return time.monotonic() - start


def experiments(folder: Path) -> dict[str, str]:
    """State of each experiment in `dvc exp show`, by name."""
    found: dict[str, str] = {}
    for commit in json.loads(sh(folder, "dvc", "exp", "show", "--json")):
        for experiment in commit.get("experiments") or []:
            executor = experiment.get("executor") or {}
            found[experiment["name"]] = executor.get("state") or "success"
    return found


def logged_runs(folder: Path) -> list[tuple[str, str, int]]:
    """Name, status and MLflow experiment of each run in the store of a clone, by name."""
    store = sqlite3.connect(folder / "mlruns/mlflow.db")
    try:
        return sorted(store.execute("select name, status, experiment_id from runs"))
    finally:
        store.close()
