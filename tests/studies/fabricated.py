"""Records that nothing was measured for."""

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.report import plotting
from studies import records
from studies.records import Record

GREY = {"uniform": 0.0, "variances": 1021.7, "covariance": 1474.0, "histogram": 3430.2}


def record(name: str, log_px: float, **changes: Any) -> Record:
    """A record of grey MNIST, with other fields changed."""
    binarised = changes.get("binarise", "none") != "none"
    histogram = changes.get("histogram", 3430.2)
    fields: dict[str, Any] = {
        "name": name, "dataset": "mnist", "binarise": "none", "revision": "abc-dirty", "date": "2026-11-26",
        "training_environment": ["a processor"], "environment": ["another processor"], "settings": {},
        "images": 1000, "log_px": log_px, "log_px_se": 4.25,
        "bits_per_dim": (0 if binarised else 8) - log_px / 784 / np.log(2),
        "elbo": log_px - 12.5, "elbo_se": 4.5, "gap": 12.5, "reconstruction": log_px + 30.0, "kl": 42.5,
        "active_units": 15, "latent": 16, "trusted": 0.975, "evaluations_mean": 903.0, "training_images": 300,
        "train_log_px": log_px + 20.0, "train_log_px_se": 8.5, "validation_log_px": log_px + 2.0,
        "validation_log_px_se": 8.25, "verified": 16, "difference": 0.03, "difference_se": 0.02,
        "train_seconds": 70.0, "epochs": 18, "epoch": 17, "parameters": 1_354_720, "ceiling": 784 * np.log(256),
        "baselines": GREY, "histogram": histogram, "above_histogram": log_px - histogram, "model_sha256": "0" * 64,
    }  # fmt: skip
    return Record.model_validate(fields | changes)


def write(folder: Path, *made: Record) -> None:
    """Write records with pictures of noise."""
    noise = np.random.default_rng(0).random((1, 2, 4, 4))
    for one in made:
        records.write(one, records.Pictures(plotting.grid(noise), np.full((records.SAMPLES, 28, 28), 0.5)), folder)
