"""Compare: log p(x) beside densities with closed forms, and the log p(x) of images that are no digits."""

import math
import sys

import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

from pipeline import checkpoint, config, datasets, runtime, sources, tables
from pipeline.datasets import Dataset
from pipeline.errors import UserError, guarded
from pipeline.files import sha256, write_json
from pipeline.likelihood import baselines, importance
from pipeline.observations import dequantise
from pipeline.probes import PROBES, Digits
from pipeline.tracking import Run
from pipeline.vae import VAE


def main() -> None:
    arguments = runtime.paths(__doc__, "data", "model", "images", "table", "metrics")
    params = config.load()
    device = runtime.device(params.runtime.device)
    dataset = datasets.load(arguments.data)
    weights, description = checkpoint.load(arguments.model)
    digits = tables.read_parquet(arguments.images, "log_px")

    runtime.deterministic(params.compare.seed)
    vae = VAE(description.model, dataset.pixels)
    checkpoint.restore(vae, weights, arguments.model)
    vae.to(device)

    kinds = probes(dataset, params.compare)
    table = pd.concat([measure(vae, kind, kinds[kind], dataset, params) for kind in kinds], ignore_index=True)
    metrics = {
        **beside(dataset, params, description.model),
        **{f"auroc_{kind.replace(' ', '_')}": round(auroc(digits, table, kind), 4) for kind in kinds},
    }
    tables.write_parquet(arguments.table, table)
    write_json(arguments.metrics, {"compare": metrics})
    with Run("compare", sha256(arguments.model)) as run:
        run.metrics({f"compare.{key}": value for key, value in metrics.items()})
    for kind, part in table.groupby("kind", sort=False):
        print(f"{kind}: median log p(x) {part['log_px'].median():.1f}, AUROC {auroc(digits, table, str(kind)):.3f}")


def probes(dataset: Dataset, settings: config.Compare) -> dict[str, torch.Tensor]:
    """Images of each kind, and test images of another data set where one is named."""
    first = slice(settings.images)
    generator = torch.Generator().manual_seed(settings.seed)
    digits = Digits(dataset.test_images[first], dataset.test_labels[first], dataset.levels, generator)
    kinds = {name: make(digits) for name, make in PROBES.items()}
    if settings.other != "none":
        other = sources.get(settings.other)
        if other.shape != dataset.shape or other.name == dataset.name:
            raise UserError(
                f"compare.other = {settings.other}: another data set with images of {dataset.shape[0]} x "
                f"{dataset.shape[1]} pixels is needed beside {dataset.name}; or none"
            )
        kinds[settings.other] = other.test_images[first]
    return kinds


def measure(vae: VAE, kind: str, images: torch.Tensor, dataset: Dataset, params: config.Params) -> pd.DataFrame:
    """Log p(x) of one kind of images, by the evaluation's proposal with fewer samples."""
    settings = params.compare
    generator = torch.Generator().manual_seed(settings.seed)
    x = dequantise(images.flatten(1), dataset.levels, generator).to(next(vae.parameters()).device)
    fewer = {"samples": settings.samples, "budget": settings.samples, "seed": settings.seed}
    evaluate = params.evaluate.model_copy(update=fewer)
    found = importance.concatenate(list(importance.log_px(vae, x, evaluate, evaluate.proposal))).diagnosis
    labels = dataset.test_labels[: len(images)].numpy()
    return pd.DataFrame({"kind": kind, "label": labels, "log_px": found.log_px, "trusted": found.trusted})


def beside(dataset: Dataset, params: config.Params, model: config.Model) -> dict[str, float]:
    """Mean log-density of the test images under each baseline, nats, with its standard error over images."""
    train = baselines.moments(dataset.train_images.flatten(1), dataset.levels)
    # The very densities that the evaluation measured.
    generator = torch.Generator().manual_seed(params.evaluate.seed)
    x = dequantise(dataset.test_images.flatten(1), dataset.levels, generator)[: params.evaluate.images]
    values: dict[str, float] = {}
    for name, fit in baselines.BASELINES.items():
        log_px = fit(train, model.sigma, model.latent).log_prob(x)
        values[name] = round(float(log_px.mean()), 4)
        values[f"{name}_se"] = round(float(log_px.std()) / math.sqrt(len(log_px)), 4)
    return values


def auroc(digits: pd.DataFrame, table: pd.DataFrame, kind: str) -> float:
    """How often a test digit is likelier than an image of this kind: 1 always, ½ a coin's toss, 0 never."""
    probe = tables.numbers(tables.rows(table, "kind", kind), "log_px")
    truth = [1] * len(digits) + [0] * len(probe)
    return float(roc_auc_score(truth, [*tables.numbers(digits, "log_px"), *probe]))


if __name__ == "__main__":
    sys.exit(guarded(main))
