"""Evaluate: the ELBO and log p(x) of every test image, in nats, with diagnostics of each estimate."""

import sys
from dataclasses import asdict

import pandas as pd
import torch
from torch import Tensor

from pipeline.config import load_params
from pipeline.data.dataset import Dataset, load_dataset
from pipeline.data.split import split
from pipeline.evaluation.elbo import active_units
from pipeline.evaluation.settings import estimator
from pipeline.evaluation.summary import Metrics, plus_minus
from pipeline.evaluation.test_images import KEPT, measure, measure_training, summarise, summarise_training
from pipeline.model.checkpoint import Description, load_model
from pipeline.process.cli import parse_paths
from pipeline.process.device import environment, set_up
from pipeline.process.distributed import join
from pipeline.process.launcher import launch
from pipeline.process.lifecycle import run_stage
from pipeline.process.recovery import open_work
from pipeline.storage.files import sha256, write_json
from pipeline.storage.tables import write_parquet
from pipeline.storage.tensors import save_tensors
from pipeline.tracking.run import Run


def main() -> None:
    arguments = parse_paths(__doc__, "data", "model", "table", "log_weights", "metrics")
    params = load_params()
    evaluate = params.evaluate
    device = set_up(params.runtime.device, evaluate.seed)
    dataset = load_dataset(arguments.data)
    model = load_model(arguments.model, torch.device("cpu"))  # a launcher puts nothing on a GPU
    if launch(params.runtime.processes, device):
        return
    vae = model.vae.to(device)
    settings = estimator(evaluate, vae)
    x = vae.images.read_fixed(dataset.test_images, evaluate.seed)[: evaluate.images].to(device)
    y = dataset.test_labels[: evaluate.images].long().to(device)
    training = {
        name: (
            vae.images.read_fixed(dataset.train_images[some], evaluate.seed).to(device),
            dataset.train_labels[some].long().to(device),
        )
        for name, some in training_split(dataset, model.description, evaluate.training_images).items()
    }

    where = environment(device)
    determines = evaluate.model_dump(mode="json"), asdict(settings), sha256(arguments.data), model.sha256, where
    with (
        join(device) as group,
        open_work("evaluate", params.recovery, *determines, group) as work,
        Run("evaluate", params, arguments, active=group.rank == 0),
    ):
        columns = measure(vae, x, y, evaluate, settings, work, group)
        of_training = measure_training(vae, training, settings, work, group)
        log_weights = columns.pop("log_weights")
        if group.rank == 0:
            table = pd.DataFrame({"label": dataset.test_labels[: evaluate.images], **columns})
            metrics = summarise(table, vae.images) | {"active_units": active_units(vae, x, y)}
            others = {name: summarise_training(found, vae.images) for name, found in of_training.items()}
            write_parquet(arguments.table, table)
            counts = columns["samples"][:KEPT].long()
            save_tensors(arguments.log_weights, {"log_weights": log_weights, "samples": counts}, {})
            write_json(arguments.metrics, {"test": metrics, **others, "environment": where})
            report(metrics)
        group.gather({})  # a barrier: no process discards its saved work before the outputs are written


def training_split(dataset: Dataset, model: Description, count: int) -> dict[str, Tensor]:
    """Indices of the first images that the model was trained on, and of the first held out for validation."""
    trained, held_out = split(len(dataset.train_images), model.validation, model.seed)
    return {"train": trained[:count], "validation": held_out[:count]}


def report(metrics: Metrics) -> None:
    if metrics["not_finite"]:
        text = "images have a non-finite ELBO or log p(x) and are excluded from all means"
        print(f"warning: {metrics['not_finite']:.0f} {text}", file=sys.stderr)
    print(f"ELBO: {plus_minus(metrics, 'elbo')} nats per image")
    print(f"log p(x): {plus_minus(metrics, 'log_px')}, {metrics['trusted']:.1%} of images trusted")


if __name__ == "__main__":
    sys.exit(run_stage(main))
