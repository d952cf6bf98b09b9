#!/usr/bin/env python3
"""`python -m tools.recover`, or tools/recover.py: repair the repository after `dvc` was killed.

An experiment then shows as running for ever, or HEAD is detached. This goes back to the branch that DVC had left, and
removes DVC's records of experiments that no longer run. Results, the cache, the queue and the files of the workspace
stay as they are. It refuses while DVC works in this repository. The project may be a subfolder of the git repository.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]  # the folder of DVC's files


def git(*arguments: str) -> list[str]:
    """Lines of a git command's output; git itself prints its errors."""
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    ).stdout.splitlines()


def working(top: Path) -> list[str]:
    """Processes of DVC and of stages in this git repository or its temporary workspaces."""
    found = []
    for process in psutil.process_iter():
        try:
            command, folder = process.cmdline(), Path(process.cwd())
        except psutil.Error:
            continue
        works = any(re.fullmatch(r"(.*/|tools\.)?dvc|stages\..*", word) for word in command)
        if works and folder.is_relative_to(top):
            found.append(f"{process.pid} {' '.join(command)[:100]}")
    return found


def queue_records(folder: Path) -> list[dict[str, object]]:
    """DVC's records of tasks of the queue in a folder of an experiment; empty for an experiment outside the queue."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.run")]
    return [record for record in records if record["location"] == "dvc-task"]


def remove_records() -> None:
    """Remove DVC's records of experiments that it believes to be running, except those of the queue."""
    for reference in git("for-each-ref", "--format=%(refname)", "refs/exps/exec/"):
        git("update-ref", "-d", reference)
        print(f"removed {reference}")
    experiments = ROOT / ".dvc/tmp/exps"
    for folder in [*experiments.glob("run/*"), *experiments.glob("standalone/*")]:
        tasks = queue_records(folder)
        for task in tasks:
            if task["status"] == 2:  # running, in DVC's own numbers
                name = task["name"]
                print(f"{name} was in the queue: `dvc queue kill {name}`, then `dvc queue start` runs the rest")
        if not tasks:
            shutil.rmtree(folder)
            print(f"removed {folder.relative_to(ROOT)}")


def main() -> int:
    if processes := working(Path(git("rev-parse", "--show-toplevel")[0])):
        lines = ["error: these processes work here; wait for them, or stop them with `kill PID`:", *processes]
        print("\n  ".join(lines), file=sys.stderr)
        return 1
    remove_records()
    if not git("branch", "--show-current"):
        branches = git("for-each-ref", "--points-at", "HEAD", "--format=%(refname:short)", "refs/heads/")
        if len(branches) != 1:
            print(
                f"error: HEAD is detached, and {len(branches)} branches are at its commit; choose one: "
                "git switch BRANCH",
                file=sys.stderr,
            )
            return 1
        git("switch", "-q", branches[0])
        print(f"back on branch {branches[0]}")
    if changed := git("status", "--porcelain", "--untracked-files=no", "--", "."):
        print("\n  ".join(["these files differ from the last commit:", *changed]))
        print("keep them, or restore them: git restore --staged --worktree . && dvc checkout --allow-missing")
        print("`dvc repro` makes the outputs that DVC's cache does not have")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: {error}")
