"""`python -m studies NAME`: run the experiments that a study still needs, then write its page.

Each value of a study's grid is a DVC experiment NAME-VALUE, run in a temporary copy of the repository. `dvc exp show`
lists it, and `dvc exp apply` brings its files into the workspace. If a study is interrupted, run the same command
again: it skips the experiments that have finished.

The study `models` is not a grid and has its own options: `python -m studies models --help`.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.process.exit import run_cli
from pipeline.training.trainer import NotFiniteError
from studies import models, page
from studies.experiments import JOBS, at_once, environment, experiments
from studies.grids import STUDIES, Study
from tools import presets

# What DVC prints of a training whose ELBO or gradient was not finite.
DIVERGED = re.compile(rf"failed to reproduce 'train': .*exited with {NotFiniteError.exit_code}$", re.MULTILINE)


def main() -> None:
    if sys.argv[1:2] == ["models"]:
        models.main(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=[*STUDIES, "models"])
    parser.add_argument("--values", type=lambda text: tuple(map(float, text.split(","))), help="another grid: 0.1,0.2")
    parser.add_argument("-S", "--set-param", action="append", default=[], metavar="KEY=VALUE", help="as in dvc exp run")
    parser.add_argument("--jobs", **JOBS)
    arguments = parser.parse_args()
    if arguments.name == "models":
        parser.error("the options of the study models come after its name")
    study = STUDIES[arguments.name]
    values = tuple(dict.fromkeys(arguments.values or study.values))

    def outcome_of(value: float) -> page.Outcome:
        return run(arguments.name, study, value, arguments.set_param, arguments.jobs)

    outcomes = dict(at_once(outcome_of, values, arguments.jobs))
    if not any(isinstance(outcome, dict) for outcome in outcomes.values()):
        raise UserError(f"no experiment of the study succeeded: {outcomes[values[0]]}")
    page.write(arguments.name, study, {value: outcomes[value] for value in values}, Path("reports/studies"))


def run(name: str, study: Study, value: float, settings: list[str], jobs: int = 1) -> page.Outcome:
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
    command = [*presets.DVC, "exp", "run", "--temp", "--force", "--name", experiment, *options]
    result = subprocess.run(
        command, env=environment(jobs), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if result.returncode == 0:
        return experiments()[experiment]
    lines = [line for line in result.stdout.splitlines() if line.strip()] or [f"exit code {result.returncode}"]
    reason = next((line for line in lines if line.startswith("error: ")), lines[-1])
    if not DIVERGED.search(result.stdout):  # any other failure has nothing to do with the value
        raise UserError(f"{experiment} failed: {reason}\nits output:\n" + "\n".join(lines[-20:]))
    print(f"{experiment}: {reason}")
    return reason.removeprefix("error: ")


def has_setting(experiment: dict[str, Any], setting: str) -> bool:
    """Whether the experiment was run with this KEY=VALUE."""
    key, _, value = setting.partition("=")
    section, _, name = key.partition(".")
    used = experiment["params"]["params.yaml"]["data"].get(section, {}).get(name)
    return str(used).replace(" ", "") == value.replace(" ", "")


if __name__ == "__main__":
    sys.exit(run_cli(main))
