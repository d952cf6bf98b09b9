"""`python -m tools.presets NAME [OPTION ...]`: run an experiment with the settings of presets/NAME.yaml.

A preset changes some keys of params.yaml for one run. The experiment is called NAME and replaces an earlier one of that
name; it runs in a temporary workspace. Further options go to `dvc exp run`, for example `-S model.latent=2`.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from pipeline.code import ROOT
from pipeline.config import Params, check_params, read_yaml
from pipeline.process.exit import run_cli
from tools.clones import PATH

FOLDER = ROOT / "presets"
DVC = [sys.executable, "-m", "tools.dvc"]  # DVC, as a command in the repository's folder

Sections = dict[str, dict[str, Any]]


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name: str) -> Sections:
    """Read the keys that a preset changes, by section.

    Raises:
        ParameterError: if params.yaml with these changes is not valid; the message names the preset's file.
    """
    path = FOLDER / f"{name}.yaml"
    changes = read_yaml(path)
    check_params(path, merge(read_yaml(ROOT / "params.yaml"), changes) if isinstance(changes, dict) else changes)
    return changes


def parameters(name: str | None = None, changes: Mapping[str, Any] | None = None) -> Params:
    """The parameters of a preset, or those of params.yaml, with further changes by section.

    Raises:
        ParameterError: if they are not valid.
    """
    content = merge(read_yaml(ROOT / "params.yaml"), load(name) if name else {})
    return check_params(FOLDER / f"{name}.yaml" if name else ROOT / "params.yaml", merge(content, changes or {}))


def merge(params: Mapping[str, Any], changes: Mapping[str, Any]) -> Sections:
    """Copy the content of a params.yaml, with the changed keys."""
    merged = dict(params)
    for section, values in changes.items():
        both = isinstance(values, Mapping) and isinstance(merged.get(section), Mapping)
        merged[section] = {**merged[section], **values} if both else values
    return merged


def assignments(name: str) -> tuple[str, ...]:
    """The preset's changes as KEY=VALUE, in the syntax of `dvc exp run -S`."""
    return tuple(
        f"{section}.{key}={value if isinstance(value, str) else json.dumps(value, separators=(',', ':'))}"
        for section, values in load(name).items()
        for key, value in values.items()
    )


def settings(name: str) -> list[str]:
    """The preset's changes as options of `dvc exp run`."""
    return [word for assignment in assignments(name) for word in ("-S", assignment)]


def command(name: str, *options: str) -> list[str]:
    """The command that runs the preset as experiment `name` in a temporary workspace. No such experiment may exist."""
    return [*DVC, "exp", "run", "--temp", "--name", name, *settings(name), *options]


def remove(name: str) -> None:
    """Remove the experiment `name`, if it exists."""
    subprocess.run([*DVC, "exp", "remove", "-q", name], stderr=subprocess.DEVNULL, check=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=names())
    arguments, options = parser.parse_known_args()
    words = command(arguments.name, *options)  # a mistake in the preset is found before its experiment is removed
    os.environ["PATH"] = PATH
    remove(arguments.name)
    os.execv(words[0], words)  # noqa: S606


if __name__ == "__main__":
    sys.exit(run_cli(main))
