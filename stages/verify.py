"""Verify: log p(x) by second methods, on some test images and on images simulated from the model."""

import math
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from pipeline import config, datasets, lifetime, runtime, tables, trained
from pipeline.errors import UserError
from pipeline.files import write_json
from pipeline.likelihood import annealed, convergence, gap, importance
from pipeline.likelihood.weights import Weights
from pipeline.observations import dequantised
from pipeline.tracking.run import Run
from pipeline.vae import VAE


def main() -> None:
    arguments = runtime.paths(__doc__, "data", "model", "images", "table", "curves", "metrics")
    params = config.load()
    settings = params.verify
    device = runtime.start(params.runtime.device, settings.seed)
    dataset = datasets.load(arguments.data)
    model = trained.load(arguments.model, device)
    params = params.model_copy(update={"evaluate": importance.sized(params.evaluate, model.vae)})
    measured = tables.read_parquet(arguments.images, "log_px", "log_px_se", "elbo").head(settings.images)

    # The very densities that the evaluation measured.
    x = dequantised(dataset.test_images, dataset.levels, params.evaluate.seed)[: len(measured)].to(device)

    with Run("verify", params.tracking, model.data, model.sha256) as run:
        run.settings({"verify": settings.model_dump()})
        table = pd.concat(
            [on_test_images(model.vae, x, measured, params), on_simulated_images(model.vae, params, device)]
        )
        curves = pd.concat(curves_of(model.vae, x[: settings.curve_images], params))
        metrics = summary(table)
        tables.write_parquet(arguments.table, table.reset_index(drop=True))
        tables.write_csv(arguments.curves, curves)
        write_json(arguments.metrics, {"verify": metrics, "environment": runtime.environment(device)})
        run.metrics({"verify": metrics})
    print(f"evaluate - annealed: {metrics['difference']:+.2f} ± {metrics['difference_se']:.2f} nats per image")
    print(f"bidirectional gap on simulated images: {metrics['bdmc_gap']:.2f} ± {metrics['bdmc_gap_se']:.2f} nats")


def on_test_images(vae: VAE, x: torch.Tensor, measured: pd.DataFrame, params: config.Params) -> pd.DataFrame:
    """The evaluation's estimates beside annealed ones, and the best ELBO that a diagonal Gaussian can reach."""
    settings = params.verify
    annealing = [annealed.annealed(path) for path in paths(vae, x, params)]
    best = gap.best_elbo(
        vae, x, samples=settings.gap_samples, steps=settings.gap_steps, seed=settings.seed, chunk=params.evaluate.chunk
    )
    return measured[["label", "log_px", "log_px_se", "elbo"]].assign(
        kind="test", **lower_bound(torch.cat(annealing, 1)), best_elbo=best.numpy()
    )


def on_simulated_images(vae: VAE, params: config.Params, device: torch.device) -> pd.DataFrame:
    """Bounds from both sides, and the default estimate, on x simulated from the model with a known z."""
    settings = params.verify
    generator = torch.Generator().manual_seed(settings.seed)
    z = torch.randn(settings.images, vae.latent, generator=generator).to(device)
    with torch.no_grad():
        p = vae.decoder(z)
        # On the CPU, so that every device simulates the same noise.
        x = replace(p, mean=p.mean.cpu()).sample(generator).to(device)
    evaluate = params.evaluate.model_copy(update={"seed": settings.seed})
    default = importance.log_px(vae, x, evaluate, evaluate.proposal).diagnosis
    both = [annealed.bidirectional(path, z[path.images.start : path.images.stop]) for path in paths(vae, x, params)]
    forward, reverse = (torch.cat(part, 1) for part in zip(*both, strict=True))
    upper = lower_bound(-reverse)
    return pd.DataFrame({
        "kind": "simulated", "log_px": default.log_px, "log_px_se": default.standard_error, **lower_bound(forward),
        "upper": -upper["annealed"], "upper_se": upper["annealed_se"],
    })  # fmt: skip


def paths(vae: VAE, x: torch.Tensor, params: config.Params) -> list[annealed.Path]:
    """Annealing for each block of images, from the evaluation's proposal, fitted anew."""
    evaluate = params.evaluate.model_copy(update={"seed": params.verify.seed, "budget": params.evaluate.samples})
    found = []
    for images in annealed.blocks(len(x), params.verify, evaluate.chunk):
        block = importance.Block(vae, x[images.start : images.stop], images, evaluate)
        proposal = importance.prepare(block, evaluate.proposal).proposal
        found.append(annealed.Path(vae, block.x, proposal, images, params.verify))
    return found


def lower_bound(log_w: torch.Tensor) -> dict[str, NDArray[np.float64]]:
    weights = Weights.of(log_w)
    return {"annealed": weights.log_mean.numpy(), "annealed_se": weights.standard_error.numpy()}


def curves_of(vae: VAE, x: torch.Tensor, params: config.Params) -> list[pd.DataFrame]:
    """The estimate against decoder evaluations, for every proposal and for annealing from the prior."""
    evaluate = params.evaluate.model_copy(update={"seed": params.verify.seed})
    samples = params.verify.curve_samples
    names = ("prior", "encoder", "laplace", "mixture")
    by_importance = [convergence.importance_curve(vae, x, evaluate, name, samples) for name in names]
    return [*by_importance, convergence.annealed_curve(vae, x, params.verify, evaluate.chunk)]


def summary(table: pd.DataFrame) -> dict[str, float]:
    """Means over images in nats, each with its standard error over images; `not_finite` differences are in none.

    Raises:
        UserError: when a mean is one of nothing.
    """
    test, simulated = tables.rows(table, "kind", "test"), tables.rows(table, "kind", "simulated")
    columns = {
        "difference": tables.numbers(test, "log_px") - tables.numbers(test, "annealed"),
        "approximation_gap": tables.numbers(test, "log_px") - tables.numbers(test, "best_elbo"),
        "amortisation_gap": tables.numbers(test, "best_elbo") - tables.numbers(test, "elbo"),
        "bdmc_gap": tables.numbers(simulated, "upper") - tables.numbers(simulated, "annealed"),
        "above_lower": tables.numbers(simulated, "log_px") - tables.numbers(simulated, "annealed"),
        "below_upper": tables.numbers(simulated, "upper") - tables.numbers(simulated, "log_px"),
    }
    values: dict[str, float] = {
        "images": len(test), "not_finite": int(sum((~np.isfinite(nats)).sum() for nats in columns.values()))
    }  # fmt: skip
    for name, every in columns.items():
        nats = every[np.isfinite(every)]
        if not len(nats):
            raise UserError(f"verify: no image has a finite {name}; train again with a larger model.sigma")
        values[name] = float(nats.mean())
        values[f"{name}_se"] = float(nats.std(ddof=1)) / math.sqrt(len(nats)) if len(nats) > 1 else 0.0
    return {name: round(value, 4) for name, value in values.items()}


if __name__ == "__main__":
    sys.exit(lifetime.run(main))
