"""`python -m benchmarks.chaos --kills 30 --seed 0`: kill the pipeline anywhere, run it again, compare the bytes.

In a clone of its own, a small MNIST run is made once undisturbed. Then, from nothing, the stage or its dvc is killed
(SIGKILL) at a random time and `dvc repro` is run again, round after round, until there were so many kills and a run
has come to its end. It requires: the digests of all outputs as in the undisturbed run, no process left, no lock held.
One line a kill, and a verdict; `DATA_MIRROR` may name a folder with the data.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout
from ruamel.yaml import YAML

from benchmarks.queue import clone, settle
from pipeline.lifetime import GRACE

# Small, but every stage lasts long enough to be hit, and work is saved often enough for it to matter.
SMALL: dict[str, dict[str, Any]] = {
    "train": {"epochs": 3},
    "evaluate": {"images": 500, "comparison": 50, "prior_samples": 500},
    "verify": {"images": 8, "temperatures": 10, "curve_images": 3, "curve_samples": 256, "curve_temperatures": [5, 10]},
    "compare": {"images": 20},
    "recovery": {"save_every": 0.5},
}
ORPHAN = GRACE + 5  # seconds that a stage may live on without its dvc, to save and to tell MLflow


def configure(folder: Path, settings: dict[str, dict[str, Any]]) -> None:
    yaml = YAML()
    content = yaml.load(folder / "params.yaml")
    for section, values in settings.items():
        content[section].update(values)
    yaml.dump(content, folder / "params.yaml")


def repro(folder: Path, *options: str) -> subprocess.Popen[bytes]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with (folder.parent / "log").open("wb") as log:
        return subprocess.Popen(
            ["dvc", "repro", *options],
            cwd=folder,
            env=os.environ | {"PATH": path},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def digests(folder: Path) -> dict[str, str]:
    """Digest of every output, as dvc.lock has them."""
    stages = YAML(typ="safe").load(folder / "dvc.lock")["stages"]
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}


def stages_of(folder: Path) -> list[psutil.Process]:
    """Processes of stages that work in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            named = any(word.startswith("stages.") for word in process.cmdline())
            if named and Path(process.cwd()).is_relative_to(folder):
                found.append(process)
        except psutil.Error:
            continue
    return found


def kill(dvc: subprocess.Popen[bytes], folder: Path, victim: str) -> str:
    """Kill dvc or its stage, whatever is there of them; what was killed."""
    stages = stages_of(folder)
    names = [next(word for word in p.cmdline() if word.startswith("stages.")) for p in stages if p.is_running()]
    name = names[0] if names else "between stages"
    if victim == "stage" and stages:
        for process in stages:
            process.kill()
        dvc.wait()
        return f"stage {name}"
    dvc.kill()
    dvc.wait()
    return f"dvc      in {name}"


def held_locks(folder: Path) -> list[str]:
    held = []
    for path in [*folder.glob(".scratch/*.lock"), *folder.glob(".dvc/tmp/lock")]:
        try:
            FileLock(path, blocking=False).acquire().lock.release()
        except Timeout:
            held.append(path.name)
    return held


def undisturbed(folder: Path) -> tuple[dict[str, str], float]:
    start = time.monotonic()
    if repro(folder).wait():
        raise SystemExit((folder.parent / "log").read_text(encoding="utf-8"))
    return digests(folder), time.monotonic() - start


def from_nothing(folder: Path) -> None:
    """Remove results, and DVC's memory of them."""
    for name in ("data", "models", "reports", "dvc.lock", ".dvc/cache", ".dvc/tmp", "mlruns", ".scratch"):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shortest", type=float, default=4.0, help="seconds from start to kill, at least")
    parser.add_argument("--longest", type=float, default=20.0, help="and at most")
    parser.add_argument("--data", default="mnist", help="or digits, which needs no download")
    options = parser.parse_args()
    choose = random.Random(options.seed)  # noqa: S311
    settle()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "project"
        folder.mkdir()
        clone(folder)
        configure(folder, SMALL | {"data": {"name": options.data}})
        from_nothing(folder)
        expected, seconds = undisturbed(folder)
        print(f"undisturbed: {seconds:.0f} s", flush=True)
        faults = storm(folder, expected, options, choose)
    print(json.dumps({"kills": options.kills, "seed": options.seed, "faults": faults}))
    raise SystemExit(1 if faults else 0)


def storm(folder: Path, expected: dict[str, str], options: argparse.Namespace, choose: random.Random) -> list[str]:
    """Kills, and what was wrong after them."""
    faults: list[str] = []
    kills, rounds, longest = 0, 0, 0.0
    from_nothing(folder)
    while True:
        dvc = repro(folder)
        wait = choose.uniform(options.shortest, options.longest) if kills < options.kills else None
        victim = choose.choice(["stage", "dvc"])
        try:
            code = dvc.wait(wait)
        except subprocess.TimeoutExpired:
            kills += 1
            what = kill(dvc, folder, victim)
            start = time.monotonic()
            _, alive = psutil.wait_procs(stages_of(folder), timeout=ORPHAN)
            longest = max(longest, time.monotonic() - start)
            faults += [f"kill {kills}: orphan {process.pid}" for process in alive]
            resumed = "going on" in (folder.parent / "log").read_text(encoding="utf-8")
            print(f"kill {kills:3}: after {wait:4.1f} s, {what}{' (had resumed)' if resumed else ''}", flush=True)
            continue
        rounds += 1
        if code:
            faults.append(f"round {rounds}: exit {code}")
            print((folder.parent / "log").read_text(encoding="utf-8"), file=sys.stderr)
            return faults
        differ = [path for path, digest in digests(folder).items() if expected.get(path) != digest]
        faults += [f"round {rounds}: {path} differs" for path in differ]
        faults += [f"round {rounds}: {lock} is held" for lock in held_locks(folder)]
        print(f"round {rounds}: done after {kills} kills, {len(expected) - len(differ)} outputs equal", flush=True)
        if kills >= options.kills:
            print(f"the longest that a stage outlived its dvc: {longest:.1f} s")
            return faults
        from_nothing(folder)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main()
