"""Everything that is measured of the test images, as the columns of a table, and its summary.

Processes share the work by blocks of images, and each finished block is saved.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from logpx import estimator
from logpx.batching import ranges
from logpx.block import Settings, blocks
from logpx.noise import BLOCK
from logpx.observations.gaussian import Gaussian
from logpx.prior_monte_carlo import prior_monte_carlo
from pipeline.config import Evaluate
from pipeline.data.image_format import ImageFormat
from pipeline.errors import UserError
from pipeline.evaluation.elbo import elbos
from pipeline.evaluation.settings import joint, prepare
from pipeline.evaluation.summary import Metrics, mean_and_error, rounded
from pipeline.model.vae import VAE
from pipeline.process.cli import progress
from pipeline.process.distributed import Group
from pipeline.process.recovery import UnfinishedWork

Columns = dict[str, Tensor]

# Images measured by prior Monte Carlo, if that takes a pass over the pixels for each sample of each image.
PRIOR_IMAGES = 20


def measure(vae: VAE, x: Tensor, evaluate: Evaluate, settings: Settings, work: UnfinishedWork, group: Group) -> Columns:
    """The columns of the table of images: nats, counts, and verdicts.

    Args:
        x: dequantised test images, on the model's device.
        evaluate: samples for the ELBO and for prior Monte Carlo, and images for the comparison.
        settings: of the estimator of log p(x).
    """
    seed, chunk = settings.seed, settings.chunk

    def elbos_of(images: range) -> Columns:
        part, samples = x[images.start : images.stop], evaluate.elbo_samples
        return elbos(vae, part, samples=samples, seed=seed, chunk=chunk, first=images.start)._asdict()

    def prior_of(images: range) -> Columns:
        part, samples = x[images.start : images.stop], evaluate.prior_samples
        return prior_monte_carlo(joint(vae), part, latent=vae.latent, samples=samples, seed=seed, chunk=chunk)._asdict()

    elbo = _distribute("elbo", ranges(len(x), chunk // BLOCK), elbos_of, work, group)
    few = len(x) if isinstance(vae.decoder.observation, Gaussian) else PRIOR_IMAGES
    prior = _distribute("prior", ranges(len(x[:few]), chunk), prior_of, work, group)
    main = _log_px("log_px", vae, x, settings, work, group)
    # The estimate with the encoder as proposal, at the main estimate's average number of decoder evaluations.
    equal = max(32, round(float(main["evaluations"].mean())))
    usual = replace(settings, samples=equal, budget=equal, proposal="encoder")
    encoder = _log_px("comparison", vae, x[: evaluate.comparison], usual, work, group)
    return {
        "elbo": elbo["reconstruction"] - elbo["kl"],
        "reconstruction": elbo["reconstruction"],
        "kl": elbo["kl"],
        "log_px": main["log_px"],
        "log_px_se": main["standard_error"],
        **{name: main[name] for name in ("ess", "khat", "samples", "trusted", "converged", "rescued", "evaluations")},
        "encoder_log_px": _extended(encoder["log_px"], len(x)),
        "encoder_ess": _extended(encoder["ess"], len(x)),
        "prior_log_px": _extended(prior["log_px"], len(x)),
        "prior_ess": _extended(prior["ess"], len(x)),
    }


def measure_training(
    vae: VAE, parts: Mapping[str, Tensor], settings: Settings, work: UnfinishedWork, group: Group
) -> dict[str, Columns]:
    """Log p(x) of images that the training used, to see overfitting: the columns of the estimates of each part."""
    return {name: _log_px(name, vae, x, settings, work, group) for name, x in parts.items()}


def _extended(values: Tensor, length: int) -> Tensor:
    """The values of the first images, and NaN for the others."""
    return torch.cat([values, torch.full((length - len(values),), torch.nan, dtype=torch.float64)])


def _log_px(name: str, vae: VAE, x: Tensor, settings: Settings, work: UnfinishedWork, group: Group) -> Columns:
    """The columns of an estimate of all images, with progress."""
    by_start = {int(block.images[0]): block for block in blocks(prepare(vae, x, settings))}

    def of_block(images: range) -> Columns:
        return estimator.estimate_block(by_start[images.start])._asdict()

    parts = [range(start, start + len(block)) for start, block in by_start.items()]
    return _distribute(name, parts, of_block, work, group, label=f"log p(x), {settings.proposal}")


def _distribute(
    name: str,
    blocks: Sequence[range],
    compute: Callable[[range], Columns],
    work: UnfinishedWork,
    group: Group,
    label: str = "",
) -> Columns:
    """The columns of all blocks of images. The processes share the blocks, and every process gets all columns."""
    mine = group.round_robin(blocks)
    parts = []
    for images in progress(mine, len(mine), label) if label and group.rank == 0 else mine:
        columns = work.once(f"{name} {images.start}", lambda images=images: compute(images))
        parts.append({"image": torch.tensor(images), **columns})
    gathered = [columns for columns in group.gather(_join(parts)) if columns]
    together = _join(gathered)
    order = together.pop("image").argsort()
    return {column: values[order] for column, values in together.items()}


def _join(parts: Sequence[Columns]) -> Columns:
    return {column: torch.cat([part[column] for part in parts]) for column in parts[0]} if parts else {}


def summarise_training(columns: Columns, images: ImageFormat) -> Metrics:
    """Mean log p(x) of some training or validation images in nats, and in bits per dimension; finite ones only."""
    log_px = columns["log_px"].numpy()
    finite = np.isfinite(log_px)
    values: Metrics = {"images": int(finite.sum()), "trusted": float(columns["trusted"].double().mean())}
    values |= mean_and_error("log_px", log_px[finite])
    if finite.any():
        values["bits_per_dim"] = images.bits_per_dim(values["log_px"])
    return rounded(values)


def summarise(table: pd.DataFrame, images: ImageFormat) -> Metrics:
    """Means over the test images with their standard errors, shares and medians.

    An image's estimate has its own sampling error, so the spread of the estimates over images contains both that
    and the images' own: the standard error of the mean combines the two. Images with a non-finite ELBO or
    log p(x) are excluded from all means; `not_finite` counts them. A number that is not finite is absent.

    Raises:
        UserError: if no image has finite numbers.
    """
    columns = {str(name): column.to_numpy() for name, column in table.items()}
    finite = np.isfinite(columns["elbo"]) & np.isfinite(columns["log_px"])
    if not finite.any():
        raise UserError(
            "no test image has a finite ELBO and log p(x); train again with a smaller train.learning_rate, or a larger "
            "model.sigma"
        )
    columns = {name: column[finite] for name, column in columns.items()}
    compared = np.isfinite(columns["encoder_log_px"])
    short = (columns["log_px"] - columns["encoder_log_px"])[compared]
    values: Metrics = {"images": int(finite.sum()), "not_finite": int((~finite).sum())}
    for name in ("elbo", "reconstruction", "kl", "log_px"):
        values |= mean_and_error(name, columns[name])
    values["bits_per_dim"] = images.bits_per_dim(values["log_px"])
    values["gap"] = values["log_px"] - values["elbo"]
    values["trusted"] = float(columns["trusted"].mean())
    values["converged"] = float(columns["converged"].mean())
    values["rescued"] = float(columns["rescued"].mean())
    values["samples_mean"] = float(columns["samples"].mean())
    values["evaluations_mean"] = float(columns["evaluations"].mean())
    values["image_se_median"] = float(np.median(columns["log_px_se"]))
    values["ess_median"] = float(np.median(columns["ess"]))
    with np.errstate(invalid="ignore"):  # half of the k̂ may be −∞, the other half +∞
        values["khat_median"] = float(np.median(columns["khat"]))
    values["encoder_images"] = len(short)
    if len(short):
        values["encoder_short"] = float(short.mean())
        values["encoder_ess_median"] = float(np.median(columns["encoder_ess"][compared]))
    with_prior = ~np.isnan(columns["prior_log_px"])
    values["prior_images"] = int(with_prior.sum())
    if with_prior.any():
        values["prior_log_px"] = float(columns["prior_log_px"][with_prior].mean())
        values["prior_ess_median"] = float(np.median(columns["prior_ess"][with_prior]))
    return rounded(values)
