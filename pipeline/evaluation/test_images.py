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
from logpx.block import Block, Settings, blocks
from logpx.estimator import Estimate
from logpx.noise import BLOCK
from logpx.observations.gaussian import Gaussian
from logpx.prior_monte_carlo import prior_monte_carlo
from pipeline.config import Evaluate
from pipeline.data.image_format import ImageFormat
from pipeline.errors import UserError
from pipeline.evaluation.elbo import elbos
from pipeline.evaluation.every_label import GIVEN, Columns, sum_over_labels
from pipeline.evaluation.settings import given_noise, prepare
from pipeline.evaluation.summary import Metrics, mean_and_error, rounded
from pipeline.model.vae import VAE
from pipeline.process.cli import progress
from pipeline.process.distributed import Group
from pipeline.process.recovery import UnfinishedWork

# Images measured by prior Monte Carlo, if that takes a pass over the pixels for each sample of each image.
PRIOR_IMAGES = 20
# Images whose log-weights are kept, for the explorer.
KEPT = 200
OWNER = "image of log_weights"  # the image that each log-weight belongs to
WEIGHTS = ("log_weights", OWNER)


def measure(
    vae: VAE, x: Tensor, y: Tensor, evaluate: Evaluate, settings: Settings, work: UnfinishedWork, group: Group
) -> Columns:
    """The columns of the table of images: nats, counts, and verdicts.

    `log_weights` is no column of the table: it has those of the first `KEPT` images, one image after another. Image i
    has `samples[i]` of them. They are those of log p(x), or of log p(x | y) of a conditional model.

    Args:
        x: dequantised test images, on the model's device.
        y: their labels, there too.
        evaluate: samples for the ELBO and for prior Monte Carlo, and images for the comparison.
        settings: of the estimator of log p(x).
    """
    seed, chunk = settings.seed, settings.chunk

    def elbos_of(images: Sequence[int]) -> Columns:
        part, samples = slice(images[0], images[-1] + 1), evaluate.elbo_samples
        return elbos(vae, x[part], y[part], samples=samples, seed=seed, chunk=chunk, first=images[0])._asdict()

    def prior_of(images: Sequence[int]) -> Columns:
        part = slice(images[0], images[-1] + 1)
        return _prior(vae, x[part], y[part], evaluate.prior_samples, seed, chunk)

    elbo = _distribute("elbo", ranges(len(x), chunk // BLOCK), elbos_of, work, group)
    few = len(x) if isinstance(vae.decoder.observation, Gaussian) else PRIOR_IMAGES
    prior = _distribute("prior", ranges(len(x[:few]), chunk), prior_of, work, group)
    main = _log_px("log_px", vae, x, y, settings, work, group, keep=KEPT)
    # The estimate with the encoder as proposal, at the main estimate's average number of decoder evaluations.
    equal = max(32, round(float(main["evaluations"].mean())))
    usual = replace(settings, samples=equal, budget=equal, proposal="encoder")
    first = slice(evaluate.comparison)
    encoder = _log_px("comparison", vae, x[first], y[first], usual, work, group)
    return {
        "elbo": elbo["reconstruction"] - elbo["kl"],
        "reconstruction": elbo["reconstruction"],
        "kl": elbo["kl"],
        **_log_px_columns(vae, x, y, main, settings, work, group),
        **{name: main[name] for name in ("ess", "khat", "samples", "converged", "rescued", "evaluations")},
        "encoder_log_px": _extended(encoder["log_px"], len(x)),
        "encoder_ess": _extended(encoder["ess"], len(x)),
        "prior_log_px": _extended(prior["log_px"], len(x)),
        "prior_ess": _extended(prior["ess"], len(x)),
        "log_weights": main["log_weights"],
    }


def measure_training(
    vae: VAE, parts: Mapping[str, tuple[Tensor, Tensor]], settings: Settings, work: UnfinishedWork, group: Group
) -> dict[str, Columns]:
    """Log p(x) of images that the training used, to see overfitting.

    Args:
        parts: images and labels.
    """
    found = {}
    for name, (x, y) in parts.items():
        main = _log_px(name, vae, x, y, settings, work, group)
        found[name] = _log_px_columns(vae, x, y, main, settings, work, group, f"{name} ")
    return found


def _log_px_columns(
    vae: VAE, x: Tensor, y: Tensor, main: Columns, settings: Settings, work: UnfinishedWork, group: Group,
    prefix: str = "",
) -> Columns:  # fmt: skip
    """log p(x), its error and its verdict; of a conditional model also those of log p(x | y), from `main`."""
    own = {"log_px": main["log_px"], "log_px_se": main["standard_error"], "trusted": main["trusted"]}
    if not vae.classes:
        return own

    def estimate(label: str, x: Tensor, y: Tensor, settings: Settings) -> Columns:
        return _log_px(f"{prefix}{label}", vae, x, y, settings, work, group)

    summed = sum_over_labels(vae, estimate, x, settings, main, y)
    return summed | {f"{name}{GIVEN}": values for name, values in own.items()}


def _prior(vae: VAE, x: Tensor, y: Tensor, samples: int, seed: int, chunk: int) -> Columns:
    """Prior Monte Carlo, in the noise that the prior's samples are made from; for each label by itself."""
    found = torch.full((2, len(x)), torch.nan, dtype=torch.float64)
    labels = y.unique() if vae.classes else y[:1]
    for label in labels:
        rows = y == label if vae.classes else torch.ones_like(y, dtype=torch.bool)
        model = given_noise(vae, label)
        some = prior_monte_carlo(model, x[rows], latent=vae.latent, samples=samples, seed=seed, chunk=chunk)
        found[:, rows.cpu()] = torch.stack(list(some))
    return {"log_px": found[0], "ess": found[1]}


def _extended(values: Tensor, length: int) -> Tensor:
    """The values of the first images, and NaN for the others."""
    return torch.cat([values, torch.full((length - len(values),), torch.nan, dtype=torch.float64)])


def _log_px(
    name: str, vae: VAE, x: Tensor, y: Tensor, settings: Settings, work: UnfinishedWork, group: Group, keep: int = 0
) -> Columns:
    """The columns of an estimate of all images, with progress.

    Args:
        keep: first images whose log-weights are kept; float32, one image after another.
    """
    whole = prepare(vae, x, y, settings)

    def computed(estimate: Callable[[Block], Estimate]) -> Callable[[Sequence[int]], Columns]:
        def of_images(images: Sequence[int]) -> Columns:
            kept: dict[int, Tensor] = {}
            rows = torch.tensor(images, device=x.device)
            columns = estimate(replace(whole[rows], log_weights=kept if keep else None))._asdict()
            some = {image: kept[image].float() for image in images if image < keep}
            owners = [torch.full((len(log_w),), image) for image, log_w in some.items()]
            nothing = torch.zeros(0)
            weights = {"log_weights": torch.cat([nothing, *some.values()])}
            return columns | weights | {OWNER: torch.cat([nothing.long(), *owners])}

        return of_images

    parts = [block.images.tolist() for block in blocks(whole)]
    label = f"log p(x), {settings.proposal}"
    columns = _distribute(name, parts, computed(estimator.estimate_block), work, group, label)
    failed = estimator.failed(whole, columns["trusted"])
    if failed:
        parts, label = [rows.tolist() for rows in failed], f"{label}, rescue"
        again = _distribute(f"{name} rescue", parts, computed(estimator.estimate_again), work, group, label)
        columns = _replaced(columns, again, torch.cat(failed))
    owner, log_weights = columns.pop(OWNER), columns.pop("log_weights")
    return columns | {"log_weights": log_weights[owner.argsort(stable=True)]} if keep else columns


def _replaced(columns: Columns, by: Columns, rows: Tensor) -> Columns:
    """The columns with the images of some rows measured again."""
    old, new = (Estimate(**{name: each[name] for name in Estimate._fields}) for each in (columns, by))
    kept = ~torch.isin(columns[OWNER], rows)
    return old.replaced(rows, new)._asdict() | {name: torch.cat([columns[name][kept], by[name]]) for name in WEIGHTS}


def _distribute(
    name: str,
    parts: Sequence[Sequence[int]],
    compute: Callable[[Sequence[int]], Columns],
    work: UnfinishedWork,
    group: Group,
    label: str = "",
) -> Columns:
    """The columns of all parts, in the order of their images except `WEIGHTS`.

    The processes share the parts, and every process gets all columns.
    """
    mine = group.round_robin(parts)
    found = []
    for images in progress(mine, len(mine), label) if label and group.rank == 0 else mine:
        columns = work.once(f"{name} {images[0]}", lambda images=images: compute(images))
        found.append({"image": torch.tensor(images), **columns})
    together = _join([columns for columns in group.gather(_join(found)) if columns])
    order = together.pop("image").argsort()
    return {name: values if name in WEIGHTS else values[order] for name, values in together.items()}


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
    given = f"log_px{GIVEN}" in columns
    target = f"log_px{GIVEN}" if given else "log_px"  # what ELBO and encoder estimate
    short = (columns[target] - columns["encoder_log_px"])[compared]
    values: Metrics = {"images": int(finite.sum()), "not_finite": int((~finite).sum())}
    for name in ("elbo", "reconstruction", "kl", "log_px", *([target] if given else [])):
        values |= mean_and_error(name, columns[name])
    values["bits_per_dim"] = images.bits_per_dim(values["log_px"])
    values["gap"] = values[target] - values["elbo"]
    values["trusted"] = float(columns["trusted"].mean())
    if given:
        values[f"trusted{GIVEN}"] = float(columns[f"trusted{GIVEN}"].mean())
        values |= mean_and_error("accuracy", (columns["predicted"] == columns["label"]).astype(float))
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
