"""`python -m studies NAME`: run the experiments that a study still needs, then write its page.

Each value of the grid is a DVC experiment NAME-VALUE, run in a temporary copy of the repository. `dvc exp show` lists
it, and `dvc exp apply` brings its files into the workspace. If a study is interrupted, run the same command again: it
skips the experiments that have finished.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.process.exit import run_cli
from pipeline.training.trainer import NotFiniteError
from studies import page
from studies.grids import STUDIES, Study

# What DVC prints of a training whose ELBO or gradient was not finite.
DIVERGED = re.compile(rf"failed to reproduce 'train': .*exited with {NotFiniteError.exit_code}$", re.MULTILINE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=list(STUDIES))
    parser.add_argument("--values", type=lambda text: tuple(map(float, text.split(","))), help="another grid: 0.1,0.2")
    parser.add_argument("-S", "--set-param", action="append", default=[], metavar="KEY=VALUE", help="as in dvc exp run")
    arguments = parser.parse_args()
    study = STUDIES[arguments.name]
    values = arguments.values or study.values

    outcomes = [run(arguments.name, study, value, arguments.set_param) for value in values]
    if not any(isinstance(outcome, dict) for outcome in outcomes):
        raise UserError(f"no experiment of the study succeeded: {outcomes[0]}")
    page.write(arguments.name, study, dict(zip(values, outcomes, strict=True)), Path("reports/studies"))


def run(name: str, study: Study, value: float, settings: list[str]) -> page.Outcome:
    """The outcome of one experiment, which is run first unless it exists with the same settings.

    Returns:
        What `dvc exp show` has of the experiment; or the reason why its training diverged, which is a result too.

    Raises:
        UserError: if it fails for any other reason.
    """
    experiment = f"{name}-{value:g}"
    wanted = [*study.settings, *settings, f"{study.parameter}={value:g}"]
    found = experiments().get(experiment)
    if found and all(has_setting(found, setting) for setting in wanted):
        print(f"{experiment}: exists")
        return found
    print(f"{experiment}: running", flush=True)
    options = [word for setting in wanted for word in ("-S", setting)]
    command = ["dvc", "exp", "run", "--temp", "--force", "--name", experiment, *options]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if result.returncode == 0:
        return experiments()[experiment]
    lines = [line for line in result.stdout.splitlines() if line.strip()] or [f"exit code {result.returncode}"]
    reason = next((line for line in lines if line.startswith("error: ")), lines[-1])
    if not DIVERGED.search(result.stdout):  # any other failure has nothing to do with the value
        raise UserError(f"{experiment} failed: {reason}\nits output:\n" + "\n".join(lines[-20:]))
    print(f"{experiment}: {reason}")
    return reason.removeprefix("error: ")


def experiments() -> dict[str, dict[str, Any]]:
    """Parameters, metrics and revision of the experiments on the current commit, by name.

    Raises:
        UserError: if DVC cannot list them.
    """
    shown = subprocess.run(["dvc", "exp", "show", "--json"], capture_output=True, text=True, check=False)
    if shown.returncode:
        raise UserError(f"dvc exp show failed: {shown.stderr.strip()}")
    found: dict[str, dict[str, Any]] = {}
    for commit in json.loads(shown.stdout):
        for experiment in commit.get("experiments") or []:
            last = experiment["revs"][-1]
            if last.get("data"):
                found[experiment["name"]] = last["data"] | {"rev": last["rev"]}
    return found


def has_setting(experiment: dict[str, Any], setting: str) -> bool:
    """Whether the experiment was run with this KEY=VALUE."""
    key, _, value = setting.partition("=")
    section, _, name = key.partition(".")
    used = experiment["params"]["params.yaml"]["data"].get(section, {}).get(name)
    return str(used).replace(" ", "") == value.replace(" ", "")


if __name__ == "__main__":
    sys.exit(run_cli(main))
