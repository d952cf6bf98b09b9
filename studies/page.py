"""A study's page: NAME.html, which opens offline, NAME.md, NAME.json, and the two figures that both pages show."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from logpx.observations.gaussian import Gaussian
from pipeline.data.dataset import load_dataset
from pipeline.model.checkpoint import TrainedModel, load_model
from pipeline.report import html, plotting
from pipeline.report.plotting import Figure
from pipeline.storage.files import write_json, write_text
from studies.experiments import get
from studies.grids import Study
from studies.panels import plot, short
from studies.records import as_images, revision_of

Outcome = dict[str, Any] | str  # what `dvc exp show` has of an experiment, or why it failed
ORIGINALS, SAMPLES = 6, 9  # images in a row of the figure
# Quantities of the table of spreads: their names on the page, and by how much they are multiplied there.
SPREADS = {"log_px": ("log p(x)", 1), "elbo": ("ELBO", 1), "recognised": ("recognised, %", 100)}


def write(name: str, study: Study, outcomes: Mapping[float, Outcome], folder: Path) -> None:
    """Write all files of the page.

    Raises:
        UserError: if the model of an experiment is not in DVC's cache.
    """
    measured = {value: outcome for value, outcome in outcomes.items() if isinstance(outcome, dict)}
    failed = {value: reason for value, reason in outcomes.items() if isinstance(reason, str)}
    models = {value: load_experiment_model(outcome["rev"]) for value, outcome in measured.items()}
    rows = [_row(value, outcome, models[value]) for value, outcome in measured.items()]
    spreads = spread(rows) if study.repeats else []
    revision = revision_of(Path())
    plotting.save(plot(study, pd.DataFrame(rows).astype(float)), folder / f"{name}.png")
    plotting.save(draw_images(study, models), folder / f"{name}_images.png")
    write_json(folder / f"{name}.json", {
        "study": name, "parameter": study.parameter, "revision": revision, "experiments": rows,
        "failed": {f"{value:g}": reason for value, reason in failed.items()},
        **({"spread": spreads} if study.repeats else {}),
    })  # fmt: skip
    uris = {end: html.data_uri((folder / f"{name}{end}.png").read_bytes()) for end in ("", "_images")}
    values = {
        "name": name, "study": study, "rows": rows, "failed": failed, "uris": uris, "spreads": spreads,
        "revision": revision,
    }  # fmt: skip
    for kind in ("html", "md"):
        write_text(folder / f"{name}.{kind}", html.render(f"study.{kind}.jinja", values, Path(__file__).parent))
    print(f"{folder / name}.html")


def _row(value: float, outcome: dict[str, Any], model: TrainedModel) -> dict[str, float | None]:
    """An experiment's row of the table; nats per image. One image has no standard error: None.

    `sigma` is that of Gaussian pixels, a setting or learned; None for any other observation model.
    """
    test = outcome["metrics"]["reports/metrics/evaluate.json"]["data"]["test"]
    observation, description = model.vae.decoder.observation, model.description
    sigma = float(observation.sigma) if isinstance(observation, Gaussian) else None
    names = (
        "images", "log_px", "log_px_se", "bits_per_dim", "elbo", "elbo_se", "reconstruction", "kl", "trusted",
        "ess_median", "image_se_median", "evaluations_mean",
    )  # fmt: skip
    drawn = outcome["metrics"].get("reports/metrics/sample.json", {}).get("data", {}).get("sample", {})
    samples = {name: drawn.get(name) for name in ("recognised", "recognised_se")}
    about = {"value": value, "sigma": sigma, "pixels": description.images.pixels}
    return about | {name: test.get(name) if "_se" in name else test[name] for name in names} | samples


def spread(rows: Sequence[Mapping[str, float | None]]) -> list[dict[str, Any]]:
    """Mean over repetitions, the standard deviation between them (n − 1), and their mean standard error over images.

    The last two are None if there is one repetition, or one image.
    """
    found: list[dict[str, Any]] = []
    for name, (title, factor) in SPREADS.items():
        values = [value for row in rows if (value := row[name]) is not None]
        errors = [error for row in rows if (error := row[f"{name}_se"]) is not None]
        if values:
            found.append({
                "name": name, "title": title, "n": len(values), "mean": factor * float(np.mean(values)),
                "between_seeds": factor * float(np.std(values, ddof=1)) if len(values) > 1 else None,
                "over_images": factor * float(np.mean(errors)) if errors else None,
            })  # fmt: skip
    return found


def load_experiment_model(rev: str) -> TrainedModel:
    """The trained model of an experiment, from DVC's cache.

    Raises:
        UserError: if it is not in the cache.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vae.safetensors"
        get("models/vae.safetensors", rev, path)
        return load_model(path, torch.device("cpu"))


@torch.inference_mode()
def draw_images(study: Study, models: Mapping[float, TrainedModel]) -> Figure:
    """A row per experiment: reconstructions of the same test images, and samples of the prior from the same noise.

    A conditional model is asked for one class after another.
    """
    dataset = load_dataset(Path("data/images.safetensors"))
    x = next(iter(models.values())).vae.images.read_clean(dataset.test_images[:ORIGINALS])
    y = dataset.test_labels[:ORIGINALS].long()
    originals = as_images(x, dataset.shape)
    white = plotting.white(1, originals)
    rows = [np.concatenate([originals, white.repeat(SAMPLES, 0)])]
    for model in models.values():
        vae = model.vae
        noise = torch.randn(SAMPLES, 256, generator=torch.Generator().manual_seed(0))[:, : vae.latent]
        reconstructions = vae.decoder(vae.encoder(x, y).mean, y).mean
        samples = vae.generate(noise, vae.labels_in_turn(SAMPLES)).mean
        rows.append(as_images(torch.cat([reconstructions, samples]), dataset.shape))
    with_gap = [np.concatenate([row[:ORIGINALS], white, row[ORIGINALS:]]) for row in rows]
    figure = plotting.grid(np.stack(with_gap), row_labels=["test images", *(short(value) for value in models)])
    figure.axes[0].set(ylabel=study.axis, xlabel="left: reconstructions f(μ(x)); right: samples f(z), z ~ p(z)")
    return figure
