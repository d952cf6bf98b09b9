"""`python -m tools.chaos --kills 30 --seed 0`: kill the pipeline at random times, run it again, compare the bytes.

A short run is made once undisturbed, in a temporary clone. Then it starts from nothing; the running stage or its dvc
is killed (SIGKILL) at a random time and `dvc repro` runs again, until a run has ended and the number of kills is
reached. Required: the same digests of all outputs as undisturbed, no process left, no lock held. Prints a line for each
kill, and a verdict. `DATA_MIRROR` may name a folder with the data.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from pipeline.process.lifecycle import GRACE
from tools import presets
from tools.clones import configure, remove_results, stage_name, stage_processes, start_repro, temporary_clone
from tools.rebuild import digests, read_lock

ORPHAN = GRACE + 5  # seconds that a stage may live on without its dvc, to save its work and to log its end


def all_digests(folder: Path) -> dict[str, str]:
    """Digest of every output in a folder's dvc.lock, by path."""
    return {path: digest for stage in read_lock(folder).values() for path, digest in digests(stage).items()}


def kill(dvc: "subprocess.Popen[bytes]", folder: Path, victim: str) -> str:
    """Kill the running stage, or dvc if that is the victim or no stage runs; say what was killed."""
    stages = stage_processes(folder)
    name = next(filter(None, map(stage_name, stages)), "between stages")
    if victim == "stage" and stages:
        for process in stages:
            process.kill()
        dvc.wait()
        return f"stage {name}"
    dvc.kill()
    dvc.wait()
    return f"dvc   {name}"


def held_locks(folder: Path) -> list[str]:
    """Locks of stages and of DVC that some process still holds."""
    held = []
    for path in [*folder.glob(".scratch/*.lock"), *folder.glob(".dvc/tmp/lock")]:
        try:
            FileLock(path, blocking=False).acquire().lock.release()
        except Timeout:
            held.append(path.name)
    return held


def run_undisturbed(folder: Path) -> tuple[dict[str, str], float]:
    """Run the pipeline; return the outputs' digests, and seconds."""
    start = time.monotonic()
    if start_repro(folder).wait():
        raise SystemExit((folder.parent / "log").read_text(encoding="utf-8"))
    return all_digests(folder), time.monotonic() - start


def run_with_kills(
    folder: Path, expected: dict[str, str], options: argparse.Namespace, choose: random.Random
) -> list[str]:
    """Run the pipeline again and again and kill it; return what was wrong."""
    faults: list[str] = []
    kills, rounds, longest = 0, 0, 0.0
    remove_results(folder)
    while True:
        dvc = start_repro(folder)
        wait = choose.uniform(options.shortest, options.longest) if kills < options.kills else None
        victim = choose.choice(["stage", "dvc"])
        try:
            code = dvc.wait(wait)
        except subprocess.TimeoutExpired:
            kills += 1
            killed = kill(dvc, folder, victim)
            start = time.monotonic()
            _, alive = psutil.wait_procs(stage_processes(folder), timeout=ORPHAN)
            longest = max(longest, time.monotonic() - start)
            faults += [f"kill {kills}: process {process.pid} is left" for process in alive]
            resumed = "resuming" in (folder.parent / "log").read_text(encoding="utf-8")
            print(f"kill {kills:3}: after {wait:4.1f} s, {killed}{' (had resumed)' if resumed else ''}", flush=True)
            continue
        rounds += 1
        if code:
            print((folder.parent / "log").read_text(encoding="utf-8"), file=sys.stderr)
            return [*faults, f"round {rounds}: exit code {code}"]
        differ = [path for path, digest in all_digests(folder).items() if expected.get(path) != digest]
        faults += [f"round {rounds}: {path} differs" for path in differ]
        faults += [f"round {rounds}: {lock} is held" for lock in held_locks(folder)]
        print(f"round {rounds}: done after {kills} kills, {len(expected) - len(differ)} outputs equal", flush=True)
        if kills >= options.kills:
            print(f"the longest that a stage outlived its dvc: {longest:.1f} s")
            return faults
        remove_results(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shortest", type=float, default=4.0, help="least seconds from start to kill")
    parser.add_argument("--longest", type=float, default=20.0, help="most seconds from start to kill")
    parser.add_argument("--data", default="mnist", help="or digits, which needs no download")
    options = parser.parse_args()
    choose = random.Random(options.seed)  # noqa: S311
    with temporary_clone() as folder:
        configure(folder, presets.load("chaos") | {"data": {"name": options.data, "path": None, "sha256": None}})
        remove_results(folder)
        expected, seconds = run_undisturbed(folder)
        print(f"undisturbed: {seconds:.0f} s", flush=True)
        faults = run_with_kills(folder, expected, options, choose)
    print(json.dumps({"kills": options.kills, "seed": options.seed, "faults": faults}))
    raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main()
