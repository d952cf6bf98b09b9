"""Evaluate: the ELBO and log p(x) of every test image, in nats, with what speaks for each estimate."""

import math
import sys

import numpy as np
import pandas as pd
import torch

from pipeline import config, datasets, runtime, tables, trained
from pipeline.errors import guarded
from pipeline.files import write_json
from pipeline.likelihood import importance
from pipeline.observations import dequantised
from pipeline.tracking.run import Run
from pipeline.vae import VAE


def main() -> None:
    arguments = runtime.paths(__doc__, "data", "model", "table", "metrics")
    params = config.load()
    settings = params.evaluate
    device = runtime.start(params.runtime, settings.seed)
    dataset = datasets.load(arguments.data)
    model = trained.load(arguments.model, device)
    x = dequantised(dataset.test_images, dataset.levels, settings.seed)[: settings.images].to(device)

    with Run("evaluate", params.tracking, model.data, model.sha256) as run:
        run.settings({"evaluate": settings.model_dump()})
        table = pd.DataFrame({"label": dataset.test_labels[: settings.images], **measure(model.vae, x, settings)})
        metrics = summary(table)
        tables.write_parquet(arguments.table, table)
        write_json(arguments.metrics, {"test": metrics})
        run.metrics({"test": metrics})
    print(f"ELBO: {metrics['elbo']:.2f} ± {metrics['elbo_se']:.2f} nats per image")
    print(f"log p(x): {metrics['log_px']:.2f} ± {metrics['log_px_se']:.2f}, {metrics['trusted']:.1%} of images trusted")


def measure(vae: VAE, x: torch.Tensor, settings: config.Evaluate) -> dict[str, torch.Tensor]:
    """The columns of the table of images: nats, counts, and verdicts."""
    common = {"seed": settings.seed, "chunk": settings.chunk}
    elbos = importance.elbos(vae, x, samples=settings.elbo_samples, **common)
    prior = importance.prior_monte_carlo(vae, x, samples=settings.prior_samples, **common)
    main, converged, evaluations = log_px(vae, x, settings, settings.proposal)
    # The usual estimate with as many decoder evaluations as fit, pilots and estimate took on average, and no more.
    equal = max(32, round(float(evaluations.mean()) / (1 + 1 / importance.PILOTS)))
    usual = settings.model_copy(update={"samples": equal, "budget": equal})
    encoder, _, _ = log_px(vae, x[: settings.comparison], usual, "encoder")
    beyond = torch.full((len(x) - len(encoder.log_px),), torch.nan, dtype=torch.float64)
    return {
        "elbo": elbos.value,
        "reconstruction": elbos.reconstruction,
        "kl": elbos.kl,
        "log_px": main.log_px,
        "log_px_se": main.standard_error,
        "ess": main.ess,
        "khat": main.khat,
        "samples": main.samples,
        "trusted": main.trusted,
        "converged": converged,
        "evaluations": evaluations,
        "encoder_log_px": torch.cat([encoder.log_px, beyond]),
        "encoder_ess": torch.cat([encoder.ess, beyond]),
        "prior_log_px": prior.log_px,
        "prior_ess": prior.ess,
    }


def log_px(vae: VAE, x: torch.Tensor, settings: config.Evaluate, proposal: str) -> importance.Estimate:
    """All blocks of images, with progress."""
    total = len(importance.blocks(len(x), vae, settings.chunk))
    blocks = runtime.progress(importance.log_px_by_blocks(vae, x, settings, proposal), total, f"log p(x), {proposal}")
    return importance.concatenate(list(blocks))


def summary(table: pd.DataFrame) -> dict[str, float]:
    """Means over the test images with their standard errors, shares and medians.

    An image's estimate carries its own sampling error, so the spread of the estimates over images holds both that
    and the images' own: the standard error of the mean combines the two.
    """
    columns = {str(name): column.to_numpy() for name, column in table.items()}
    compared = ~np.isnan(columns["encoder_log_px"])
    short = (columns["log_px"] - columns["encoder_log_px"])[compared]
    values: dict[str, float] = {"images": len(table)}
    for name in ("elbo", "reconstruction", "kl", "log_px"):
        values[name] = float(columns[name].mean())
        values[f"{name}_se"] = float(columns[name].std(ddof=1) / math.sqrt(len(table)))
    values["gap"] = values["log_px"] - values["elbo"]
    values["trusted"] = float(columns["trusted"].mean())
    values["converged"] = float(columns["converged"].mean())
    values["samples_mean"] = float(columns["samples"].mean())
    values["evaluations_mean"] = float(columns["evaluations"].mean())
    values["image_se_median"] = float(np.median(columns["log_px_se"]))
    values["ess_median"] = float(np.median(columns["ess"]))
    values["khat_median"] = float(np.median(columns["khat"]))
    values["encoder_images"] = int(compared.sum())
    values["encoder_short"] = float(short.mean())
    values["encoder_ess_median"] = float(np.median(columns["encoder_ess"][compared]))
    values["prior_log_px"] = float(columns["prior_log_px"].mean())
    values["prior_ess_median"] = float(np.median(columns["prior_ess"]))
    # JSON has no infinity: the shape of a tail beyond measure, or of no tail at all, is a very large number.
    return {name: round(max(-1e6, min(value, 1e6)), 4) for name, value in values.items()}


if __name__ == "__main__":
    sys.exit(guarded(main))
