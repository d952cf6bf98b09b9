"""DVC's experiments, as the studies use them."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from tools import presets
from tools.clones import PATH
from tools.table import show


def environment() -> dict[str, str]:
    """Variables for DVC: the stages' `python` is the one of this virtual environment, also if it is not activated."""
    return {**os.environ, "PATH": PATH}


def experiments() -> dict[str, dict[str, Any]]:
    """Parameters, metrics and revision of the experiments on the current commit, by name.

    Raises:
        UserError: if DVC cannot list them.
    """
    found: dict[str, dict[str, Any]] = {}
    for commit in json.loads(show()):
        for experiment in commit.get("experiments") or []:
            last = experiment["revs"][-1]
            if last.get("data"):
                found[experiment["name"]] = last["data"] | {"rev": last["rev"]}
    return found


def get(path: str, rev: str, target: Path) -> None:
    """Copy a file of an experiment to `target`, from git or from DVC's cache.

    Raises:
        UserError: if neither has it.
    """
    command = [*presets.DVC, "get", "-q", ".", path, "--rev", rev, "-o", str(target)]
    result = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    if result.returncode:
        raise UserError(
            f"{path} of {rev} is not in DVC's cache: {result.stderr.strip()}; remove the experiment with "
            "`dvc exp remove NAME` and run the study again"
        )


def run(command: list[str]) -> str:
    """Run a command, print its output line by line, and return it.

    Raises:
        UserError: if the command fails.
    """
    lines: list[str] = []
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        reason = next((line for line in lines if line.startswith("error: ")), f"exit code {process.returncode}")
        raise UserError(f"{' '.join(command[:8])} ... failed: {reason.strip()}")
    return "".join(lines)
