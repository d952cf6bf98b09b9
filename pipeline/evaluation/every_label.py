"""log p(x) = log Σ_y p(y) p(x | y) of a conditional model, from an estimate of log p(x | y) with every label y."""

import math
from collections.abc import Callable
from dataclasses import replace

import pandas as pd
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from logpx.block import Settings
from logpx.estimator import estimate_whole
from pipeline.evaluation.settings import prepare
from pipeline.model.labels import Labels
from pipeline.model.vae import VAE

Columns = dict[str, Tensor]
Estimate = Callable[[str, Tensor, Tensor, Settings], Columns]  # of images with labels, under a name

DOUBT = 0.01  # largest share of p(x) from labels whose estimate is not trusted
GIVEN = "_given_label"  # ends the names of columns about log p(x | y)


def estimates(vae: VAE) -> Callable[[str, Tensor, Labels, Settings], Columns]:
    """Measures images at once, in one process and without saving unfinished work."""

    def estimate(_: str, x: Tensor, y: Labels, settings: Settings) -> Columns:
        return estimate_whole(prepare(vae, x, y, settings))._asdict()

    return estimate


def sum_over_labels(
    vae: VAE, estimate: Estimate, x: Float[Tensor, "images pixels"], settings: Settings, known: Columns | None = None,
    y: Integer[Tensor, " images"] | None = None,
) -> Columns:  # fmt: skip
    """log p(x) and its error, whether it is trusted, and the likeliest label, the mode of p(y | x) ∝ p(y) p(x | y).

    Args:
        estimate: measures images with labels.
        known: estimates with the images' own labels `y`, which are not measured again.
    """
    found = torch.full((3, vae.classes, len(x)), torch.nan, dtype=torch.float64)
    # Other labels than the right one rarely matter, so they get no more samples and no second attempt.
    fewer = replace(settings, budget=settings.samples, rescue=False)
    for label in vae.labels():
        rows = torch.ones(len(x), dtype=torch.bool) if y is None else y.cpu() != label
        if rows.any():
            some = x[rows.to(x.device)]
            # Each label has its own noise, so that the errors of the terms are independent.
            own = replace(fewer, seed=settings.seed + 1 + label)
            columns = estimate(f"label {label}", some, torch.full((len(some),), label, device=x.device), own)
            found[:, label, rows] = _values(columns)
    if known is not None and y is not None:
        found[:, y.cpu(), torch.arange(len(x))] = _values(known)
    log_px, error, trusted = found
    return _combined(log_px, error, trusted, torch.tensor(vae.shares, dtype=torch.float64))


def _values(columns: Columns) -> Float[Tensor, "3 images"]:
    return torch.stack([columns[name].double() for name in ("log_px", "standard_error", "trusted")])


def _combined(
    log_px: Float[Tensor, "classes images"],
    error: Float[Tensor, "classes images"],
    trusted: Float[Tensor, "classes images"],
    shares: Float[Tensor, " classes"],
) -> Columns:
    """The sum over labels; its error to first order, Σ_y p(y | x)² se_y²."""
    terms = shares.log()[:, None] + log_px.nan_to_num(-math.inf, math.inf, -math.inf)
    posterior = terms.softmax(0)
    return {
        "log_px": terms.logsumexp(0),
        "log_px_se": (posterior * error.nan_to_num(0, 0, 0)).square().sum(0).sqrt(),
        # A label without a finite estimate has an unknown part of p(x), not none.
        "trusted": ((posterior * (1 - trusted.nan_to_num(0))).sum(0) <= DOUBT) & log_px[shares > 0].isfinite().all(0),
        "predicted": terms.argmax(0),
    }


def given_label(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the columns about log p(x | y) in place of those about log p(x), if the model is conditional."""
    given = {str(name): str(name).removesuffix(GIVEN) for name in table if str(name).endswith(GIVEN)}
    return table.drop(columns=list(given.values())).rename(columns=given)
