"""Each stage's `main` on the smallest run: what it writes, that it writes it twice the same, what it refuses."""

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from test_contract import STAGES, command

from pipeline.errors import guarded
from pipeline.gallery import PICTURES

Run = Callable[[str], int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a stage as dvc.yaml does, but in this process."""

    def stage(name: str) -> int:
        for code in ("pipeline", "stages"):  # what the report's code digest reads
            if not Path(code).exists():
                Path(code).symlink_to(ROOT / code)
        monkeypatch.setattr(sys, "argv", [name, *command(name)[3:]])
        return guarded(importlib.import_module(f"stages.{name}").main)

    return stage


def outputs(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.parts[len(folder.parts)] in ("data", "models", "reports")
    }


@pytest.mark.parametrize("latent", [1, 2, 3])
def test_all_stages_write_what_dvc_expects_and_twice_the_same(
    small_params: Callable[..., Path], run: Run, tmp_path: Path, latent: int
) -> None:
    small_params(model__latent=latent)
    for stage in STAGES:
        assert run(stage) == 0
    first = outputs(tmp_path)
    for stage in STAGES:
        assert run(stage) == 0
    assert outputs(tmp_path) == first

    expected = {word for stage in STAGES for word in command(stage)[3:] if not word.startswith("--")}
    expected = {path for path in expected if not path.endswith("figures")}
    drawn = set(PICTURES) - (set() if latent == 2 else {"manifold"})
    assert set(first) == expected | {f"reports/figures/{name}.png" for name in drawn}
    for name, content in first.items():
        if name.endswith(".png"):
            image = matplotlib.image.imread(tmp_path / name)
            assert image.shape[0] > 150, name
            assert image.shape[1] > 150, name
            assert image[..., :3].std() > 0.02, f"{name} is blank"
        assert content


def test_metrics_are_those_of_the_table(small_params: Callable[..., Path], run: Run) -> None:
    small_params()
    for stage in ("download", "train", "evaluate"):
        assert run(stage) == 0
    test = json.loads(Path("reports/metrics/evaluate.json").read_text())["test"]
    table = {name: column.to_numpy() for name, column in pd.read_parquet("reports/images.parquet").items()}
    assert len(table["label"]) == test["images"] == 360
    for name in ("elbo", "reconstruction", "kl", "log_px"):
        assert test[name] == pytest.approx(table[name].mean(), abs=1e-4)
        assert test[f"{name}_se"] == pytest.approx(table[name].std(ddof=1) / 360**0.5, abs=1e-4)
    assert test["ess_median"] == pytest.approx(np.median(table["ess"]), abs=1e-4)
    assert test["trusted"] == pytest.approx(table["trusted"].mean(), abs=1e-4)
    assert test["gap"] == pytest.approx(test["log_px"] - test["elbo"], abs=2e-4)
    assert abs(table["elbo"] - (table["reconstruction"] - table["kl"])).max() < 1e-9
    assert set(table["samples"]) <= {32.0, 64.0, 128.0}
    assert np.isnan(table["encoder_log_px"]).sum() == 360 - test["encoder_images"] == 340
    # Up to rounding, between one sample and all of them.
    assert table["ess"].min() > 1 - 1e-9
    assert (table["ess"] < table["samples"] + 1e-9).all()
    assert table["prior_ess"].max() < 50 + 1e-9

    history = pd.read_csv("reports/metrics/history.csv")
    train = json.loads(Path("reports/metrics/train.json").read_text())
    best = history.loc[history["validation_elbo"].idxmax()]
    assert train["epoch"] == best["epoch"]
    assert train["validation"]["elbo"] == pytest.approx(best["validation_elbo"], rel=1e-5)


@pytest.mark.parametrize("blocks", [1, 3])
def test_an_interrupted_evaluation_goes_on_and_writes_the_same_bytes(
    small_params: Callable[..., Path], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: int
) -> None:
    from pipeline.likelihood import importance

    small_params()
    assert [run(stage) for stage in ("download", "train", "evaluate")] == [0, 0, 0]
    undisturbed = outputs(tmp_path)
    for path in ("reports/images.parquet", "reports/metrics/evaluate.json"):
        (tmp_path / path).unlink()
    compute, done = importance.log_px_of_block, []

    def counted(block: importance.Block, proposal: str) -> importance.Estimate:
        if len(done) == blocks:
            raise KeyboardInterrupt
        done.append(block.images)
        return compute(block, proposal)

    monkeypatch.setattr(importance, "log_px_of_block", counted)
    assert run("evaluate") == 130
    assert not (tmp_path / "reports/images.parquet").exists()
    again = []
    monkeypatch.setattr(
        importance, "log_px_of_block", lambda block, proposal: (again.append(block.images), compute(block, proposal))[1]
    )
    assert run("evaluate") == 0
    assert not set(done) & set(again[: len(again) - 1])
    assert outputs(tmp_path) == undisturbed


def test_a_few_test_images_are_enough_for_every_stage(small_params: Callable[..., Path], run: Run) -> None:
    small_params(evaluate__images=3, verify__images=5)
    for stage in STAGES:
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


def test_another_data_set_must_be_another_one_of_the_same_size(
    small_params: Callable[..., Path], run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    small_params(compare__other="digits", evaluate__images=3)
    for stage in ("download", "train", "evaluate"):
        assert run(stage) == 0
    assert run("compare") == 1
    assert "compare.other = digits: another data set with images of 8 x 8 pixels" in capsys.readouterr().err
    assert not Path("reports/probes.parquet").exists()


@pytest.mark.parametrize("khat", [-np.inf, np.inf])
def test_a_tail_without_measure_leaves_the_metrics_finite(khat: float) -> None:
    from pipeline.likelihood.evaluation import summary

    names = (
        "elbo",
        "reconstruction",
        "kl",
        "log_px",
        "trusted",
        "converged",
        "samples",
        "evaluations",
        "log_px_se",
        "ess",
    )
    columns = {key: [1.0, 1.0] for key in (*names, "encoder_log_px", "encoder_ess", "prior_log_px", "prior_ess")}
    assert np.isfinite(list(summary(pd.DataFrame({**columns, "khat": [khat, khat]})).values())).all()


def test_the_test_images_do_not_touch_the_model(small_params: Callable[..., Path], run: Run) -> None:
    from pipeline import checkpoint, datasets

    small_params()
    assert [run("download"), run("train")] == [0, 0]
    first, _ = checkpoint.load(Path("models/vae.safetensors"))
    path = Path("data/images.safetensors")
    dataset = datasets.load(path)
    dataset.test_images.zero_()
    datasets.save(path, dataset)
    assert run("train") == 0
    again, _ = checkpoint.load(Path("models/vae.safetensors"))
    assert all(first[name].equal(again[name]) for name in first)


@pytest.mark.parametrize("stage", ["train", "evaluate", "render", "report"])
def test_a_missing_or_damaged_input_is_named_and_nothing_is_written(
    small_params: Callable[..., Path], run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    small_params()
    before = outputs(tmp_path)
    assert run(stage) == 1
    told = capsys.readouterr().err
    assert "is missing; run `dvc repro`" in told
    first = Path(command(stage)[4])
    first.parent.mkdir(parents=True)
    first.write_bytes(b"nonsense")
    assert run(stage) == 1
    assert f"{first} is damaged" in capsys.readouterr().err
    first.unlink()
    assert outputs(tmp_path) == before


def test_a_device_that_is_not_there_is_refused(
    small_params: Callable[..., Path], run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    small_params(runtime__device="cuda")
    assert run("download") == 0
    assert run("train") == 1
    assert "runtime.device = cuda: this machine has no such device; use cpu or auto" in capsys.readouterr().err
    assert not Path("models").exists()
