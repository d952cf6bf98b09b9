"""`python -m tools.table`: DVC's experiments in a table that fits a terminal of 120 columns.

A row has an experiment's results and the parameters that differ from those of the current commit. `dvc exp show` has
all parameters and metrics. Experiments of the same data are together, since only their log p(x) compares, the best
first.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import UserError
from pipeline.process.exit import run_cli
from tools import presets
from tools.clones import PATH

WIDTH, LEAST = 120, 100  # columns, if the terminal's are not known, and at least
NAME = 24  # of these, for the experiment's name
HEADS = ("experiment", "log p(x)", "bits/dim", "trusted", "recognised", "asked for", "what differs")
FOOTER = "log p(x): nats per image ± standard error; trusted, recognised, asked for: %. More: dvc exp show"

Params = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Experiment:
    """Parameters and metrics by section; both are empty if it has not finished, and `state` then says why."""

    name: str
    params: Params
    metrics: Mapping[str, Mapping[str, Any]]
    state: str = ""

    @property
    def data(self) -> str:
        """The images that it models; log p(x) of others does not compare."""
        data = self.params.get("data", {})
        return f"{data.get('name')} {data.get('binarise')}"

    def metric(self, section: str, key: str) -> float:
        """A metric, or NaN."""
        value = self.metrics.get(section, {}).get(key)
        return float(value) if isinstance(value, int | float) else math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-A", "--all-commits", action="store_true", help="also experiments of other commits")
    options = ["-A"] if parser.parse_args().all_commits else []
    found = read(show(options))
    print(table(found, max(LEAST, shutil.get_terminal_size((WIDTH, 24)).columns)))


def show(options: Sequence[str] = ()) -> str:
    """What `dvc exp show --json` prints.

    Raises:
        UserError: if DVC cannot list the experiments.
    """
    command = [*presets.DVC, "exp", "show", "--json", *options]
    shown = subprocess.run(command, env={**os.environ, "PATH": PATH}, capture_output=True, text=True, check=False)
    if shown.returncode:
        raise UserError(f"dvc exp show failed: {shown.stderr.strip()}")
    return shown.stdout


def read(text: str) -> list[Experiment]:
    """The commits and experiments that `dvc exp show --json` lists, the current commit first.

    The workspace is left out if it has the results of the commit.
    """
    workspace, *commits = json.loads(text)
    found = [experiment for commit in commits for experiment in _of_commit(commit)]
    here = _experiment("workspace", workspace.get("data"))
    same = found and (here.params, here.metrics) == (found[0].params, found[0].metrics)
    return found if same else [*found[:1], here, *found[1:]]


def _of_commit(commit: Mapping[str, Any]) -> Iterator[Experiment]:
    yield _experiment(commit.get("name") or commit["rev"][:7], commit.get("data"))
    for entry in commit.get("experiments") or []:
        last = entry["revs"][-1]
        state = (entry.get("executor") or {}).get("state") or ("failed" if last.get("error") else "")
        yield _experiment(entry.get("name") or last["rev"][:7], last.get("data"), state)


def _experiment(name: str, data: Mapping[str, Any] | None, state: str = "") -> Experiment:
    if not data:
        return Experiment(name, {}, {}, state or "cannot be read")
    params, metrics = (
        {key: value for file in data.get(kind, {}).values() for key, value in file.get("data", {}).items()}
        for kind in ("params", "metrics")
    )
    return Experiment(name, params, metrics, "" if state == "success" else state)


def differences(experiment: Experiment, baseline: Params) -> list[str]:
    """The parameters that differ from the baseline's, as KEY=VALUE; the section is named if several have the key."""
    sections = Counter(key for values in baseline.values() for key in values)
    return [
        f"{section + '.' if sections[key] > 1 else ''}{key}={value}".replace(" ", "")
        for section, values in experiment.params.items()
        for key, value in values.items()
        if section in baseline and key in baseline[section] and baseline[section][key] != value
    ]


def table(found: Sequence[Experiment], width: int) -> str:
    """The lines of the table, none longer than `width`. Names and differences that are longer take several lines."""
    baseline = found[0].params if found else {}
    order = {data: i for i, data in enumerate(dict.fromkeys(one.data for one in found if one.params))}

    def place(one: Experiment) -> tuple[int, float]:
        log_px = one.metric("test", "log_px")
        return order.get(one.data, len(order)), math.inf if math.isnan(log_px) else -log_px

    rows = [HEADS, *(_cells(one, baseline) for one in sorted(found, key=place))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADS))]
    widths[0] = min(widths[0], NAME)
    widths[-1] = width - sum(widths[:-1]) - 2 * (len(HEADS) - 1)
    lines = [line for row in rows for line in _lines(row, widths)]
    return "\n".join([*lines, "", FOOTER])


def _cells(one: Experiment, baseline: Params) -> tuple[str, ...]:
    error = one.metric("test", "log_px_se")
    log_px = _number(one.metric("test", "log_px"), 1) + (f" ± {error:.1f}" if math.isfinite(error) else "")
    shares = [("test", "trusted"), ("sample", "recognised"), ("sample", "asked_for")]
    differs = ([f"({one.state})"] if one.state else []) + differences(one, baseline)
    return (
        one.name, log_px, _number(one.metric("test", "bits_per_dim"), 3),
        *(_number(100 * one.metric(*share), 1) for share in shares), ", ".join(differs),
    )  # fmt: skip


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".replace("-", "−") if math.isfinite(value) else "–"


def _lines(row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    """The lines of a row: text on the left of its column, numbers on the right of theirs."""
    name, *numbers, differs = row
    names, several = textwrap.wrap(name, widths[0]) or [""], textwrap.wrap(differs, widths[-1]) or [""]
    for i in range(max(len(names), len(several))):
        left = (names[i] if i < len(names) else "").ljust(widths[0])
        middle = [(text if i == 0 else "").rjust(size) for text, size in zip(numbers, widths[1:-1], strict=True)]
        yield "  ".join([left, *middle, several[i] if i < len(several) else ""]).rstrip()


if __name__ == "__main__":
    sys.exit(run_cli(main))
