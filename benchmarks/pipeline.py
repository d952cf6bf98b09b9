"""`python -m benchmarks.pipeline`: what a run costs, in seconds and memory, stage by stage.

In a clone of its own: the fixed cost of each stage (interpreter, imports, configuration); a cold `dvc repro` with wall
time and peak memory of each stage; a second one, which runs nothing; and the evaluation's memory against the number of
samples. `DATA_MIRROR` may name a folder with the data. Ends with one JSON line.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch

from benchmarks.chaos import SMALL, configure, from_nothing, repro, stages_of
from benchmarks.queue import clone, settle
from pipeline import runtime

STAGES = ("download", "train", "evaluate", "verify", "compare", "render", "report")


def fixed_cost(folder: Path, stage: str, rounds: int) -> float:
    """Median seconds of a stage that reads its parameters, makes its process deterministic, and ends."""
    code = (
        f"import sys, stages.{stage}; from pipeline import config, lifetime, runtime; "
        "sys.exit(lifetime.run(lambda: runtime.start(config.load().runtime.device, 0)))"
    )
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def peak(process: psutil.Process) -> int:
    """The most memory that a process has held so far, in bytes."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return 1024 * next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def watched(folder: Path, *options: str) -> tuple[float, dict[str, tuple[float, float]]]:
    """Seconds of a `dvc repro`, and of each of its stages seconds and peak memory in GB."""
    start = time.perf_counter()
    dvc = repro(folder, *options)
    seen: dict[str, tuple[float, float, int]] = {}
    while dvc.poll() is None:
        for process in stages_of(folder):
            stage = next(word for word in process.cmdline() if word.startswith("stages.")).removeprefix("stages.")
            if process.name() == "sh":
                continue
            first, _, most = seen.get(stage, (time.perf_counter(), 0.0, 0))
            seen[stage] = first, time.perf_counter(), max(most, peak(process))
        time.sleep(0.05)
    if dvc.returncode:
        raise SystemExit((folder.parent / "log").read_text(encoding="utf-8"))
    stages = {name: (round(last - first, 1), round(most / 1e9, 2)) for name, (first, last, most) in seen.items()}
    return time.perf_counter() - start, stages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist", help="or digits, which needs no download")
    parser.add_argument("--small", action="store_true", help="a small run in place of the default one")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, nargs="+", default=[256, 4096, 65_536])
    options = parser.parse_args()
    settle()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "project"
        folder.mkdir()
        clone(folder)
        configure(folder, {**(SMALL if options.small else {}), "data": {"name": options.data}})
        from_nothing(folder)
        fixed = {stage: round(fixed_cost(folder, stage, options.rounds), 2) for stage in STAGES}
        print("fixed cost:", ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in fixed.items()), flush=True)
        cold, stages = watched(folder)
        for stage, (seconds, memory) in stages.items():
            print(f"{stage:>10}: {seconds:6.1f} s, {memory:.2f} GB at most")
        again, ran = watched(folder)
        print(f"cold dvc repro: {cold:.0f} s; a second one: {again:.1f} s, {len(ran)} stages run", flush=True)
        memory = {}
        for samples in options.samples:
            more = {"images": 32, "samples": samples, "budget": samples, "comparison": 1, "prior_samples": 1}
            configure(folder, {"evaluate": more})
            memory[samples] = watched(folder, "evaluate")[1]["evaluate"][1]
            print(f"evaluate with {samples} samples an image: {memory[samples]:.2f} GB at most", flush=True)
    runtime.choose_products()  # as the stages did
    environment = runtime.environment(torch.device("cpu"))
    print(json.dumps({
        "fixed": fixed, "stages": stages, "cold": round(cold, 1), "no_op": round(again, 1), "memory": memory,
        "environment": environment,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
