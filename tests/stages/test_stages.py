"""Each stage's `main` on the smallest run: what it writes, that it writes the same bytes again, what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from logpx import importance
from pipeline.data.dataset import load_dataset, save_dataset
from pipeline.evaluation.test_images import summarise
from pipeline.model.checkpoint import load_checkpoint
from pipeline.report.pictures import PICTURES
from tests.support import STAGES, Run, command, outputs, write_params


def check_outputs(folder: Path, *, manifold: bool) -> None:
    """Every file that dvc.yaml names exists, and no other; every picture shows something."""
    expected = {word for stage in STAGES for word in command(stage)[3:] if not word.startswith("--")}
    expected.remove("reports/figures")
    figures = set(PICTURES) - (set() if manifold else {"manifold"})
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


@pytest.mark.parametrize("latent", [1, 2])
def test_with_one_or_two_latent_dimensions_too(
    small_params: Callable[..., Path], run: Run, tmp_path: Path, latent: int
) -> None:
    small_params(model__latent=latent)
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


def test_only_images_that_need_more_samples_get_and_pay_for_them(results: Path) -> None:
    """K = 64 is enough for some images; the proposals of the others are refined again, for 4 K samples."""
    table = pd.read_parquet(results / "reports/images.parquet")
    samples, evaluations = table["samples"].to_numpy(), table["evaluations"].to_numpy()
    pilots, gradients, more_gradients = 32, 2 * (32 + 64), 2 * 128
    few, many = samples == 64, samples == 256
    assert few.sum() + many.sum() == 360
    assert min(few.sum(), many.sum()) > 36
    fit = evaluations - gradients - pilots - np.where(few, 64, more_gradients + 4 * pilots + 256)
    for of_level in fit[few], fit[many]:
        assert of_level.min() > 0
        assert of_level.max() < 100


def test_the_model_is_that_of_the_best_epoch(results: Path) -> None:
    history = pd.read_csv(results / "reports/metrics/history.csv")
    train = json.loads((results / "reports/metrics/train.json").read_text())
    best = history.loc[history["validation_elbo"].idxmax()]
    assert train["epoch"] == best["epoch"]
    assert train["validation"]["elbo"] == pytest.approx(best["validation_elbo"], rel=1e-5)


@pytest.mark.parametrize("blocks", [1, 3])
def test_an_interrupted_evaluation_continues_and_writes_the_same_bytes(
    results: Path, workspace: Path, run: Run, monkeypatch: pytest.MonkeyPatch, blocks: int
) -> None:
    for path in ("reports/images.parquet", "reports/metrics/evaluate.json"):
        (workspace / path).unlink()
    estimate = importance.estimate
    done: list[tuple[str, int]] = []

    def counted(block: importance.Block) -> importance.Estimate:
        if len(done) == stop:
            raise KeyboardInterrupt
        done.append((block.settings.proposal, int(block.images[0])))
        return estimate(block)

    monkeypatch.setattr(importance, "estimate", counted)
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


@pytest.mark.parametrize("khat", [-np.inf, np.inf])
def test_an_infinite_tail_shape_leaves_the_metrics_finite(results: Path, khat: float) -> None:
    table = pd.read_parquet(results / "reports/images.parquet").assign(khat=khat)
    assert np.isfinite(list(summarise(table).values())).all()


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
