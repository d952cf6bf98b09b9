"""The whole pipeline under DVC, in a temporary clone of the working tree."""

import json
from pathlib import Path
from typing import Any

import pytest

from tools.clones import configure, logged_runs, sh

pytestmark = pytest.mark.slow


def planned(clone: Path) -> set[str]:
    """The stages that `dvc repro` would run."""
    plan = sh(clone, "dvc", "repro", "--dry")
    return {line.split("'")[1] for line in plan.splitlines() if line.startswith("Running stage")}


def experiment(clone: Path, name: str) -> dict[str, Any]:
    """Parameters and metrics of an experiment in `dvc exp show`."""
    [_, baseline] = json.loads(sh(clone, "dvc", "exp", "show", "--json"))
    [found] = [experiment for experiment in baseline["experiments"] if experiment["name"] == name]
    return found["revs"][0]["data"]


def test_a_second_run_does_nothing_and_a_forced_one_gives_the_same_bytes(clone: Path) -> None:
    assert "Running stage" not in sh(clone, "dvc", "repro")
    report = (clone / "reports/report.html").read_bytes()
    # Without tracking this time: it changes no output.
    configure(clone, {"tracking": {"mode": "off"}})
    try:
        assert sh(clone, "dvc", "repro", "--force").count("Running stage") == 9
        assert sh(clone, "git", "status", "--porcelain").split() == ["M", "params.yaml"]
    finally:
        sh(clone, "git", "checkout", "-q", "params.yaml")
    assert (clone / "reports/report.html").read_bytes() == report


def test_a_temporary_experiment_is_listed_and_logged_to_the_same_store(clone: Path) -> None:
    sh(clone, "dvc", "exp", "run", "--temp", "--name", "flat", "-S", "model.latent=2")
    assert sh(clone, "git", "status", "--porcelain") == ""
    data = experiment(clone, "flat")
    assert data["params"]["params.yaml"]["data"]["model"]["latent"] == 2
    assert data["metrics"]["reports/metrics/evaluate.json"]["data"]["test"]["images"] == 360
    assert [run[:2] for run in logged_runs(clone)] == [("flat", "FINISHED")]


def test_the_trained_model_is_an_artifact_of_dvc(clone: Path, tmp_path: Path) -> None:
    """DVC finds a version by a tag of git."""
    sh(clone, "git", "tag", "-a", "vae@v1.0.0", "-m", "the first version")
    for revision in ([], ["--rev", "v1.0.0"]):
        sh(tmp_path, "dvc", "artifacts", "get", str(clone), "vae", *revision, "-o", "vae.safetensors", "--force")
        assert (tmp_path / "vae.safetensors").read_bytes() == (clone / "models/vae.safetensors").read_bytes()
        (tmp_path / "vae.safetensors").unlink()


MEASURES = {"evaluate", "verify", "compare"}
DRAWS = {"sample"}
SHOWS = {"render", "report"}


@pytest.mark.parametrize(
    ("file", "rerun"),
    [
        ("pipeline/report/plotting.py", DRAWS | SHOWS),
        ("pipeline/report/templates/report.html.jinja", SHOWS),
        ("pipeline/tracking/run.py", set()),
        ("logpx/importance.py", MEASURES | SHOWS),
        ("logpx/observations/gaussian.py", {"train"} | MEASURES | DRAWS | SHOWS),
        ("pipeline/model/vae.py", {"train"} | MEASURES | DRAWS | SHOWS),
        ("pipeline/judge/classifier.py", {"judge"} | DRAWS | SHOWS),
        # The others follow only if the evaluation's output changes, which a dry run cannot know.
        ("stages/evaluate.py", {"evaluate", "report"}),
        ("tools/chaos.py", set()),
    ],
)
def test_an_edit_reruns_what_depends_on_it(clone: Path, file: str, rerun: set[str]) -> None:
    with (clone / file).open("a", encoding="utf-8") as edited:
        edited.write("\n" if file.endswith(".jinja") else "\n# edited\n")
    try:
        assert planned(clone) == rerun
    finally:
        sh(clone, "git", "checkout", "-q", file)


def test_what_tools_and_editors_leave_in_a_folder_reruns_nothing(clone: Path) -> None:
    names = ("__pycache__/vae.cpython-311.pyc", "build/vae.py", "x.egg-info/PKG-INFO", ".vae.py.swp", "vae.py~")
    for folder in ("pipeline/model", "logpx", "stages"):
        for name in names:
            path = clone / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("left behind", encoding="utf-8")
    try:
        assert planned(clone) == set()
        (clone / "pipeline/model/new.py").write_text("", encoding="utf-8")
        assert planned(clone) == {"train"} | MEASURES | DRAWS | SHOWS, "new code must count"
    finally:
        sh(clone, "git", "clean", "-fdxq", "pipeline", "logpx", "stages")


def test_an_edited_metric_is_noticed_and_made_again(clone: Path) -> None:
    path = clone / "reports/metrics/train.json"
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole.replace("1", "2", 1), encoding="utf-8")
    assert "Stage 'train' didn't change" not in sh(clone, "dvc", "repro")
    assert path.read_text(encoding="utf-8") == whole
    assert sh(clone, "git", "status", "--porcelain") == ""


def test_a_preset_is_run_as_an_experiment_of_its_name(clone: Path) -> None:
    preset = clone / "presets/short.yaml"
    preset.write_text("# For this test.\ntrain:\n  epochs: 1\nmodel:\n  encoder: [8, 4]\n", encoding="utf-8")
    try:
        for latent in (1, 2):  # the second experiment replaces the first
            sh(clone, "python", "-m", "tools.presets", "short", "-S", f"model.latent={latent}", "train")
        found = experiment(clone, "short")["params"]["params.yaml"]["data"]
        assert (found["model"]["encoder"], found["train"]["epochs"], found["model"]["latent"]) == ([8, 4], 1, 2)
    finally:
        preset.unlink()
