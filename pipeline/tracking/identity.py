"""Who a run is: the tags that join it to DVC's experiments and to git's revisions."""

import os
import subprocess

# What changes a number: where this differs from the revision, the revision does not say what ran.
CODE = ("pipeline", "stages", "dvc.yaml", "requirements.lock")


def name() -> str:
    """The experiment's name in `dvc exp show`, or that this was `dvc repro`."""
    return os.environ.get("DVC_EXP_NAME") or "workspace"


def tags() -> dict[str, str]:
    """Revision of the code and whether it was edited since, name and baseline of the experiment."""
    found: dict[str, str] = {}
    if experiment := os.environ.get("DVC_EXP_NAME"):
        found["dvc.experiment"] = experiment
    if revision := git("rev-parse", "HEAD"):
        found["git.revision"] = found["mlflow.source.git.commit"] = revision
        found["git.dirty"] = str(bool(git("status", "--porcelain", "--", *CODE))).lower()
    if baseline := os.environ.get("DVC_EXP_BASELINE_REV") or revision:
        found["dvc.baseline_rev"] = baseline
    return found


def experiment_of(lock: str) -> str | None:
    """The name of the experiment whose `dvc.lock` is this file: what a restore from the cache does not say."""
    content = git("hash-object", lock)
    for reference in git("for-each-ref", "--format=%(refname)", "refs/exps/").split():
        if content and git("rev-parse", "--verify", "--quiet", f"{reference}:{lock}") == content:
            return reference.rpartition("/")[2]
    return None


def git(*arguments: str) -> str:
    """What git answers; nothing where there is no git or no repository."""
    try:
        result = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""
