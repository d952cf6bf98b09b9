"""A model with a flow and labels through the stages that train and measure it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.data.dataset import Dataset, load_dataset, save_dataset
from pipeline.model.checkpoint import load_model
from pipeline.storage.files import read_metrics
from tests.support import Run, outputs

MEASURING = ("train", "evaluate", "verify", "compare")
FEW: dict[str, Any] = {
    "model__prior": "flow", "model__condition": "label", "model__couplings": 2, "evaluate__images": 30,
    "evaluate__comparison": 5, "evaluate__training_images": 8, "evaluate__budget": 64, "compare__images": 4,
}  # fmt: skip


@pytest.mark.slow
def test_it_is_trained_and_measured_with_every_label_and_again_with_the_same_bytes(
    small_params: Callable[..., Path], run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_params(**FEW)
    for stage in ("download", *MEASURING):
        assert run(stage) == 0, capsys.readouterr().err
    dataset = load_dataset(Path("data/images.safetensors"))
    model = load_model(Path("models/vae.safetensors"), torch.device("cpu"))
    assert model.description.shares == model.vae.shares == dataset.class_shares()
    assert model.vae.classes == 10

    table = pd.read_parquet("reports/images.parquet")
    assert table["label"].tolist() == dataset.test_labels[:30].tolist()
    given, whole = table["log_px_given_label"].to_numpy(), table["log_px"].to_numpy()
    assert np.isfinite(given).all()
    # p(x) is at least the own label's part of it.
    own = np.log(np.array(model.vae.shares))[table["label"].to_numpy()]
    assert (whole >= given + own - 1e-9).all()
    test = json.loads(Path("reports/metrics/evaluate.json").read_text())["test"]
    assert test["log_px"] == pytest.approx(whole.mean(), abs=1e-4)
    assert test["log_px_given_label"] == pytest.approx(given.mean(), abs=1e-4)
    assert test["log_px_given_label_se"] == pytest.approx(given.std(ddof=1) / 30**0.5, abs=1e-4)
    assert test["gap"] == pytest.approx(test["log_px_given_label"] - test["elbo"], abs=2e-4)
    assert test["trusted_given_label"] == pytest.approx(table["trusted_given_label"].mean(), abs=1e-4)
    accuracy = (table["predicted"] == table["label"]).mean()
    assert test["accuracy"] == pytest.approx(accuracy, abs=1e-4)
    assert test["accuracy_se"] == pytest.approx((accuracy * (1 - accuracy) / 29) ** 0.5, abs=1e-3)

    verified = pd.read_parquet("reports/verify.parquet")
    of_test = verified[verified["kind"] == "test"]
    assert of_test["log_px"].tolist() == given[: len(of_test)].tolist()  # annealing estimates log p(x | y)
    verify = read_metrics(Path("reports/metrics/verify.json"))["verify"]
    assert abs(verify["difference"]) < 5
    assert len(pd.read_parquet("reports/probes.parquet")) % 4 == 0

    first = outputs(tmp_path)
    for folder in ("models", "reports"):
        shutil.rmtree(folder)
    for stage in MEASURING:
        assert run(stage) == 0
    assert outputs(tmp_path) == first


def test_images_of_one_class_are_refused_before_anything_is_trained(
    small_params: Callable[..., Path], run: Run, tmp_path: Path, tiny: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    small_params(model__condition="label", evaluate__images=20, compare__images=20)
    for label in (0, 3):
        labels = torch.full((60,), label), torch.full((20,), label)
        save_dataset(tmp_path / "data/images.safetensors", replace(tiny, train_labels=labels[0], test_labels=labels[1]))
        assert run("train") == 1
        message = capsys.readouterr().err
        assert message == (
            "error: model.condition = label: the training images have no labels of two or more classes; use none\n"
        )
        assert not Path("models").exists()
    save_dataset(tmp_path / "data/images.safetensors", replace(tiny, test_labels=torch.full((20,), 1000)))
    assert run("train") == 1
    assert "data set tiny: labels up to 1000; at most 1000 classes are possible" in capsys.readouterr().err
