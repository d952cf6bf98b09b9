"""`python -m studies models`: measure the models of `studies/rungs.py`, then write the page that compares them.

Each model but `default` is the DVC experiment of a preset, run in a temporary workspace. `default` is what `dvc repro`
made in this one. Every model has a record, written when it is measured: reports/studies/models/NAME.json, with
its pictures. So models may be measured on different days and machines. The page, reports/studies/models.{html,md,json},
is made from all records that exist.

    python -m studies models --only good,best       measure these models again
    python -m studies models --jobs 2               two models at once, each with half of the cores
    python -m studies models --record good FOLDER   record a run of the stages in FOLDER, for example on another machine
    python -m studies models --page                 only write the page
"""

import argparse
import math
import tempfile
from pathlib import Path

from pipeline.errors import UserError
from studies import experiments, models_page, records
from studies.records import Record
from studies.rungs import DEFAULT, RUNGS
from tools import presets

REPORTS = Path("reports/studies")
RECORDS = REPORTS / "models"


def main(words: list[str]) -> None:
    """Run the command.

    Args:
        words: of the command line, after the study's name.
    """
    parser = argparse.ArgumentParser(
        "studies models", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--only", metavar="NAME,NAME", help=f"of {', '.join(RUNGS)}")
    what.add_argument(
        "--record", nargs=2, metavar=("NAME", "FOLDER"), help="with params.yaml, models/, reports/metrics/"
    )
    what.add_argument("--page", action="store_true", help="run nothing, and write the page")
    parser.add_argument("--jobs", **experiments.JOBS)
    parser.add_argument("--train-seconds", type=float, metavar="S", help="with --record: what stage train printed")
    parser.add_argument(
        "--revision", metavar="COMMIT", help="with --record: of the code that ran, if FOLDER has no git"
    )
    arguments = parser.parse_args(words)
    if (arguments.train_seconds is not None or arguments.revision) and not arguments.record:
        parser.error("--train-seconds and --revision need --record")

    if arguments.record:
        name, folder = arguments.record[0], Path(arguments.record[1])
        require_known([name])
        record(name, folder, arguments.train_seconds, arguments.revision or records.revision_of(folder))
    if arguments.record or arguments.page:
        write_page()
        return
    names = list(dict.fromkeys(arguments.only.split(","))) if arguments.only else list(RUNGS)
    require_known(names)
    if not Path(records.DATA).is_file():
        raise UserError(f"{records.DATA} is missing; run `dvc repro download` to make it")
    revision = records.revision_of(Path())
    if DEFAULT in names:
        names.remove(DEFAULT)
        record(DEFAULT, Path(), None, revision)
        write_page()
    jobs = arguments.jobs
    if jobs > 1:
        names = longest_first(names)
    for name, train_seconds in experiments.at_once(lambda name: run_preset(name, jobs), names, jobs):
        record_experiment(name, train_seconds, revision)
        write_page()  # after each model: a later one may fail


def require_known(names: list[str]) -> None:
    """Raise an error if the study has no model of one of these names.

    Raises:
        UserError: as said.
    """
    if unknown := [name for name in names if name not in RUNGS]:
        raise UserError(f"the study has no model {', '.join(unknown)}; it has {', '.join(RUNGS)}")


def longest_first(names: list[str]) -> list[str]:
    """Sort models by the seconds of their training in the records, so that no long one runs alone at the end.

    A model without them comes first: it may be long.
    """
    known = records.read(RECORDS, names)
    seconds = {name: record.train_seconds for name, record in known.items() if record.train_seconds is not None}
    return sorted(names, key=lambda name: -seconds.get(name, math.inf))


def run_preset(name: str, jobs: int) -> float | None:
    """Run a preset as a DVC experiment.

    Returns:
        Seconds of its training; None if others run at the same time, which makes it slower.

    Raises:
        UserError: if the run fails.
    """
    print(f"{name}: running", flush=True)
    command = presets.command(name)
    presets.remove(name)
    output = experiments.run(command, jobs, f"{name}: " if jobs > 1 else "")
    return records.seconds_of_training(output) if jobs == 1 else None


def record_experiment(name: str, train_seconds: float | None, revision: str | None) -> None:
    """Write the record of the experiment of a preset, with its files from git and DVC's cache."""
    rev = experiments.experiments()[name]["rev"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for path in records.FILES:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            experiments.get(path, rev, folder / path)
        record(name, folder, train_seconds, revision)


def record(name: str, folder: Path, train_seconds: float | None, revision: str | None) -> Record:
    """Write the record of a model, and return it."""
    earlier = records.read_one(RECORDS / f"{name}.json")
    made, pictures = records.make(name, folder, earlier, train_seconds, revision)
    records.write(made, pictures, RECORDS)
    print(
        f"{name}: log p(x) {made.log_px:.1f}, {made.bits_per_dim:.3f} bits/dim, {made.trusted:.1%} trusted", flush=True
    )
    return made


def write_page() -> None:
    models_page.write(records.read(RECORDS, tuple(RUNGS)), REPORTS)
