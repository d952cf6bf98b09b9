"""Every observation model, network and objective through all stages, on few images of the smallest run."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from logpx.observations.gaussian import gaussian_ceiling
from pipeline.config import load_params
from pipeline.model.checkpoint import load_checkpoint
from pipeline.model.observations import OBSERVATIONS
from pipeline.storage.files import read_metrics
from tests.stages.test_stages import check_outputs
from tests.support import STAGES, Run

# Few images and samples.
FEW: dict[str, Any] = {
    "train__epochs": 1, "train__batch_size": 256, "evaluate__images": 6, "evaluate__comparison": 3,
    "evaluate__training_images": 4, "evaluate__samples": 32, "evaluate__budget": 32, "evaluate__elbo_samples": 4,
    "evaluate__prior_samples": 20, "verify__images": 2, "compare__images": 4, "verify__curve_images": 2,
    "judge__steps": 20, "sample__images": 40,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    **{name: {"model__observation": name} for name in OBSERVATIONS},
    "bernoulli": {"model__observation": "bernoulli", "data__binarise": "dynamic"},
    "bernoulli by threshold, iwae": {
        "model__observation": "bernoulli", "data__binarise": "threshold", "train__objective": "iwae",
        "train__samples": 3,
    },
    "learned sigma, beta": {"model__sigma": "learned", "train__objective": "beta", "train__beta": 0.5},
    "convolutions": {"model__network": "conv", "model__width": 2, "model__observation": "logistic"},
    "flow and label": {"model__prior": "flow", "model__condition": "label", "model__observation": "logistic"},
}  # fmt: skip


# The others run with the slow tests: most of the time is spent on drawing all pictures.
ALWAYS = {"bernoulli", "convolutions"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in ALWAYS else pytest.mark.slow) for name in MODELS]
)
def test_every_stage_runs_and_the_report_names_the_model(
    small_params: Callable[..., Path], run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    small_params(**FEW | MODELS[name])
    for stage in STAGES:
        assert run(stage) == 0, capsys.readouterr().err
    assert "Error" not in capsys.readouterr().err  # no picture failed
    params = load_params()
    check_outputs(tmp_path, manifold=False, conditional=params.model.condition == "label")

    table = pd.read_parquet("reports/images.parquet")
    assert len(table) == 6
    assert np.isfinite(table[["elbo", "log_px"]].to_numpy(dtype=float)).all()
    metrics = read_metrics(Path("reports/metrics/evaluate.json"))
    test = metrics["test"]
    levels = 17 if params.data.binarise == "none" else 1
    expected = math.log2(levels) - test["log_px"] / (64 * math.log(2))
    assert test["bits_per_dim"] == pytest.approx(expected, abs=1e-3)
    discrete = params.model.observation not in ("gaussian", "gaussian_per_pixel")
    if discrete:  # probabilities, so log P(v) < 0 and a code has a positive length
        assert test["bits_per_dim"] > 0
    for part in ("train", "validation"):
        assert metrics[part]["images"] == 4
    assert metrics["train"]["log_px"] != metrics["validation"]["log_px"]

    compare = read_metrics(Path("reports/metrics/compare.json"))["compare"]
    fixed = params.model.observation == "gaussian" and params.model.sigma != "learned"
    assert ("independent" in compare) == fixed
    assert ("ppca" in compare) == (params.data.binarise == "none")
    uniform = 0.0 if params.data.binarise == "none" else -64 * math.log(2)
    assert compare["uniform"] == pytest.approx(uniform, abs=1e-3)
    assert "histogram" in compare

    html, markdown = (Path(f"reports/report.{end}").read_text(encoding="utf-8") for end in ("html", "md"))
    for text in (html, markdown):
        for word in (params.model.observation, params.model.network, params.train.objective):
            assert word in text
        if params.data.binarise != "none":
            assert params.data.binarise in text
    history = pd.read_csv("reports/metrics/history.csv")
    assert {"train_objective", "validation_objective"} <= set(history)
    assert json.loads(Path("reports/metrics/train.json").read_text())["epoch"] == 1


@pytest.mark.slow
def test_the_ceiling_in_the_report_has_the_sigma_that_was_learned(small_params: Callable[..., Path], run: Run) -> None:
    small_params(**FEW | {"model__sigma": "learned", "train__epochs": 3, "train__learning_rate": 0.05})
    for stage in STAGES:
        assert run(stage) == 0
    weights, _ = load_checkpoint(Path("models/vae.safetensors"))
    sigma = weights["decoder.log_sigma"].exp().item()
    assert abs(sigma - 0.25) > 0.01
    ceiling = gaussian_ceiling(64, sigma)
    text = Path("reports/report.md").read_text(encoding="utf-8")
    assert f"σ = {sigma:.4g}, learned" in text
    assert f"{ceiling:.1f}".replace("-", "−") in text
