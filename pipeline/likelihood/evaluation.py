"""All that is measured of the test images, as the columns of a table, and what they come to.

The work is dealt out to the processes of the stage by blocks of images, and each block is kept when it is done.
"""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline import runtime
from pipeline.config import Evaluate
from pipeline.errors import UserError
from pipeline.likelihood import importance, noise
from pipeline.ranks import Ranks
from pipeline.scratch import Scratch
from pipeline.vae import VAE

Columns = dict[str, Tensor]


def measure(vae: VAE, x: Tensor, settings: Evaluate, kept: Scratch, group: Ranks) -> Columns:
    """The columns of the table of images: nats, counts, and verdicts."""
    seed, chunk = settings.seed, settings.chunk

    def elbos_of(images: range) -> Columns:
        part, samples = x[images.start : images.stop], settings.elbo_samples
        return importance.elbos(vae, part, samples=samples, seed=seed, chunk=chunk, first=images.start)._asdict()

    def prior_of(images: range) -> Columns:
        part, samples = x[images.start : images.stop], settings.prior_samples
        return importance.prior_monte_carlo(vae, part, samples=samples, seed=seed, chunk=chunk)._asdict()

    elbos = _together("elbo", _shares(len(x), chunk // noise.BLOCK, group), elbos_of, kept, group)
    prior = _together("prior", _shares(len(x), chunk, group), prior_of, kept, group)
    main = _log_px(vae, x, settings, settings.proposal, "log_px", kept, group)
    # The usual estimate with as many decoder evaluations as fit, pilots and estimate took on average, and no more.
    equal = max(32, round(float(main["evaluations"].mean()) / (1 + 1 / importance.PILOTS)))
    usual = settings.model_copy(update={"samples": equal, "budget": equal})
    encoder = _log_px(vae, x[: settings.comparison], usual, "encoder", "comparison", kept, group)
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


def _log_px(vae: VAE, x: Tensor, settings: Evaluate, proposal: str, name: str, kept: Scratch, group: Ranks) -> Columns:
    """The columns of an estimate, of all blocks of images, with progress."""

    def of_block(images: range) -> Columns:
        block = importance.Block(vae, x[images.start : images.stop], images, settings)
        estimate = importance.log_px_of_block(block, proposal)
        return {**estimate.diagnosis._asdict(), "converged": estimate.converged, "evaluations": estimate.evaluations}

    blocks = importance.blocks(len(x), vae, settings.chunk)
    return _together(name, blocks, of_block, kept, group, label=f"log p(x), {proposal}")


def _shares(images: int, chunk: int, group: Ranks) -> list[range]:
    """Each process's images, a range in a row; whole chunks, so that all are computed as by one process."""
    chunks = noise.ranges(images, chunk)
    parts = [chunks[Ranks(rank, group.size).share(len(chunks))] for rank in range(group.size)]
    return [range(part[0].start, part[-1].stop) for part in parts if part]


def _together(
    name: str,
    blocks: list[range],
    compute: Callable[[range], Columns],
    kept: Scratch,
    group: Ranks,
    label: str = "",
) -> Columns:
    """The columns of all blocks of images, which the processes deal out among them; every process gets all of it."""
    mine = group.dealt(blocks)
    parts: Columns = {}
    for images in runtime.progress(mine, len(mine), label) if label and group.rank == 0 else mine:
        columns = kept.once(f"{name} {images.start}", lambda images=images: compute(images))
        parts |= {f"{images.start} {column}": values for column, values in columns.items()}
    found = {key: values for part in group.gather(parts) for key, values in part.items()}
    names = [key.partition(" ")[2] for key in found if key.startswith(f"{blocks[0].start} ")]
    return {column: torch.cat([found[f"{images.start} {column}"] for images in blocks]) for column in sorted(names)}


def summary(table: pd.DataFrame) -> dict[str, int | float]:
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
    values: dict[str, int | float] = {"images": int(finite.sum()), "not_finite": int((~finite).sum())}
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
