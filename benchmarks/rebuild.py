"""`make verify`: rebuild the current experiment from nothing in a temporary clone, and compare with dvc.lock.

Every output's digest must be equal. Where one is not, the first stage that differs is named, and what may be why:
processor, threads and versions, as the metrics of both runs have them.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from benchmarks.queue import ROOT, clone

Stages = dict[str, dict[str, Any]]


def stages(folder: Path) -> Stages:
    """Stages of a dvc.lock, in the order in which they run."""
    found: Stages = YAML(typ="safe").load(folder / "dvc.lock")["stages"]
    ordered: Stages = {}
    while len(ordered) < len(found):
        for name, stage in found.items():
            needed = {dep["path"] for dep in stage.get("deps", [])}
            makers = {n for n, s in found.items() if needed & {out["path"] for out in s["outs"]}}
            if makers <= set(ordered):
                ordered[name] = stage
    return ordered


def outs(stage: dict[str, Any]) -> dict[str, str]:
    return {out["path"]: out["md5"] for out in stage["outs"]}


def environment(folder: Path, stage: dict[str, Any]) -> list[str]:
    """Where a stage ran, as its metrics say."""
    for path in outs(stage):
        if path.endswith(".json") and (folder / path).is_file():
            return json.loads((folder / path).read_text(encoding="utf-8")).get("environment", [])
    return []


def compare(here: Path, there: Path) -> list[str]:
    """What differs, a line each, the first stage first; nothing where all is equal."""
    locked, rebuilt = stages(here), stages(there)
    lines: list[str] = []
    for name, stage in locked.items():
        differ = [path for path, digest in outs(stage).items() if outs(rebuilt[name]).get(path) != digest]
        print(f"{name}: {len(outs(stage)) - len(differ)} of {len(outs(stage))} outputs equal", flush=True)
        if not differ:
            continue
        lines.append(f"{name}: {', '.join(differ)}")
        if len(lines) == 1:
            before, now = environment(here, stage), environment(there, rebuilt[name])
            lines += [f"  then: {word}" for word in before if word not in now]
            lines += [f"  now:  {word}" for word in now if word not in before]
            if before == now:
                lines.append("  the same processor, threads and versions: this should not be; please report it")
    return lines


def main() -> int:
    if not (ROOT / "dvc.lock").is_file():
        print("error: there is no dvc.lock; run `dvc repro`", file=sys.stderr)
        return 1
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    mirror = os.environ.get("DATA_MIRROR", "")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "MLFLOW_"))}
    variables |= {"PATH": path}
    if mirror and "://" not in mirror:
        variables["DATA_MIRROR"] = str((ROOT / mirror).resolve())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "project"
        folder.mkdir()
        clone(folder)
        if (ROOT / "downloads").is_dir():
            (folder / "downloads").symlink_to(ROOT / "downloads")
        (folder / "dvc.lock").unlink()
        if code := subprocess.run(["dvc", "repro"], cwd=folder, env=variables, check=False).returncode:
            return code
        lines = compare(ROOT, folder)
    if lines:
        print("the rebuilt outputs differ from dvc.lock, first in", *lines, sep="\n", file=sys.stderr)
        return 1
    print("every output is the same, byte for byte")
    return 0


if __name__ == "__main__":
    sys.exit(main())
