"""The whole pipeline under DVC, in a temporary clone of the working tree."""

import json
import sqlite3
from pathlib import Path

import pytest

from benchmarks.queue import sh


def test_a_second_run_does_nothing_and_a_forced_one_gives_the_same_bytes(clone: Path) -> None:
    assert "Running stage" not in sh(clone, "dvc", "repro")
    report = (clone / "reports/report.html").read_bytes()
    # Without tracking this time: it changes no out.
    params = clone / "params.yaml"
    tracked = params.read_text(encoding="utf-8")
    params.write_text(tracked.replace("best_effort\n", "off\n"), encoding="utf-8")
    try:
        assert "mode: off" in params.read_text(encoding="utf-8")
        assert sh(clone, "dvc", "repro", "--force").count("Running stage") == 7
        assert sh(clone, "git", "status", "--porcelain").split() == ["M", "params.yaml"]
    finally:
        params.write_text(tracked, encoding="utf-8")
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
        runs = store.execute("select name, status from runs").fetchall()
    store.close()
    assert runs == [("flat", "FINISHED")]


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
