"""Evaluate: the ELBO and log p(x) of every test image, in nats, with what speaks for each estimate."""

import math
import sys

import numpy as np
import pandas as pd
import torch

from pipeline import config, datasets, lifetime, runtime, scratch, tables, trained
from pipeline.errors import UserError
from pipeline.files import sha256, write_json
from pipeline.likelihood import importance
from pipeline.observations import dequantised
from pipeline.scratch import Scratch
from pipeline.tracking.run import Run
from pipeline.vae import VAE


def main() -> None:
    arguments = runtime.paths(__doc__, "data", "model", "table", "metrics")
    params = config.load()
    device = runtime.start(params.runtime, params.evaluate.seed)
    dataset = datasets.load(arguments.data)
    model = trained.load(arguments.model, device)
    settings = importance.sized(params.evaluate, model.vae)
    x = dequantised(dataset.test_images, dataset.levels, settings.seed)[: settings.images].to(device)

    environment = runtime.environment(device)
    determines = settings.model_dump(mode="json"), sha256(arguments.data), model.sha256, environment
    with (
        Run("evaluate", params.tracking, model.data, model.sha256) as run,
        scratch.opened("evaluate", params.recovery, *determines) as kept,
    ):
        run.settings({"evaluate": settings.model_dump()})
        table = pd.DataFrame({"label": dataset.test_labels[: settings.images], **measure(model.vae, x, settings, kept)})
        metrics = summary(table)
        tables.write_parquet(arguments.table, table)
        write_json(arguments.metrics, {"test": metrics, "environment": environment})
        run.metrics({"test": metrics})
    if metrics["not_finite"]:
        print(f"warning: {metrics['not_finite']:.0f} images have no finite number, and are in no mean", file=sys.stderr)
    print(f"ELBO: {metrics['elbo']:.2f} ± {metrics['elbo_se']:.2f} nats per image")
    print(f"log p(x): {metrics['log_px']:.2f} ± {metrics['log_px_se']:.2f}, {metrics['trusted']:.1%} of images trusted")


def measure(vae: VAE, x: torch.Tensor, settings: config.Evaluate, kept: Scratch) -> dict[str, torch.Tensor]:
    """The columns of the table of images: nats, counts, and verdicts."""
    common = {"seed": settings.seed, "chunk": settings.chunk}
    elbos = kept.once("elbo", lambda: importance.elbos(vae, x, samples=settings.elbo_samples, **common)._asdict())
    prior = kept.once(
        "prior", lambda: importance.prior_monte_carlo(vae, x, samples=settings.prior_samples, **common)._asdict()
    )
    main = log_px(vae, x, settings, settings.proposal, "log_px", kept)
    # The usual estimate with as many decoder evaluations as fit, pilots and estimate took on average, and no more.
    equal = max(32, round(float(main["evaluations"].mean()) / (1 + 1 / importance.PILOTS)))
    usual = settings.model_copy(update={"samples": equal, "budget": equal})
    encoder = log_px(vae, x[: settings.comparison], usual, "encoder", "comparison", kept)
    beyond = torch.full((len(x) - len(encoder["log_px"]),), torch.nan, dtype=torch.float64)
    return {
        "elbo": elbos["reconstruction"] - elbos["kl"],
        "reconstruction": elbos["reconstruction"],
        "kl": elbos["kl"],
        "log_px": main["log_px"],
        "log_px_se": main["standard_error"],
        **{name: main[name] for name in ("ess", "khat", "samples", "trusted", "converged", "evaluations")},
        "encoder_log_px": torch.cat([encoder["log_px"], beyond]),
        "encoder_ess": torch.cat([encoder["ess"], beyond]),
        "prior_log_px": prior["log_px"],
        "prior_ess": prior["ess"],
    }


def log_px(
    vae: VAE, x: torch.Tensor, settings: config.Evaluate, proposal: str, name: str, kept: Scratch
) -> dict[str, torch.Tensor]:
    """The columns of an estimate, of all blocks of images, with progress."""

    def of_block(images: range) -> dict[str, torch.Tensor]:
        block = importance.Block(vae, x[images.start : images.stop], images, settings)
        estimate = importance.log_px_of_block(block, proposal)
        return {**estimate.diagnosis._asdict(), "converged": estimate.converged, "evaluations": estimate.evaluations}

    blocks = importance.blocks(len(x), vae, settings.chunk)
    parts = [
        kept.once(f"{name} {images.start}", lambda images=images: of_block(images))
        for images in runtime.progress(blocks, len(blocks), f"log p(x), {proposal}")
    ]
    return {column: torch.cat([part[column] for part in parts]) for column in parts[0]}


def summary(table: pd.DataFrame) -> dict[str, float]:
    """Means over the test images with their standard errors, shares and medians.

    An image's estimate carries its own sampling error, so the spread of the estimates over images holds both that
    and the images' own: the standard error of the mean combines the two. Images without a finite number are in no
    mean; `not_finite` says how many they are.

    Raises:
        UserError: when there are no others.
    """
    columns = {str(name): column.to_numpy() for name, column in table.items()}
    finite = np.isfinite(columns["elbo"]) & np.isfinite(columns["log_px"])
    if not finite.any():
        raise UserError("no test image has a finite ELBO and log p(x); train again with a larger model.sigma")
    columns = {name: column[finite] for name, column in columns.items()}
    compared = ~np.isnan(columns["encoder_log_px"])
    short = (columns["log_px"] - columns["encoder_log_px"])[compared]
    values: dict[str, float] = {"images": int(finite.sum()), "not_finite": int((~finite).sum())}
    for name in ("elbo", "reconstruction", "kl", "log_px"):
        values[name] = float(columns[name].mean())
        values[f"{name}_se"] = float(columns[name].std(ddof=1) / math.sqrt(values["images"]))
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
    sys.exit(lifetime.run(main))
