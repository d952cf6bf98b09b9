"""Evaluate: the ELBO and log p(x) of every test image, in nats, with effective sample sizes."""

import math
import sys

import numpy as np
import pandas as pd
import torch

from pipeline import checkpoint, config, datasets, runtime, tables
from pipeline.errors import guarded
from pipeline.files import sha256, write_json
from pipeline.likelihood.importance import Estimates, image_blocks, importance, prior_monte_carlo
from pipeline.observations import dequantise
from pipeline.tracking import Run
from pipeline.vae import VAE


def main() -> None:
    arguments = runtime.paths(__doc__, "data", "model", "table", "metrics")
    params = config.load()
    settings = params.evaluate
    device = runtime.device(params.runtime.device)
    dataset = datasets.load(arguments.data)
    weights, description = checkpoint.load(arguments.model)

    runtime.deterministic(settings.seed)
    vae = VAE(description.model, dataset.pixels)
    checkpoint.restore(vae, weights, arguments.model)
    vae.to(device)
    # Drawn on the CPU, so that every device measures the same densities.
    noise = torch.Generator().manual_seed(settings.seed)
    x = dequantise(dataset.test_images.flatten(1), dataset.levels, noise).to(device)

    blocks = importance(vae, x, samples=settings.samples, seed=settings.seed, chunk=settings.chunk)
    total = len(image_blocks(len(x), settings.chunk))
    encoder = Estimates(*map(torch.cat, zip(*runtime.progress(blocks, total, "evaluate"), strict=True)))
    prior = prior_monte_carlo(vae, x, samples=settings.prior_samples, seed=settings.seed, chunk=settings.chunk)

    table = pd.DataFrame(
        {
            "label": dataset.test_labels,
            "elbo": encoder.elbo,
            "reconstruction": encoder.reconstruction,
            "kl": encoder.kl,
            "log_px": encoder.log_px,
            "ess": encoder.ess,
            "prior_log_px": prior.log_px,
            "prior_ess": prior.ess,
        }
    )
    metrics = summary(table)
    tables.write_parquet(arguments.table, table)
    write_json(arguments.metrics, {"test": metrics})
    with Run("evaluate", sha256(arguments.model)) as run:
        run.metrics({f"test.{key}": value for key, value in metrics.items()})
    for name, label in (("elbo", "ELBO"), ("log_px", "log p(x), encoder's proposal")):
        print(f"{label}: {metrics[name]:.2f} ± {metrics[f'{name}_se']:.2f} nats per image")


def summary(table: pd.DataFrame) -> dict[str, float]:
    """Means over the test images with their standard errors, and medians of the effective sample sizes."""
    values: dict[str, float] = {"images": len(table)}
    columns = {name: column.to_numpy() for name, column in table.items()}
    for name in ("elbo", "reconstruction", "kl", "log_px", "prior_log_px"):
        values[name] = float(columns[name].mean())
        values[f"{name}_se"] = float(columns[name].std(ddof=1) / math.sqrt(len(table)))
    values["ess_median"] = float(np.median(columns["ess"]))
    values["prior_ess_median"] = float(np.median(columns["prior_ess"]))
    return {name: round(value, 4) for name, value in values.items()}


if __name__ == "__main__":
    sys.exit(guarded(main))
