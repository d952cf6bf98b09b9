"""The whole pipeline under DVC, in a temporary clone of the working tree."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from ruamel.yaml import YAML

SMALL = {
    "data": {"name": "digits"},
    "model": {"latent": 3, "encoder": [16], "decoder": [16]},
    "train": {"epochs": 2},
    "evaluate": {"samples": 32, "budget": 128, "prior_samples": 20, "comparison": 20},
    "verify": {
        "images": 4,
        "chains": 4,
        "temperatures": 4,
        "curve_images": 3,
        "curve_samples": 16,
        "curve_temperatures": [3, 5],
        "gap_steps": 3,
        "gap_samples": 2,
    },
    "compare": {"images": 20, "samples": 32},
    "runtime": {"device": "cpu"},
}


def sh(folder: Path, *command: str) -> str:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that git has or would add, committed in a repository of their own with a small experiment."""
    folder = tmp_path_factory.mktemp("clone")
    for name in sh(ROOT, "git", "ls-files", "-co", "--exclude-standard").splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    yaml = YAML()
    content = yaml.load(folder / "params.yaml")
    for section, values in SMALL.items():
        content[section].update(values)
    yaml.dump(content, folder / "params.yaml")
    sh(folder, "git", "init", "-q")
    sh(folder, "git", "config", "user.email", "test@example.org")
    sh(folder, "git", "config", "user.name", "Test")
    sh(folder, "dvc", "repro")
    sh(folder, "git", "add", ".")
    sh(folder, "git", "commit", "-q", "-m", "small experiment")
    return folder


def test_a_second_run_does_nothing_and_a_forced_one_gives_the_same_bytes(clone: Path) -> None:
    assert "Running stage" not in sh(clone, "dvc", "repro")
    report = (clone / "reports/report.html").read_bytes()
    assert sh(clone, "dvc", "repro", "--force").count("Running stage") == 7
    assert sh(clone, "git", "status", "--porcelain") == ""
    assert (clone / "reports/report.html").read_bytes() == report


def test_a_temporary_experiment_is_listed_and_tracked_in_the_same_store(clone: Path) -> None:
    sh(clone, "dvc", "exp", "run", "--temp", "--name", "flat", "-S", "model.latent=2")
    assert sh(clone, "git", "status", "--porcelain") == ""
    [_, baseline] = json.loads(sh(clone, "dvc", "exp", "show", "--json"))
    [experiment] = baseline["experiments"]
    assert experiment["name"] == "flat"
    data = experiment["revs"][0]["data"]
    assert data["params"]["params.yaml"]["data"]["model"]["latent"] == 2
    assert data["metrics"]["reports/metrics/evaluate.json"]["data"]["test"]["images"] == 360

    with sqlite3.connect(clone / "mlruns" / "mlflow.db") as store:
        runs = store.execute("select name, status from runs order by start_time").fetchall()
    store.close()
    assert runs[-1] == ("flat", "FINISHED")
    assert set(runs[:-1]) == {("workspace", "FINISHED")}


@pytest.mark.parametrize(
    ("file", "rerun"),
    [
        ("pipeline/figures.py", {"render", "report"}),
        ("pipeline/report.py", {"report"}),
        ("pipeline/templates/report.html.jinja", {"report"}),
        # Rendering follows only if the evaluation comes out different, which a dry run cannot know.
        ("stages/evaluate.py", {"evaluate", "report"}),
    ],
)
def test_an_edit_reruns_what_depends_on_it(clone: Path, file: str, rerun: set[str]) -> None:
    path = clone / file
    original = path.read_text(encoding="utf-8")
    try:
        path.write_text(original + ("\n" if file.endswith(".jinja") else "\n# edited\n"), encoding="utf-8")
        plan = sh(clone, "dvc", "repro", "--dry")
    finally:
        path.write_text(original, encoding="utf-8")
    stages = {line.split("'")[1] for line in plan.splitlines() if line.startswith("Running stage")}
    assert stages == rerun
