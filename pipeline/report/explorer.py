"""The explorer: one page in which the trained model runs. It opens offline, and loads nothing."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Integer
from markupsafe import Markup
from torch import Tensor

from pipeline.config import Model
from pipeline.data.dataset import Dataset
from pipeline.evaluation.every_label import given_label
from pipeline.model.vae import VAE
from pipeline.report.explorer_model import describe, obstacle, rounding_cost
from pipeline.report.html import TEMPLATES, render
from pipeline.report.plotting import CLASS_COLOURS
from pipeline.report.wording import DIGITS
from pipeline.storage.files import unusable
from pipeline.storage.tensors import load_tensors

POINTS = 2_000  # most test images on the map
SLIDERS = 8  # most coordinates with a slider
PROPOSAL_TEXTS = {
    "mixture": "Proposal fitted to this image",
    "laplace": "Proposal fitted to this image",
    "encoder": "The encoder as proposal",
    "prior": "The prior as proposal",
}
# Scripts of the page in the order in which it runs them: of every page, of a model that runs, and of one that cannot.
SCRIPTS = ("explorer_model.js", "explorer_plots.js", "explorer_images.js")
RUNNING = ("explorer_encoder.js", "explorer_latent.js", "explorer.js")
MEASURED = ("explorer_measured.js",)
MOST_PIXELS = 4_000_000  # of all images on the page of a model that cannot run
# Of the histograms of log w − log(mean w), nats. Values outside count in the first and the last bin.
BINS = {"low": -12.0, "step": 0.5, "bins": 44}


def explorer(
    vae: VAE,
    settings: Model,
    dataset: Dataset,
    table: pd.DataFrame,
    log_weights: list[Float[Tensor, "_samples"]],
    proposal: str = "mixture",
) -> str:
    """The page. If the model cannot run in it, it shows the test images and what was measured of them.

    Args:
        vae: the model, on the CPU.
        table: of the measured test images.
        log_weights: of the first test images; the page has these images.
        proposal: that the log-weights belong to, as in `evaluate.proposal`.
    """
    reason = obstacle(vae, settings)
    values: dict[str, Any] = {
        "name": "own images" if dataset.name == "own" else dataset.name,
        "digits": dataset.name in DIGITS,
        "labelled": dataset.labelled,
        "model": settings,
        "latent": vae.latent,
        "conditional": vae.classes > 0,
        "symbol": "z" if vae.prior.flow is None else "ε",
        "measured": "log p(x | y)" if vae.classes else "log p(x)",
        "reason": reason,
    }
    if reason is None:
        content, own = payload(vae, settings, dataset, table, log_weights), RUNNING
    else:
        some = log_weights[: max(1, MOST_PIXELS // vae.images.pixels)]
        content, own = measured_images(vae, dataset, table, some), MEASURED
    values["payload"] = _json(content | {"proposal": PROPOSAL_TEXTS[proposal]})
    # Markup is safe here: these are our own files.
    values["scripts"] = [Markup((TEMPLATES / name).read_text(encoding="utf-8")) for name in SCRIPTS + own]  # noqa: S704
    return render("explorer.html.jinja", values)


def read_log_weights(path: Path) -> list[Float[Tensor, "_samples"]]:
    """The log-weights of each of the first test images, as stage evaluate has kept them.

    Raises:
        UserError: if the file is missing or damaged.
    """
    tensors, _ = load_tensors(path)
    if set(tensors) != {"log_weights", "samples"} or tensors["samples"].sum() != len(tensors["log_weights"]):
        raise unusable(path, "has no log-weights of images")
    return list(tensors["log_weights"].split(tensors["samples"].tolist()))


@torch.no_grad()
def payload(
    vae: VAE, settings: Model, dataset: Dataset, table: pd.DataFrame, log_weights: list[Float[Tensor, "_samples"]]
) -> dict[str, Any]:
    """All data of the page of a model that runs in it: the images, the model, and the map of the latent space."""
    images, labels = dataset.test_images[:POINTS], dataset.test_labels[:POINTS].long()
    count = len(log_weights)
    x = vae.images.read_clean(images)
    noise = vae.prior.to_noise(vae.encode(x, labels)[0], labels)
    return measured_images(vae, dataset, table, log_weights) | {
        "model": describe(vae, settings),
        "rounding": _number(255 * rounding_cost(vae, x[:count], labels[:count])),
        "classes": sorted(set(labels.tolist()) | set(vae.labels())),
        "shares": vae.shares,
        "colours": CLASS_COLOURS,
        "map": latent_map(noise.numpy().astype(np.float64), labels.numpy(), conditional=vae.classes > 0),
    }


def measured_images(
    vae: VAE, dataset: Dataset, table: pd.DataFrame, log_weights: list[Float[Tensor, "_samples"]]
) -> dict[str, Any]:
    """The first test images and what was measured of them. The networks do not run."""
    count = len(log_weights)
    *_, height, width = dataset.shape
    values = vae.images.values_fixed(dataset.test_images[:POINTS])[:count]
    return {
        "height": height,
        "width": width,
        "levels": vae.images.levels,
        "binarised": vae.images.binarise != "none",
        "conditional": vae.classes > 0,
        "labelled": dataset.labelled,
        "bins": BINS,
        "images": base64.b64encode(values.numpy().tobytes()).decode(),
        "labels": dataset.test_labels[:count].tolist(),
        "measured": measurements(table.head(count), log_weights),
    }


def measurements(table: pd.DataFrame, log_weights: list[Float[Tensor, "_samples"]]) -> dict[str, list[Any]]:
    """What was measured of each image, in nats, and the histogram of its importance weights.

    Of a conditional model log p(x), its error and its verdict are those of log p(x | y); `sum` has log p(x).
    """
    own = given_label(table)
    columns = {"elbo": "elbo", "value": "log_px", "error": "log_px_se", "ess": "ess", "khat": "khat"}
    found = {name: [_number(value) for value in own[column]] for name, column in columns.items()}
    histograms = [histogram(log_w.double().numpy()) for log_w in log_weights]
    return found | {
        "sum": [_number(value) for value in table["log_px"]],
        "trusted": [bool(value) for value in own["trusted"]],
        "samples": [len(log_w) for log_w in log_weights],
        "histogram": histograms,
        "largest": [_number(float(log_w.double().softmax(0).max())) for log_w in log_weights],
    }


def histogram(log_w: Float[np.ndarray, " samples"]) -> dict[str, list[float]] | None:
    """The share of the samples in each bin of log w − log(mean w), and their share of the sum; None if not finite."""
    if not np.isfinite(log_w.max()):
        return None
    w = np.exp(log_w - log_w.max())
    w = w / w.mean()
    low, step, bins = BINS["low"], BINS["step"], int(BINS["bins"])
    with np.errstate(divide="ignore"):
        place = np.clip(np.floor((np.log(w) - low) / step), 0, bins - 1).astype(int)
    counts = [np.bincount(place, weights, bins) / len(w) for weights in (np.ones(len(w)), w)]
    samples, weight = ([round(float(value), 5) for value in part] for part in counts)
    return {"samples": samples, "weight": weight}


def latent_map(
    noise: Float[np.ndarray, "images latent"], labels: Integer[np.ndarray, " images"], *, conditional: bool
) -> dict[str, Any]:
    """A plane of the latent space with the encodings, and the coordinates that get sliders.

    Coordinates are of the noise ε, which is z itself with the prior N(0, I). A model with one coordinate has a second
    direction of length 0, and the height of its points is their class.
    """
    latent = noise.shape[1]
    order = (-noise.var(0)).argsort(kind="stable")[:SLIDERS]
    separated = latent > 2 and not conditional and 2 < len(np.unique(labels)) < len(labels)
    basis = _discriminants(noise, labels) if separated else np.eye(latent)[:, np.sort(order[:2])]
    if latent == 1:
        basis = np.column_stack([basis, np.zeros(1)])
    points = noise @ basis
    if latent == 1:
        points[:, 1] = 2 * (labels - labels.mean()) / max(1, np.ptp(labels))
    return {
        "points": np.nan_to_num(points).round(2).tolist(),
        "labels": labels.tolist(),
        "basis": basis.T.round(5).tolist(),
        "separated": separated,
        "order": order.tolist(),
    }


def _discriminants(
    noise: Float[np.ndarray, "images latent"], labels: Integer[np.ndarray, " images"]
) -> Float[np.ndarray, "latent 2"]:
    """An orthonormal basis of the plane of the first two linear discriminants: it separates the classes best."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis  # here, because the import is slow

    # A little shrinkage: a coordinate that the encoder does not use has next to no variance.
    found = LinearDiscriminantAnalysis(solver="eigen", shrinkage=1e-3).fit(noise, labels)
    basis, _ = np.linalg.qr(found.scalings_[:, :2])
    largest = np.abs(basis).argmax(0)
    return basis * np.sign(basis[largest, [0, 1]])  # an eigenvector's sign is arbitrary


def _number(value: float) -> float | None:
    """Rounded to 1e-3; JSON has no numbers that are not finite."""
    return round(float(value), 3) if np.isfinite(value) else None


def _json(values: dict[str, Any]) -> Markup:
    """JSON for a script element. No "<" in it can end the element."""
    text = json.dumps(values, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return Markup(text)  # noqa: S704
