"""Evaluate: the ELBO and log p(x) of every test image, in nats, with diagnostics of each estimate."""

import sys
from dataclasses import asdict

import pandas as pd

from pipeline.config import load_params
from pipeline.data.dataset import load_dataset
from pipeline.data.dequantise import dequantised
from pipeline.evaluation.settings import estimator
from pipeline.evaluation.test_images import measure, summarise
from pipeline.model.checkpoint import load_model
from pipeline.process.cli import parse_paths
from pipeline.process.device import environment, set_up
from pipeline.process.distributed import join
from pipeline.process.launcher import launch
from pipeline.process.lifecycle import run_stage
from pipeline.process.recovery import open_work
from pipeline.storage.files import sha256, write_json
from pipeline.storage.tables import write_parquet
from pipeline.tracking.run import Run


def main() -> None:
    arguments = parse_paths(__doc__, "data", "model", "table", "metrics")
    params = load_params()
    evaluate = params.evaluate
    device = set_up(params.runtime.device, evaluate.seed)
    dataset = load_dataset(arguments.data)
    model = load_model(arguments.model, device)
    if launch(params.runtime.processes, device):
        return
    settings = estimator(evaluate, model.vae)
    x = dequantised(dataset.test_images, dataset.levels, evaluate.seed)[: evaluate.images].to(device)

    where = environment(device)
    determines = evaluate.model_dump(mode="json"), asdict(settings), sha256(arguments.data), model.sha256, where
    with (
        join(device) as group,
        open_work("evaluate", params.recovery, *determines, group) as work,
        Run("evaluate", params, arguments, active=group.rank == 0),
    ):
        columns = measure(model.vae, x, evaluate, settings, work, group)
        if group.rank == 0:
            table = pd.DataFrame({"label": dataset.test_labels[: evaluate.images], **columns})
            metrics = summarise(table)
            write_parquet(arguments.table, table)
            write_json(arguments.metrics, {"test": metrics, "environment": where})
            report(metrics)
        group.gather({})  # a barrier: no process discards its saved work before the outputs are written


def report(metrics: dict[str, int | float]) -> None:
    if metrics["not_finite"]:
        text = "images have a non-finite ELBO or log p(x) and are excluded from all means"
        print(f"warning: {metrics['not_finite']:.0f} {text}", file=sys.stderr)
    print(f"ELBO: {metrics['elbo']:.2f} ± {metrics['elbo_se']:.2f} nats per image")
    print(f"log p(x): {metrics['log_px']:.2f} ± {metrics['log_px_se']:.2f}, {metrics['trusted']:.1%} of images trusted")


if __name__ == "__main__":
    sys.exit(run_stage(main))
