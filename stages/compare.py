"""Compare: log p(x) beside densities with closed forms, and the log p(x) of images that are no digits."""

import math
import sys

import pandas as pd
import torch

from pipeline import config, datasets, lifetime, probes, runtime, sources, tables, trained
from pipeline.datasets import Dataset
from pipeline.errors import UserError
from pipeline.files import write_json
from pipeline.likelihood import baselines, importance
from pipeline.observations import dequantised
from pipeline.probes import PROBES, Digits
from pipeline.tracking.run import Run
from pipeline.vae import VAE


def main() -> None:
    arguments = runtime.paths(__doc__, "data", "model", "images", "table", "metrics")
    params = config.load()
    device = runtime.start(params.runtime.device, params.compare.seed)
    dataset = datasets.load(arguments.data)
    model = trained.load(arguments.model, device)
    params = params.model_copy(update={"evaluate": importance.sized(params.evaluate, model.vae)})
    digits = tables.read_parquet(arguments.images, "log_px")

    kinds = images_of_each_kind(dataset, params.compare)
    with Run("compare", params.tracking, model.data, model.sha256) as run:
        run.settings({"compare": params.compare.model_dump()})
        parts = [measure(model.vae, kind, *kinds[kind], dataset.levels, params) for kind in kinds]
        table = pd.concat(parts, ignore_index=True)
        found = probes.summary(table, tables.finite(digits, "log_px"))
        metrics = {
            **beside(dataset, params, model.description.model),
            **{f"auroc_{row.kind.replace(' ', '_')}": round(row.auroc, 4) for row in found},
        }
        tables.write_parquet(arguments.table, table)
        write_json(arguments.metrics, {"compare": metrics, "environment": runtime.environment(device)})
        run.metrics({"compare": metrics})
    for row in found:
        print(f"{row.kind}: median log p(x) {row.median:.1f}, AUROC {row.auroc:.3f}")


def images_of_each_kind(dataset: Dataset, settings: config.Compare) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Images of each kind with classes, and test images of another data set where one is named."""
    if settings.other != "none" and (settings.other == dataset.name or sources.shape(settings.other) != dataset.shape):
        raise UserError(
            f"compare.other = {settings.other}: another data set with images of {dataset.shape[0]} x "
            f"{dataset.shape[1]} pixels is needed beside {dataset.name}; or none"
        )
    first = slice(settings.images)
    generator = torch.Generator().manual_seed(settings.seed)
    digits = Digits(dataset.test_images[first], dataset.test_labels[first], dataset.levels, generator)
    kinds = {name: (make(digits), digits.labels) for name, make in PROBES.items()}
    if settings.other != "none":
        other = sources.get(settings.other)
        kinds[settings.other] = other.test_images[first], other.test_labels[first]
    return kinds


def measure(
    vae: VAE, kind: str, images: torch.Tensor, labels: torch.Tensor, levels: int, params: config.Params
) -> pd.DataFrame:
    """Log p(x) of one kind of images, by the evaluation's proposal with fewer samples."""
    settings = params.compare
    x = dequantised(images, levels, settings.seed).to(next(vae.parameters()).device)
    fewer = {"samples": settings.samples, "budget": settings.samples, "seed": settings.seed}
    evaluate = params.evaluate.model_copy(update=fewer)
    found = importance.log_px(vae, x, evaluate, evaluate.proposal).diagnosis
    return pd.DataFrame({"kind": kind, "label": labels.numpy(), "log_px": found.log_px, "trusted": found.trusted})


def beside(dataset: Dataset, params: config.Params, model: config.Model) -> dict[str, float]:
    """Mean log-density of the test images under each baseline, nats, with its standard error over images."""
    train = baselines.moments(dataset.train_images.flatten(1), dataset.levels)
    # The very densities that the evaluation measured.
    x = dequantised(dataset.test_images, dataset.levels, params.evaluate.seed)[: params.evaluate.images]
    values: dict[str, float] = {}
    for name, fit in baselines.BASELINES.items():
        log_px = fit(train, model.sigma, model.latent).log_prob(x)
        values[name] = round(float(log_px.mean()), 4)
        values[f"{name}_se"] = round(float(log_px.std()) / math.sqrt(len(log_px)), 4)
    return values


if __name__ == "__main__":
    sys.exit(lifetime.run(main))
