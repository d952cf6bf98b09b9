"""Log p(x) by second methods, on some test images and on images simulated from the model."""

from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest
from torch import Tensor

from logpx import annealing, estimator
from logpx.block import PROPOSALS, Settings
from logpx.variational import best_gaussian
from logpx.weights import Weights
from pipeline.config import Verify
from pipeline.evaluation.convergence import annealed_curve, importance_curve
from pipeline.evaluation.settings import annealer, data, joint, prepare
from pipeline.evaluation.summary import Metrics, mean_and_error, rounded
from pipeline.model.labels import Labels
from pipeline.model.vae import VAE
from pipeline.storage.tables import numbers, select

SIGNIFICANT = 3.0  # standard errors


def measure(vae: VAE, x: Tensor, y: Labels, measured: pd.DataFrame, verify: Verify, settings: Settings) -> pd.DataFrame:
    """A row for each test image and each simulated one.

    Args:
        x: the dequantised test images that `measured` has rows of.
        y: their labels. Everything about a conditional model is about p(x | y).
        measured: the evaluation's label, log_px, log_px_se and elbo.
        settings: of the estimator.
    """
    settings = replace(settings, seed=verify.seed)
    tables = [_on_test_images(vae, x, y, measured, verify, settings), on_simulated_images(vae, verify, settings)]
    return pd.concat(tables).reset_index(drop=True)


def _on_test_images(
    vae: VAE, x: Tensor, y: Labels, measured: pd.DataFrame, verify: Verify, settings: Settings
) -> pd.DataFrame:
    """The evaluation's estimates beside annealed ones, and the best ELBO that a diagonal Gaussian can reach."""
    whole = prepare(vae, x, y, settings)
    log_w = torch.cat([annealing.forward(problem) for problem in annealing.problems(whole, annealer(verify))], 1)
    best = best_gaussian(
        joint(vae),
        data(vae, x, y),
        start=vae.encode(x, y),
        samples=verify.gap_samples,
        steps=verify.gap_steps,
        seed=verify.seed,
        chunk=settings.chunk,
    )
    return measured[["label", "log_px", "log_px_se", "trusted", "elbo"]].assign(
        kind="test", **_lower_bound(log_w), best_elbo=best.numpy()
    )


def on_simulated_images(vae: VAE, verify: Verify, settings: Settings) -> pd.DataFrame:
    """Bounds from both sides, and the default estimate, for x simulated from the model with a known z.

    A conditional model simulates as many images of each class as it can.
    """
    generator = torch.Generator().manual_seed(verify.seed)
    noise = torch.randn(verify.images, vae.latent, generator=generator).to(vae.prior.zero)
    y = vae.labels_in_turn(verify.images)
    with torch.no_grad():
        z = vae.prior.from_noise(noise, y)
        p = vae.decoder(z, y)
        # On the CPU, so that every device simulates the same noise.
        x = replace(p, parameters=p.parameters.cpu()).sample(generator).to(z.device)
    whole = prepare(vae, x, y, settings)
    default = estimator.estimate_whole(whole)
    problems = annealing.problems(whole, annealer(verify))
    both = [annealing.from_both_sides(problem, z[problem.block.images]) for problem in problems]
    forward, reverse = (torch.cat(part, 1) for part in zip(*both, strict=True))
    upper = _lower_bound(-reverse)
    return pd.DataFrame({
        "kind": "simulated", "log_px": default.log_px, "log_px_se": default.standard_error, "trusted": default.trusted,
        **_lower_bound(forward), "upper": -upper["annealed"], "upper_se": upper["annealed_se"],
    })  # fmt: skip


def _lower_bound(log_w: Tensor) -> dict[str, NDArray[np.float64]]:
    weights = Weights.of(log_w)
    return {"annealed": weights.log_mean.numpy(), "annealed_se": weights.standard_error.numpy()}


def curves(vae: VAE, x: Tensor, y: Labels, measured: pd.DataFrame, verify: Verify, settings: Settings) -> pd.DataFrame:
    """The estimate against decoder evaluations, for every proposal and for annealing from the prior.

    The images are the first ones with a finite log p(x), since a mean with any other is not finite; if there are none,
    the first ones.
    """
    settings = replace(settings, seed=verify.seed)
    finite = np.isfinite(numbers(measured, "log_px"))
    rows = torch.from_numpy(finite | ~finite.any()).nonzero().squeeze(1)[: verify.curve_images].to(x.device)
    whole = prepare(vae, x[rows], None if y is None else y[rows], settings)
    by_importance = [
        importance_curve(replace(whole, settings=replace(settings, proposal=name)), verify.curve_samples)
        for name in PROPOSALS
    ]
    annealed = annealed_curve(whole, annealer(verify), verify.curve_temperatures)
    return pd.concat([*by_importance, annealed])


def summarise(table: pd.DataFrame) -> Metrics:
    """Means over images in nats, each with its standard error over images.

    Non-finite differences are excluded from the means; `not_finite` counts them. A mean without any finite difference
    is absent.
    """
    test, simulated = select(table, "kind", "test"), select(table, "kind", "simulated")
    columns = {
        "difference": numbers(test, "log_px") - numbers(test, "annealed"),
        "approximation_gap": numbers(test, "log_px") - numbers(test, "best_elbo"),
        "amortisation_gap": numbers(test, "best_elbo") - numbers(test, "elbo"),
        "bdmc_gap": numbers(simulated, "upper") - numbers(simulated, "annealed"),
        "above_lower": numbers(simulated, "log_px") - numbers(simulated, "annealed"),
        "below_upper": numbers(simulated, "upper") - numbers(simulated, "log_px"),
    }
    finite = {name: nats[np.isfinite(nats)] for name, nats in columns.items()}
    values: Metrics = {
        "images": len(test),
        "not_finite": sum(len(columns[name]) - len(finite[name]) for name in finite),
    }
    for name, nats in finite.items():
        values |= mean_and_error(name, nats)
    return rounded(values | missed(simulated))


def missed(simulated: pd.DataFrame) -> Metrics:
    """How many trusted estimates lie significantly below the lower bound, so that they miss a part of p(x).

    Returns:
        trusted (images), missed (share of them more than `SIGNIFICANT` standard errors below), and the 95 % interval of
        this share (Clopper & Pearson 1934).
    """
    judged = select(simulated, "trusted", True)
    error = np.hypot(numbers(judged, "log_px_se"), numbers(judged, "annealed_se"))
    below = numbers(judged, "log_px") < numbers(judged, "annealed") - SIGNIFICANT * error
    values: Metrics = {"trusted": len(judged)}
    if len(judged):
        found = binomtest(int(below.sum()), len(judged))
        interval = found.proportion_ci()
        values |= {"missed": found.statistic, "missed_low": interval.low, "missed_high": interval.high}
    return values
