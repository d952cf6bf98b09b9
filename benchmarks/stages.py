"""`python -m benchmarks.stages`: what a run costs, in seconds and memory, stage by stage.

In a temporary clone: the fixed cost of each stage (interpreter, imports, configuration); a cold `dvc repro` with wall
time and peak memory of each stage; a second one, which runs nothing; and the evaluation's memory against the number of
samples. `DATA_MIRROR` may name a folder with the data. Ends with one JSON line.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil
import torch

from pipeline.code import ROOT
from pipeline.config import read_yaml
from pipeline.process.device import environment, use_onednn_matmul
from tools import presets
from tools.clones import configure, remove_results, stage_name, stage_processes, start_repro, temporary_clone

STAGES = tuple(read_yaml(ROOT / "dvc.yaml")["stages"])


def fixed_cost(folder: Path, stage: str, rounds: int) -> float:
    """Median seconds of a stage that only imports its code, reads the parameters and sets up its device."""
    code = (
        f"import sys, stages.{stage}; from pipeline.config import load_params; "
        "from pipeline.process import device, lifecycle; "
        "sys.exit(lifecycle.run_stage(lambda: device.set_up(load_params().runtime.device, 0)))"
    )
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def peak(process: psutil.Process) -> int:
    """Peak memory of a process so far, in bytes."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return 1024 * next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def watched(folder: Path, *options: str) -> tuple[float, dict[str, tuple[float, float]]]:
    """Run `dvc repro`; return its seconds, and each stage's seconds and peak memory in GB."""
    start = time.perf_counter()
    dvc = start_repro(folder, *options)
    seen: dict[str, tuple[float, float, int]] = {}
    while dvc.poll() is None:
        for process in stage_processes(folder):
            if not (stage := stage_name(process)):
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
    parser.add_argument("--small", action="store_true", help="the preset chaos instead of the default parameters")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, nargs="+", default=[256, 4096, 65_536])
    options = parser.parse_args()
    with temporary_clone() as folder:
        configure(
            folder,
            (presets.load("chaos") if options.small else {})
            | {"data": {"name": options.data, "path": None, "sha256": None}},
        )
        remove_results(folder)
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
            print(f"evaluate with {samples} samples per image: {memory[samples]:.2f} GB at most", flush=True)
    use_onednn_matmul()  # as the stages did
    print(json.dumps({
        "fixed": fixed, "stages": stages, "cold": round(cold, 1), "no_op": round(again, 1), "memory": memory,
        "environment": environment(torch.device("cpu")),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
