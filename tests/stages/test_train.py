"""The stage `train` on images that are not square: what it writes about the model and the best epoch."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from pipeline.config import load_params
from pipeline.data.dataset import Dataset, save_dataset
from pipeline.model.checkpoint import load_checkpoint
from pipeline.storage.files import read_metrics, sha256
from tests.support import Run


def test_the_outputs_describe_the_images_and_the_best_epoch(
    small_params: Callable[..., Path], run: Run, tmp_path: Path, tiny: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    # The learning rate stays large, so the last epoch is not the best one.
    small_params(train__epochs=40, train__learning_rate=0.3, train__final_learning_rate=1.0, train__batch_size=16)
    data = tmp_path / "data/images.safetensors"
    save_dataset(data, tiny)
    assert run("train") == 0
    history = pd.read_csv("reports/metrics/history.csv")
    best = history.loc[history["validation_elbo"].idxmax()]
    assert best["epoch"] < len(history) == 40
    _, description = load_checkpoint(Path("models/vae.safetensors"))
    assert (description.height, description.width, description.grey_levels, description.binarise) == (6, 5, 17, "none")
    train = load_params().train
    assert (description.validation, description.seed) == (train.validation, train.seed)
    assert (description.dataset, description.data_sha256) == ("tiny", sha256(data))
    assert description.model == load_params().model
    assert description.epoch == best["epoch"]
    metrics = read_metrics(Path("reports/metrics/train.json"))
    assert metrics["epoch"] == best["epoch"]
    assert metrics["train"] == {"elbo": pytest.approx(best["train_elbo"], abs=1e-3)}  # the history has six digits
    assert metrics["validation"] == {"elbo": pytest.approx(best["validation_elbo"], abs=1e-3)}
    kept = [line for line in capsys.readouterr().out.splitlines() if line.endswith("best")]
    last = f"ELBO {best['train_elbo']:9.2f} training  {best['validation_elbo']:9.2f} validation"
    assert last in kept[-1]
