"""`python -m tools.rebuild`: rebuild the current experiment in a temporary clone and compare it with dvc.lock.

Every output's digest must be equal. If one differs, this names the first stage with a difference and what may explain
it: the processor, threads and versions in the metrics of both runs.
"""

import json
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.code import ROOT
from tools.clones import environment, temporary_clone

Stages = dict[str, dict[str, Any]]


def read_lock(folder: Path) -> Stages:
    """Stages of a folder's dvc.lock, in the order in which they run."""
    found: Stages = YAML(typ="safe").load(folder / "dvc.lock")["stages"]
    makers = {path: name for name, stage in found.items() for path in digests(stage)}
    needed = {name: {dep["path"] for dep in stage.get("deps", [])} for name, stage in found.items()}
    order = TopologicalSorter({name: {makers[path] for path in needed[name] & makers.keys()} for name in found})
    return {name: found[name] for name in order.static_order()}


def digests(stage: dict[str, Any]) -> dict[str, str]:
    """Digest of each output of a stage, by path."""
    return {out["path"]: out["md5"] for out in stage["outs"]}


def compare(here: Path, there: Path) -> list[str]:
    """Differences between the outputs in two folders' dvc.lock, one per line, in the order of the stages."""
    locked, rebuilt = read_lock(here), read_lock(there)
    lines: list[str] = []
    for name, stage in locked.items():
        differ = [path for path, digest in digests(stage).items() if digests(rebuilt[name]).get(path) != digest]
        print(f"{name}: {len(stage['outs']) - len(differ)} of {len(stage['outs'])} outputs equal", flush=True)
        if not differ:
            continue
        lines.append(f"{name}: {', '.join(differ)}")
        if len(lines) == 1:
            lines += _explain(_environment(here, stage), _environment(there, rebuilt[name]))
    return lines


def _environment(folder: Path, stage: dict[str, Any]) -> list[str]:
    """Processor, threads and versions in a stage's metrics."""
    for path in digests(stage):
        if path.endswith(".json") and (folder / path).is_file():
            return json.loads((folder / path).read_text(encoding="utf-8")).get("environment", [])
    return []


def _explain(before: list[str], now: list[str]) -> list[str]:
    if before == now:
        return ["  same processor, threads and versions: the outputs should be equal; please report this"]
    return [
        *(f"  then: {word}" for word in before if word not in now),
        *(f"  now:  {word}" for word in now if word not in before),
    ]


def main() -> int:
    if not (ROOT / "dvc.lock").is_file():
        print("error: dvc.lock is missing; run `dvc repro` to make it", file=sys.stderr)
        return 1
    with temporary_clone() as folder:
        if (ROOT / "downloads").is_dir():
            (folder / "downloads").symlink_to(ROOT / "downloads")
        (folder / "dvc.lock").unlink()
        if code := subprocess.run(["dvc", "repro"], cwd=folder, env=environment(), check=False).returncode:
            return code
        lines = compare(ROOT, folder)
    if lines:
        print("the rebuilt outputs differ from dvc.lock, first in", *lines, sep="\n", file=sys.stderr)
        return 1
    print("every output is the same, byte for byte")
    return 0


if __name__ == "__main__":
    sys.exit(main())
