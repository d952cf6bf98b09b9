"""`python -m benchmarks.queue`: experiments in DVC's queue, one after the other and two at a time, on a fresh clone.

Each round queues the same experiments in a clone of its own with a store of its own, and requires that all succeed,
each with one finished run of its own name in one MLflow experiment. Ends with one JSON line.
"""

import argparse
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

# Small, but long enough that the arithmetic counts and not the start of Python.
SMALL = {
    "data.name": "digits", "model.encoder": "[256,256]", "model.decoder": "[256,256]", "train.epochs": "100",
    "train.batch_size": "64", "evaluate.prior_samples": "1000", "evaluate.comparison": "50", "verify.images": "20",
    "verify.curve_images": "4", "verify.gap_steps": "30", "compare.images": "50",
}  # fmt: skip


def sh(folder: Path, *command: str) -> str:
    """What a command says in a folder.

    Raises:
        RuntimeError: with its output, when it fails.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        command, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{result.stdout}\n{result.stderr}")
    return result.stdout


def settle() -> None:
    """What runs in a clone finds the mirror that is named from here, and tracks into a store of its own."""
    if mirror := os.environ.get("DATA_MIRROR"):
        os.environ["DATA_MIRROR"] = mirror if "://" in mirror else str((ROOT / mirror).resolve())
    os.environ.pop("MLFLOW_TRACKING_URI", None)


def clone(folder: Path) -> None:
    """A repository of one commit with the files that git has or would add here."""
    for name in sh(ROOT, "git", "ls-files", "-co", "--exclude-standard").splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    sh(folder, "git", "init", "-q")
    sh(folder, "git", "config", "user.email", "nobody@example.org")
    sh(folder, "git", "config", "user.name", "Nobody")
    sh(folder, "git", "add", ".")
    sh(folder, "git", "commit", "-q", "-m", "clone")


def run_queue(
    folder: Path, grid: str, settings: dict[str, str], jobs: int, *, last: str = "report", limit: float = 1800
) -> float:
    """Queue an experiment for each value of the grid and run them up to a stage; seconds until all are done."""
    options = [word for key, value in settings.items() for word in ("-S", f"{key}={value}")]
    sh(folder, "dvc", "exp", "run", "--queue", "-S", grid, *options, last)
    start = time.monotonic()
    sh(folder, "dvc", "queue", "start", "-j", str(jobs))
    while any(word in sh(folder, "dvc", "queue", "status") for word in ("Running", "Queued")):
        if time.monotonic() - start > limit:
            raise RuntimeError(sh(folder, "dvc", "queue", "status"))
        time.sleep(1)
    return time.monotonic() - start


def verdict(folder: Path) -> dict[str, Any]:
    """Names of experiments in `dvc exp show` and of runs in MLflow, and their states."""
    experiments: dict[str, str] = {}
    for commit in json.loads(sh(folder, "dvc", "exp", "show", "--json")):
        for experiment in commit.get("experiments") or []:
            executor = experiment.get("executor") or {}
            experiments[experiment["name"]] = executor.get("state") or "success"
    with sqlite3.connect(folder / "mlruns/mlflow.db") as store:
        runs = store.execute("select name, status, experiment_id from runs").fetchall()
    store.close()
    return {
        "experiments": experiments,
        "runs": sorted((name, status) for name, status, _ in runs),
        "one_experiment": len({experiment for _, _, experiment in runs}) == 1,
        "same_names": sorted(name for name, _, _ in runs) == sorted(experiments),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latent", default="2,4,8,16", help="the grid: an experiment for each")
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args(arguments)
    seconds: dict[int, float] = {}
    for jobs in options.jobs:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "project"
            folder.mkdir()
            clone(folder)
            seconds[jobs] = run_queue(folder, f"model.latent={options.latent}", SMALL, jobs)
            found = verdict(folder)
            print(f"{jobs} at a time: {seconds[jobs]:.0f} s; {found}", flush=True)
            states = set(found["experiments"].values()) | {status for _, status in found["runs"]}
            if not (found["one_experiment"] and found["same_names"] and states <= {"success", "FINISHED"}):
                raise SystemExit("a lost, doubled or failed run")
    first, last = options.jobs[0], options.jobs[-1]
    print(json.dumps({"seconds": seconds, "ratio": round(seconds[first] / seconds[last], 2)}))


if __name__ == "__main__":
    main()
