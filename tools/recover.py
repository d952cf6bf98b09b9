#!/usr/bin/env python3
"""`python -m tools.recover`, or tools/recover.py: repair the repository after `dvc` was killed.

An experiment then shows as running for ever, or HEAD is detached. This goes back to the branch that DVC had left, and
removes DVC's records of experiments that no longer run. Results, the cache, the queue and the files of the workspace
stay as they are. It refuses while DVC works in this repository.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import psutil


def git(*arguments: str) -> list[str]:
    """Lines of a git command's output."""
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.splitlines()


def working(root: Path) -> list[str]:
    """Processes of DVC and of stages in this repository or its temporary workspaces."""
    found = []
    for process in psutil.process_iter():
        try:
            command, folder = process.cmdline(), Path(process.cwd())
        except psutil.Error:
            continue
        works = any(word == "dvc" or word.endswith("/dvc") or word.startswith("stages.") for word in command)
        if works and folder.is_relative_to(root):
            found.append(f"{process.pid} {' '.join(command)[:100]}")
    return found


def queue_records(folder: Path) -> list[dict[str, object]]:
    """DVC's records of tasks of the queue in a folder of an experiment; empty for an experiment outside the queue."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.run")]
    return [record for record in records if record["location"] == "dvc-task"]


def remove_records(root: Path) -> None:
    """Remove DVC's records of experiments that it believes to be running, except those of the queue."""
    for reference in git("for-each-ref", "--format=%(refname)", "refs/exps/exec/"):
        git("update-ref", "-d", reference)
        print(f"removed {reference}")
    experiments = root / ".dvc/tmp/exps"
    for folder in [*experiments.glob("run/*"), *experiments.glob("standalone/*")]:
        tasks = queue_records(folder)
        for task in tasks:
            if task["status"] == 2:  # running, in DVC's own numbers
                name = task["name"]
                print(f"{name} was in the queue: `dvc queue kill {name}`, then `dvc queue start` runs the rest")
        if not tasks:
            shutil.rmtree(folder)
            print(f"removed {folder.relative_to(root)}")


def main() -> int:
    root = Path(git("rev-parse", "--show-toplevel")[0]).resolve()
    if processes := working(root):
        lines = ["error: these processes work here; wait for them, or stop them with `kill PID`:", *processes]
        print("\n  ".join(lines), file=sys.stderr)
        return 1
    remove_records(root)
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
    if changed := git("status", "--porcelain", "--untracked-files=no"):
        print("\n  ".join(["these files differ from the last commit:", *changed]))
        print("keep them, or restore them: git restore --staged --worktree . && dvc checkout")
    return 0


if __name__ == "__main__":
    sys.exit(main())
