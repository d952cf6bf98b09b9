"""The study `models`: what its command runs, and that its page shows the records that exist, with their numbers."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.data.image_format import ImageFormat
from pipeline.errors import UserError
from pipeline.evaluation import ladder
from pipeline.report import plotting
from pipeline.report.html import format_number
from studies import experiments, models, models_figure, models_page, records
from studies.rungs import DEFAULT, RUNGS, STORY
from tests.pipeline.report.artists import cell, texts
from tests.studies.fabricated import record, write
from tools import presets
from tools.clones import sh

MNIST = ImageFormat(28, 28, 256)
KEYS = {"name", "log_px", "log_px_se", "bits_per_dim", "elbo", "trusted", "images", "train_seconds", "parameters"}
SOME = (
    record("default", 857.25, images=10_000, ceiling=1356.7, log_px_se=3.25),
    record("good", 3668.25, train_seconds=None, settings={"train": {"epochs": 5}}),
    record("iwae", -85.75, binarise="dynamic", histogram=-206.0, baselines={"histogram": -206.0}, ceiling=0.0),
    record(
        "logistic", 3497.75, recognised=0.345, recognised_real=0.966, asked_for=0.875, frechet=41.5, frechet_real=2.75,
        log_px_given_label=3499.25, accuracy=0.978,
    ),
)  # fmt: skip


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A folder with the page of some records."""
    write(tmp_path / "models", *SOME)
    models_page.write(records.read(tmp_path / "models", RUNGS), tmp_path)
    return tmp_path


def test_every_model_has_its_texts_and_its_published_result_exists() -> None:
    published = {rung.name for rung in ladder.published("mnist", "none") + ladder.published("mnist", "dynamic")}
    assert set(RUNGS) - {DEFAULT} <= set(presets.names())
    assert set(STORY) <= set(RUNGS)
    for name, text in RUNGS.items():
        assert text.story.endswith("."), name
        assert text.title, name
        assert len(text.label) <= 32, name
        assert text.source, name
        assert not text.source.endswith("."), name
        assert bool(text.published) == bool(text.differs), name
        assert text.published in published | {""}, name


def test_the_numbers_are_those_of_the_records_and_sorted(page: Path) -> None:
    rungs = json.loads((page / "models.json").read_text())["rungs"]
    assert [rung["name"] for rung in rungs] == ["default", "logistic", "good", "iwae"]
    by_name = {one.name: one.model_dump(mode="json") for one in SOME}
    for rung in rungs:
        assert rung == by_name[rung["name"]]
        assert rung.keys() >= KEYS
    assert rungs[2]["train_seconds"] is None


@pytest.mark.parametrize("kind", ["md", "html"])
def test_the_page_has_the_numbers_of_every_record(page: Path, kind: str) -> None:
    text = (page / f"models.{kind}").read_text(encoding="utf-8")
    for one in SOME:
        digits = 1 if one.binarise == "none" else 2
        for value in (one.log_px, one.elbo, one.gap, one.kl, -one.reconstruction, one.train_log_px, one.histogram):
            assert format_number(value, digits) in text
        assert format_number(one.bits_per_dim, 3) in text
        assert RUNGS[one.name].story.split(". ")[0].split("“")[0] in text
    assert "97.5 %" in text
    assert "70 s" in text
    assert "not timed" in text
    assert "abc-dirty" in text


@pytest.mark.parametrize("kind", ["md", "html"])
def test_the_page_has_the_numbers_of_samples_if_they_are_known(page: Path, kind: str) -> None:
    lines = (page / f"models.{kind}").read_text(encoding="utf-8").splitlines()
    lines = lines[next(i for i, line in enumerate(lines) if "accuracy as a classifier" in line) :]
    cells = {
        name: re.split(
            r" *\| *|</td><td[^>]*>", next(line for line in lines if f"{name}<" in line or f" {name} " in line)
        )
        for name in ("logistic", "good")
    }
    numbers = ["34.5 %", "96.6 %", "87.5 %", "41.50", "2.75", "3499.2", "97.8 %"]
    assert [text.partition("<")[0] for text in cells["logistic"] if text and text[0].isdigit()] == numbers
    assert sum(text.startswith("–") for text in cells["good"]) == 7


def test_the_page_has_a_row_of_samples_of_each_model(tmp_path: Path) -> None:
    write(tmp_path / "models", SOME[0], SOME[1])
    (tmp_path / "models/good_samples.png").unlink()  # a record of older code
    figure = models_page.draw_samples([SOME[0]], tmp_path)
    (panel,) = figure.axes
    assert texts(panel.get_yticklabels()) == ["default\nGaussian, σ² = 0.005"]
    assert cell(panel, 0, 9, 28, 28) == pytest.approx(np.full((28, 28), 0.5), abs=1 / 255)
    models_page.write({"default": SOME[0], "good": SOME[1]}, tmp_path)
    assert (tmp_path / "models_samples.png").read_bytes().startswith(b"\x89PNG")


def test_the_readme_has_a_picture_of_some_models(tmp_path: Path) -> None:
    story = (
        record("default", 857.25, recognised=0.368),
        record("best_label", 3761.5),
    )  # one whose samples were not judged
    write(tmp_path / "models", *story, SOME[1])
    figure = models_page.draw_story(story, tmp_path)
    assert [panel.get_title(loc="left") for panel in figure.axes] == [
        "The tutorial's VAE (default)", "+ convolutions and mixtures of pixels (best_label)"
    ]  # fmt: skip
    numbers = ["37 % recognised, 857 nats", "3\u202f762 nats"]
    assert [panel.get_title(loc="right") for panel in figure.axes] == numbers
    assert cell(figure.axes[1], 0, 9, 28, 28) == pytest.approx(np.full((28, 28), 0.5), abs=1 / 255)
    models_page.write({"good": SOME[1]}, tmp_path)
    assert not (tmp_path / "models_story.png").exists()
    models_page.write({one.name: one for one in (*story, SOME[1])}, tmp_path)
    assert (tmp_path / "models_story.png").read_bytes() == plotting.to_png(figure)


def test_the_page_says_which_models_clear_the_bar(page: Path) -> None:
    text = (page / "models.md").read_text(encoding="utf-8")
    for one, side in ((SOME[0], "below"), (SOME[1], "above")):
        assert (one.above_histogram > 0) == (side == "above")
        nats = format_number(abs(one.above_histogram), 1)
        assert f"bits/dim: {nats} nats {side} independent pixels with a histogram each (3430.2)" in text


def test_the_page_names_the_models_without_a_record(page: Path) -> None:
    text = (page / "models.md").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith("Not measured yet: ")]
    assert all((f"{name} (" in line) == (name not in {one.name for one in SOME}) for name in RUNGS)


def test_the_page_says_if_a_preset_has_changed_since_it_was_measured(tmp_path: Path) -> None:
    write(tmp_path / "models", record("default", 857.0), record("good", 3668.0, settings={"train": {"epochs": 5}}))
    models_page.write(records.read(tmp_path / "models", RUNGS), tmp_path)
    text = (tmp_path / "models.md").read_text(encoding="utf-8")
    assert text.count("has other settings now") == 1
    assert "The preset has other settings now" in text.partition("## good:")[2]


def test_the_page_opens_offline(page: Path) -> None:
    html = (page / "models.html").read_text(encoding="utf-8")
    assert re.findall(r'(?:src|href)="(?!data:)[^"]*"', html) == []
    assert "<script" not in html
    assert html.count('src="data:image/png;base64,') == 3 + len(SOME)
    links = re.findall(r"\]\(([^)]+\.png)\)", (page / "models.md").read_text(encoding="utf-8"))
    assert len(links) == 3 + len(SOME)
    assert all((page / link).read_bytes().startswith(b"\x89PNG") for link in links)


def test_a_page_without_records_has_published_results(tmp_path: Path) -> None:
    models_page.write({}, tmp_path)
    assert json.loads((tmp_path / "models.json").read_text()) == {"rungs": []}
    assert "| RealNVP | 3771.4 | 1.06 |" in (tmp_path / "models.md").read_text(encoding="utf-8")


def test_errors_and_times_that_are_unknown_are_left_out(tmp_path: Path) -> None:
    one = record(
        "good", 3668.0, log_px_se=None, elbo_se=None, train_log_px_se=None, validation_log_px_se=None, images=1,
        active_units=None, revision=None, difference=None, verified=None, difference_se=None,
    )  # fmt: skip
    write(tmp_path / "models", one)
    models_page.write({"good": one}, tmp_path)
    text = (tmp_path / "models.md").read_text(encoding="utf-8")
    assert "| good | 3668.0 ± – |" in text
    assert "| 20.0 ± – |" in text
    assert "Revision unknown" in text
    assert "annealed importance sampling is" not in text


def test_another_data_set_is_in_the_tables_and_not_in_the_picture(tmp_path: Path) -> None:
    write(tmp_path / "models", record("fast", 150.0, dataset="digits"))
    models_page.write(records.read(tmp_path / "models", RUNGS), tmp_path)
    assert "| fast (digits) | 150.0 ± 4.2 |" in (tmp_path / "models.md").read_text(encoding="utf-8")


def test_the_picture_has_every_density_on_one_scale() -> None:
    rows = models_figure.grey_rows([SOME[1], SOME[0], SOME[3]], MNIST)
    assert [row.x for row in rows] == sorted((row.x for row in rows), reverse=True)
    assert all(row.x == pytest.approx(MNIST.bits_per_dim(row.nats)) for row in rows)
    kinds = {row.label: row.kind for row in rows}
    assert kinds["default: Gaussian, σ² = 0.005"] == "this project"
    assert kinds["independent pixels, a histogram each"] == "baseline"
    assert kinds["ceiling of σ² = 0.005"] == "ceiling"  # and no ceiling of a discrete model
    assert [label for label in kinds if label.startswith("ceiling")] == ["ceiling of σ² = 0.005"]
    assert kinds["RealNVP"] == "published"
    assert kinds["BB-ANS: one-layer VAE, beta-binomial"] == "published ELBO"
    good = next(row for row in rows if row.label.startswith("good"))
    assert good.elbo == pytest.approx(MNIST.bits_per_dim(3655.75))
    assert good.error == pytest.approx(MNIST.bits_per_dim(0.0) - MNIST.bits_per_dim(4.25))


def test_every_point_is_inside_one_of_the_two_parts_of_the_axis() -> None:
    rows = models_figure.grey_rows([SOME[0], SOME[1]], MNIST)
    coarse, fine = models_figure.draw_grey(rows, MNIST, 1.69).axes[:2]
    for row in rows:
        for value in (row.x, row.elbo):
            limits = (sorted(panel.get_xlim()) for panel in (coarse, fine))
            assert value is None or any(low < value < high for low, high in limits)
    assert texts(coarse.get_yticklabels()) == [row.label for row in rows]
    assert coarse.get_xlim()[0] > coarse.get_xlim()[1]  # better models are on the right
    written = texts(fine.texts)
    assert written.count("1.69") == 1
    assert "3 668" in written


def test_binarised_models_have_a_picture_of_their_own() -> None:
    rows = models_figure.binarised_rows([SOME[2]])
    assert [row.nats for row in rows] == sorted(row.nats for row in rows)
    figure = models_figure.draw_binarised(rows)
    (panel,) = figure.axes
    assert texts(panel.get_yticklabels())[1:3] == ["iwae: one latent layer, k = 10", "IWAE, one latent layer, k = 50"]
    assert "this project, log p(x), 95 % interval" in texts(figure.legends[0].get_texts())


# The command.


class Runs:
    """Stands in for DVC: every experiment gives the files of the smallest run."""

    def __init__(self, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.results, self.fails = results, ""
        self.log: list[str] = []
        monkeypatch.setattr(presets, "remove", lambda name: self.log.append(f"remove {name}"))
        monkeypatch.setattr(experiments, "run", self.run)
        monkeypatch.setattr(experiments, "experiments", lambda: {name: {"rev": f"rev of {name}"} for name in RUNGS})
        monkeypatch.setattr(experiments, "get", self.get)

    def run(self, command: list[str], jobs: int, title: str) -> str:
        name = command[command.index("--name") + 1]
        assert title == (f"{name}: " if jobs > 1 else "")
        assert command[: len(presets.DVC)] == presets.DVC
        self.log.append(f"run {name}")
        if name == self.fails:
            raise UserError(f"{name} failed")
        return "training took 61 s\n"

    def get(self, path: str, rev: str, target: Path) -> None:
        assert rev.startswith("rev of ")
        shutil.copy(self.results / path, target)


@pytest.fixture
def runs(workspace: Path, results: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """In a copy of the smallest run."""
    return Runs(results, monkeypatch)


def rungs() -> dict[str, Any]:
    return {rung["name"]: rung for rung in json.loads(Path("reports/studies/models.json").read_text())["rungs"]}


def test_models_that_are_named_are_run_and_recorded(runs: Runs) -> None:
    models.main(["--only", "fast,good"])
    assert runs.log == ["remove fast", "run fast", "remove good", "run good"]
    assert {name: rung["train_seconds"] for name, rung in rungs().items()} == {"fast": 61, "good": 61}


def test_models_that_run_at_the_same_time_are_recorded_without_a_time(runs: Runs) -> None:
    models.main(["--only", "fast,good,fast", "--jobs", "2"])
    assert sorted(runs.log) == ["remove fast", "remove good", "run fast", "run good"]
    assert {name: rung["train_seconds"] for name, rung in rungs().items()} == {"fast": None, "good": None}


def test_of_models_that_run_at_the_same_time_the_longest_start_first(runs: Runs) -> None:
    for name, seconds in {"fast": 27.0, "good": 228.0, "label": None, "bb_ans": 183.0}.items():
        models.record(name, runs.results, seconds, None)
    assert models.longest_first(["fast", "label", "good", "bb_ans", "flow"]) == [
        "label", "flow", "good", "bb_ans", "fast"
    ]  # fmt: skip
    models.main(["--only", "fast,good,bb_ans", "--jobs", "2"])
    assert [line for line in runs.log if line.startswith("run")][-1] == "run fast"


def test_all_models_are_run_if_none_is_named(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    pages: list[set[str]] = []  # models on the page, each time it is written
    monkeypatch.setattr(models_page, "write", lambda found, folder: pages.append(set(found)))
    models.main([])
    assert [line for line in runs.log if line.startswith("run")] == [f"run {name}" for name in RUNGS if name != DEFAULT]
    assert [len(found) for found in pages] == list(range(1, len(RUNGS) + 1))
    made = records.read(models.RECORDS, RUNGS)
    assert set(made) == set(RUNGS)
    assert made[DEFAULT].train_seconds is None  # its training was not timed: it is in the workspace already


def test_a_failure_keeps_what_was_measured_before(runs: Runs) -> None:
    runs.fails = "good"
    with pytest.raises(UserError, match="good failed"):
        models.main(["--only", "fast,good,best"])
    assert set(rungs()) == {"fast"}


def test_nothing_is_run_without_the_data_that_the_picture_needs(runs: Runs) -> None:
    Path(records.DATA).unlink()
    with pytest.raises(UserError, match=r"images\.safetensors is missing; run `dvc repro download`"):
        models.main(["--only", "fast"])
    assert runs.log == []


def test_a_run_of_another_folder_is_recorded(runs: Runs, results: Path) -> None:
    models.main(["--record", "best", str(results), "--train-seconds", "1234.5", "--revision", "abc"])
    assert runs.log == []
    assert (rungs()["best"]["train_seconds"], rungs()["best"]["revision"]) == (1234.5, "abc")
    models.main(["--record", "best", str(results)])  # the same weights: their training took as long
    assert (rungs()["best"]["train_seconds"], rungs()["best"]["revision"]) == (1234.5, None)


def test_the_page_alone_runs_nothing(runs: Runs) -> None:
    models.main(["--page"])
    assert runs.log == []
    assert rungs() == {}


@pytest.mark.parametrize("words", [["--only", "good,bset"], ["--record", "bset", "."]])
def test_an_unknown_model_is_an_error_before_any_work(words: list[str], runs: Runs) -> None:
    with pytest.raises(UserError, match="the study has no model bset; it has default, "):
        models.main(words)
    assert runs.log == []


@pytest.mark.parametrize("words", [["--only", "good", "--train-seconds", "3"], ["--only", "good", "--page"]])
def test_options_that_exclude_each_other_are_refused(words: list[str], runs: Runs) -> None:
    with pytest.raises(SystemExit):
        models.main(words)
    assert runs.log == []


def test_the_output_of_an_experiment_is_shown_and_kept(capfd: pytest.CaptureFixture[str]) -> None:
    assert experiments.run(["sh", "-c", "echo one; echo two >&2"]) == "one\ntwo\n"
    assert capfd.readouterr().out == "one\ntwo\n"
    experiments.run(["sh", "-c", "echo one; echo two"], title="good: ")
    assert capfd.readouterr().out == "good: one\ngood: two\n"
    with pytest.raises(UserError, match="failed: error: no space left"):
        experiments.run(["sh", "-c", "echo 'error: no space left'; echo more; exit 3"])
    with pytest.raises(UserError, match="failed: exit code 7"):
        experiments.run(["sh", "-c", "exit 7"])


@pytest.mark.slow
def test_a_preset_is_run_by_dvc_and_recorded(clone: Path) -> None:
    """The whole way, with DVC: an experiment in a temporary workspace, its files from git and the cache, the page."""
    (clone / "presets/fast.yaml").write_text("# Seconds.\nmodel: {latent: 2}\n")
    sh(clone, "python", "-m", "studies", "models", "--only", "fast")
    folder = clone / "reports/studies"
    first = records.read_one(folder / "models/fast.json")
    assert first
    assert first.revision == sh(clone, "git", "rev-parse", "HEAD").strip() + "-dirty"
    assert (first.latent, first.settings) == (2, {"model": {"latent": 2}})
    assert first.train_seconds is not None
    assert f"| fast (digits) | {format_number(first.log_px, 1)} ±" in (folder / "models.md").read_text(encoding="utf-8")

    (clone / "presets/good.yaml").write_text("# Seconds.\nmodel: {latent: 4}\n")
    # In DVC's cache now: all of fast.
    sh(clone, "python", "-m", "studies", "models", "--only", "fast,good,default", "--jobs", "2")
    good = records.read_one(folder / "models/good.json")
    assert good
    assert (good.latent, good.train_seconds) == (4, None)
    again = records.read_one(folder / "models/fast.json")
    assert again
    assert again.model_copy(update={"date": first.date}) == first
    default = records.read_one(folder / "models/default.json")
    assert default
    assert (default.latent, default.settings, default.train_seconds) == (3, {}, None)
