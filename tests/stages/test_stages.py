"""Each stage's `main` on the smallest run: what it writes, that it writes the same bytes again, what it refuses."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import torch

from logpx import estimator
from logpx.block import Block
from logpx.data import parts_of
from pipeline.config import load_params
from pipeline.data.dataset import load_dataset, save_dataset
from pipeline.evaluation.auroc import auroc
from pipeline.model.checkpoint import load_checkpoint
from pipeline.report.explorer import read_log_weights
from pipeline.report.html import format_number
from pipeline.report.pictures import PICTURES
from pipeline.report.plotting import Figure
from pipeline.report.scene import Scene
from pipeline.storage.files import read_metrics
from pipeline.storage.tables import write_parquet
from pipeline.training.trainer import NotFiniteError
from tests.support import STAGES, Run, command, outputs, write_params

CONDITIONAL = {"digits", "analogies"}  # pictures of a conditional model only
NOT_DRAWN = "|".join(PICTURES[name].title for name in ("manifold", "digits", "analogies"))


def check_outputs(folder: Path, *, manifold: bool, conditional: bool = False) -> None:
    """Every file that dvc.yaml names exists, and no other; every picture shows something."""
    expected = {word for stage in STAGES for word in command(stage)[3:] if not word.startswith("--")}
    expected.remove("reports/figures")
    figures = set(PICTURES) - (set() if manifold else {"manifold"}) - (set() if conditional else CONDITIONAL)
    written = outputs(folder)
    assert set(written) == expected | {f"reports/figures/{name}.png" for name in figures}
    for name, content in written.items():
        if name.endswith(".png"):
            image = matplotlib.image.imread(folder / name)
            assert min(image.shape[:2]) > 150, name
            assert image[..., :3].std() > 0.02, f"{name} is blank"
        assert content


def test_the_stages_write_what_dvc_expects(results: Path) -> None:
    check_outputs(results, manifold=False)


@pytest.mark.parametrize(
    ("latent", "encoder"),
    [
        (2, [16]),
        pytest.param(1, [16], marks=pytest.mark.slow),
        pytest.param(3, [1], marks=pytest.mark.slow, id="one hidden unit"),
    ],
)
def test_with_few_dimensions_too(
    small_params: Callable[..., Path], run: Run, tmp_path: Path, latent: int, encoder: list[int]
) -> None:
    small_params(model__latent=latent, model__encoder=encoder)
    for stage in STAGES:
        assert run(stage) == 0
    check_outputs(tmp_path, manifold=latent == 2)


def test_a_second_run_writes_the_same_bytes(results: Path, workspace: Path, run: Run) -> None:
    for stage in STAGES:
        assert run(stage) == 0
    assert outputs(workspace) == outputs(results)


def test_metrics_are_those_of_the_table(results: Path) -> None:
    test = json.loads((results / "reports/metrics/evaluate.json").read_text())["test"]
    table = {name: column.to_numpy() for name, column in pd.read_parquet(results / "reports/images.parquet").items()}
    assert len(table["label"]) == test["images"] == 360
    for name in ("elbo", "reconstruction", "kl", "log_px"):
        assert test[name] == pytest.approx(table[name].mean(), abs=1e-4)
        assert test[f"{name}_se"] == pytest.approx(table[name].std(ddof=1) / 360**0.5, abs=1e-4)
    for name in ("trusted", "samples", "evaluations"):
        key = name if name == "trusted" else f"{name}_mean"
        assert test[key] == pytest.approx(table[name].mean(), abs=1e-4)
    assert test["ess_median"] == pytest.approx(np.median(table["ess"]), abs=1e-4)
    assert test["gap"] == pytest.approx(test["log_px"] - test["elbo"], abs=2e-4)
    assert abs(table["elbo"] - (table["reconstruction"] - table["kl"])).max() < 1e-9
    assert np.isnan(table["encoder_log_px"]).sum() == 360 - test["encoder_images"] == 340
    # Up to rounding, between one sample and all of them.
    assert table["ess"].min() > 1 - 1e-9
    assert (table["ess"] < table["samples"] + 1e-9).all()
    assert table["prior_ess"].max() < 50 + 1e-9


def test_the_report_has_the_numbers_of_tables_and_metrics(results: Path) -> None:
    html, markdown = ((results / f"reports/report.{end}").read_text(encoding="utf-8") for end in ("html", "md"))
    test = read_metrics(results / "reports/metrics/evaluate.json")["test"]
    compare = read_metrics(results / "reports/metrics/compare.json")["compare"]
    digits = pd.read_parquet(results / "reports/images.parquet")["log_px"].to_numpy()
    sigma = load_params(results / "params.yaml").model.sigma
    assert isinstance(sigma, float)
    bits = format_number(np.log2(17) - test["elbo"] / (64 * np.log(2)), 2)
    assert f"| ELBO | {format_number(test['elbo'], 2)} | {format_number(test['elbo_se'], 2)} | {bits} | |" in markdown
    assert f"= {format_number(-32 * np.log(2 * np.pi * sigma**2), 1)} nats, the ceiling" in markdown
    assert f'<td>test digits</td><td class="n">360</td><td class="n">{format_number(np.median(digits), 1)}</td>' in html
    for kind, part in pd.read_parquet(results / "reports/probes.parquet").groupby("kind"):
        log_px, (value, error) = part["log_px"].to_numpy(), auroc(digits, part["log_px"].to_numpy())
        assert compare[f"auroc_{str(kind).replace(' ', '_')}"] == round(value, 4)
        assert re.search(
            rf'<td>{kind}</td><td class="n">20</td><td class="n">{format_number(np.median(log_px), 1)}</td>.*'
            rf"{format_number(value, 3)} <small>± {format_number(error or 0.0, 3)}</small>", html,
        )  # fmt: skip


def test_only_images_that_need_more_samples_get_and_pay_for_them(results: Path) -> None:
    """K = 64 is enough for some images; the proposals of the others are refined again, for 4 K samples.

    Of some images one half is kept. Each image has one mode here: more would cost more gradients.
    """
    table = pd.read_parquet(results / "reports/images.parquet")
    samples, evaluations = table["samples"].to_numpy(), table["evaluations"].to_numpy()
    gradients, more_gradients = 2 * (16 + 32), 2 * 128
    few, many = samples == 64, (samples == 256) | (samples == 32 + 256)
    assert few.sum() + many.sum() == 360
    assert min(few.sum(), many.sum()) > 36
    fit = evaluations - gradients - 64 - np.where(few, 0, more_gradients + 256)
    for of_level in fit[few], fit[many]:
        assert of_level.min() > 0
        assert of_level.max() < 100
    assert not table["rescued"].to_numpy().any()  # the budget allows none


def test_the_log_weights_are_those_of_the_first_images_of_the_table(results: Path) -> None:
    table = pd.read_parquet(results / "reports/images.parquet")
    parts = read_log_weights(results / "reports/log_weights.safetensors")
    assert len(parts) == 200
    for log_w, log_px, samples in zip(parts, table["log_px"], table["samples"], strict=False):
        assert len(log_w) == samples
        assert float(log_w.double().logsumexp(0)) - np.log(samples) == pytest.approx(log_px, abs=1e-3)


def test_the_model_is_that_of_the_best_epoch(results: Path) -> None:
    history = pd.read_csv(results / "reports/metrics/history.csv")
    train = json.loads((results / "reports/metrics/train.json").read_text())
    best = history.loc[history["validation_objective"].idxmax()]
    assert train["epoch"] == best["epoch"]
    assert train["validation"]["elbo"] == pytest.approx(best["validation_elbo"], rel=1e-5)


@pytest.mark.parametrize("blocks", [1, 3])
def test_an_interrupted_evaluation_continues_and_writes_the_same_bytes(
    results: Path, workspace: Path, run: Run, monkeypatch: pytest.MonkeyPatch, blocks: int
) -> None:
    for path in ("reports/images.parquet", "reports/log_weights.safetensors", "reports/metrics/evaluate.json"):
        (workspace / path).unlink()
    estimate = estimator.estimate_block
    done: list[tuple[str, int, bytes]] = []

    def counted(block: Block) -> estimator.Estimate:
        if len(done) == stop:
            raise KeyboardInterrupt
        done.append((block.settings.proposal, block.settings.seed, parts_of(block.x)[0].numpy().tobytes()))
        return estimate(block)

    monkeypatch.setattr(estimator, "estimate_block", counted)
    stop = blocks
    assert run("evaluate") == 130
    assert not (workspace / "reports/images.parquet").exists()
    assert len(done) == blocks
    stop = 10**9
    assert run("evaluate") == 0
    assert len(done) == len(set(done)) > blocks, "a block was measured twice"
    assert outputs(workspace) == outputs(results)


def test_a_few_test_images_are_enough_for_every_stage(workspace: Path, run: Run) -> None:
    write_params(workspace / "params.yaml", evaluate__images=3, verify__images=5)
    for stage in ("evaluate", "verify", "compare", "render", "report"):
        assert run(stage) == 0
    assert len(pd.read_parquet("reports/images.parquet")) == 3
    assert len(read_log_weights(Path("reports/log_weights.safetensors"))) == 3
    verified = pd.read_parquet("reports/verify.parquet")
    assert verified["kind"].tolist() == ["test"] * 3 + ["simulated"] * 5
    metrics = json.loads(Path("reports/metrics/verify.json").read_text())["verify"]
    simulated = verified[verified["kind"] == "simulated"]
    assert metrics["bdmc_gap"] == pytest.approx((simulated["upper"] - simulated["annealed"]).mean(), abs=1e-4)
    test = verified[verified["kind"] == "test"]
    assert metrics["difference"] == pytest.approx((test["log_px"] - test["annealed"]).mean(), abs=1e-4)
    assert np.allclose(test["log_px"], pd.read_parquet("reports/images.parquet")["log_px"])


def test_the_other_data_set_must_differ(workspace: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    write_params(workspace / "params.yaml", compare__other="digits")
    before = outputs(workspace)
    assert run("compare") == 1
    assert "compare.other = digits: another data set with images of 8 x 8 pixels" in capsys.readouterr().err
    assert outputs(workspace) == before


def test_one_image_of_each_kind_is_enough_for_every_stage(
    workspace: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    write_params(workspace / "params.yaml", evaluate__images=1, verify__images=1, compare__images=1)
    for stage in ("evaluate", "verify", "compare", "render", "report"):
        assert run(stage) == 0
    check_outputs(workspace, manifold=False)
    printed = capsys.readouterr()
    metrics = {name: read_metrics(Path(f"reports/metrics/{name}.json")) for name in ("evaluate", "verify", "compare")}
    for name, other in (("evaluate", "test"), ("verify", "verify"), ("compare", "compare")):
        found = metrics[name][other]
        assert not [key for key in found if key.endswith("_se")]
        assert all(abs(value) < 1e5 for value in found.values())
    assert metrics["evaluate"]["test"]["images"] == metrics["verify"]["verify"]["images"] == 1
    pages = [Path(f"reports/report.{end}").read_text(encoding="utf-8") for end in ("html", "md")]
    for text in (printed.out, printed.err, re.sub(r'src="data[^"]*"', "", pages[0]), pages[1]):
        assert not re.search(rf"\bnan\b|\binf\b|1000000|Not drawn: (?!<b>({NOT_DRAWN}))", text)
    assert "± –" in pages[0]


@pytest.mark.parametrize("labels", [[7], [3, 250], list(range(1, 27))])
def test_any_classes_are_drawn(results: Path, workspace: Path, run: Run, labels: list[int]) -> None:
    path = Path("data/images.safetensors")
    dataset = load_dataset(path)
    classes = torch.tensor(labels, dtype=torch.uint8)
    test, train = (classes[torch.arange(len(old)) % len(labels)] for old in (dataset.test_labels, dataset.train_labels))
    save_dataset(path, replace(dataset, test_labels=test, train_labels=train))
    for name in ("images", "probes", "verify"):
        table = pd.read_parquet(results / f"reports/{name}.parquet")
        relabelled = np.where(table["label"].isna(), np.nan, np.resize(labels, len(table)))
        write_parquet(Path(f"reports/{name}.parquet"), table.assign(label=relabelled))
    for stage in ("render", "report"):
        assert run(stage) == 0
    check_outputs(workspace, manifold=False)


def test_pictures_that_fail_lose_no_measurement(
    workspace: Path, run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even if all of them fail: DVC's outputs exist, and the report has the numbers and the reasons."""

    scenes: list[Scene] = []

    def broken(scene: Scene) -> Figure:
        scenes.append(scene)
        raise ValueError(f"no <{scene.shape[0]}> pixels")

    monkeypatch.setattr("stages.render.PICTURES", {name: replace(p, draw=broken) for name, p in PICTURES.items()})
    monkeypatch.setattr("stages.render.overview", broken)
    shutil.rmtree("reports/figures")
    assert run("render") == 0
    assert capsys.readouterr().err.count("ValueError: no <8> pixels") == len(PICTURES) + 1
    assert list(Path("reports/figures").iterdir()) == []
    assert len({Path(f"reports/{name}.png").read_bytes() for name in ("overview", "convergence")}) == 1
    assert run("report") == 0
    page = Path("reports/report.html").read_text(encoding="utf-8")
    assert page.count("ValueError: no &lt;8&gt; pixels") == len(PICTURES)
    assert "<td>ELBO</td>" in page
    dataset = load_dataset(Path("data/images.safetensors"))
    assert torch.equal(scenes[0].x, (dataset.test_images.flatten(1) + 0.5) / 17)  # the mean over the dequantisation
    assert np.array_equal(scenes[0].labels, dataset.test_labels)


def test_a_training_that_diverges_has_its_own_exit_code(
    workspace: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    write_params(workspace / "params.yaml", train__learning_rate=1e30)
    assert run("train") == NotFiniteError.exit_code == 3
    assert re.match(r"error: epoch \d+, ", capsys.readouterr().err)


def test_training_does_not_see_the_test_images(workspace: Path, run: Run) -> None:
    first, _ = load_checkpoint(Path("models/vae.safetensors"))
    path = Path("data/images.safetensors")
    dataset = load_dataset(path)
    dataset.test_images.zero_()
    save_dataset(path, dataset)
    Path("models/vae.safetensors").unlink()
    assert run("train") == 0
    again, _ = load_checkpoint(Path("models/vae.safetensors"))
    assert all(first[name].equal(again[name]) for name in first)


def test_an_unavailable_device_is_refused(
    workspace: Path, run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    write_params(workspace / "params.yaml", runtime__device="cuda")
    before = outputs(workspace)
    assert run("train") == 1
    assert "runtime.device = cuda: this machine has no such device; use cpu or auto" in capsys.readouterr().err
    assert outputs(workspace) == before
