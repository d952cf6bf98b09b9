"""Where a run comes from: its experiment in DVC, its revision in git, and the process that writes it."""

import os
import re
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

import psutil

from pipeline.code import CODE_ROOTS
from pipeline.storage.files import main_repository

WORKSPACE = "workspace"  # the name of what `dvc repro` makes
# The files that determine results. If they differ from the revision, the revision does not describe what ran.
CODE = (*CODE_ROOTS, "dvc.yaml", "requirements.lock")


def workspace_tags() -> tuple[str, dict[str, str]]:
    """Name and tags of what runs here: DVC names the experiment and its baseline in the environment."""
    # An experiment of another DVC project, which runs this one in a stage, has another root.
    ours = Path(os.environ.get("DVC_ROOT", "")).resolve() == main_repository()
    name, baseline = (os.environ.get(f"DVC_EXP_{key}", "") if ours else "" for key in ("NAME", "BASELINE_REV"))
    edited = bool(git("status", "--porcelain", "--", *CODE))
    return name or WORKSPACE, revision_tags(name or WORKSPACE, "HEAD", baseline or "HEAD", edited=edited)


def revision_tags(name: str, revision: str, baseline: str, *, edited: bool = False) -> dict[str, str]:
    """The experiment, its baseline, the revision of its code, and whether the code was edited since."""
    commit = git("rev-parse", revision)
    tags = {"dvc.baseline_rev": git("rev-parse", baseline), "git.revision": commit, "mlflow.source.git.commit": commit}
    tags |= {"git.dirty": str(edited).lower()} if commit else {}
    tags |= {"dvc.experiment": name} if name != WORKSPACE else {}
    return {key: value for key, value in tags.items() if value}


def experiments() -> list[tuple[str, str]]:
    """Name and revision of every experiment that DVC keeps of this project, oldest first.

    The git repository may contain other projects. Their experiments change nothing here.
    """
    lines = git("for-each-ref", "--sort=creatordate", "--format=%(refname) %(objectname)", "refs/exps/").splitlines()
    found = (re.fullmatch(r"refs/exps/[0-9a-f]{2}/[0-9a-f]{38}/(\S+) (\w+)", line) for line in lines)
    named = [(match[1], match[2]) for match in found if match]
    return [item for item in named if not prefix() or git("diff", "--name-only", f"{item[1]}^", item[1], "--", ".")]


def prefix() -> str:
    """The subfolder of the git repository that is this project, with a slash at the end; empty if it is all of it."""
    return git("rev-parse", "--show-prefix")


def process_tags() -> dict[str, str]:
    """The process that writes a run, by which `is_dead` recognises it."""
    process = psutil.Process()
    tags = {"host": socket.gethostname(), "pid": str(process.pid), "started": f"{process.create_time():.2f}"}
    return {f"process.{key}": value for key, value in tags.items()}


def is_dead(tags: Mapping[str, str]) -> bool:
    """Whether the process with these tags ran on this machine and has ended."""
    if tags.get("process.host") != socket.gethostname():
        return False
    try:
        process = psutil.Process(int(tags["process.pid"]))
        # A later process may have the same number. The system's clock may be corrected by a second.
        same = abs(process.create_time() - float(tags["process.started"])) < 2
        return not same or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def git(*arguments: str) -> str:
    """The output of a git command, or an empty text if it fails."""
    try:
        result = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""
