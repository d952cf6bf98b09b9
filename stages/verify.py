"""Verify: log p(x) by second methods, on some test images and on images simulated from the model."""

import sys

from pipeline.config import load_params
from pipeline.data.dataset import load_dataset
from pipeline.evaluation import second_opinions
from pipeline.evaluation.every_label import given_label
from pipeline.evaluation.settings import estimator
from pipeline.evaluation.summary import plus_minus
from pipeline.model.checkpoint import load_model
from pipeline.process.cli import parse_paths
from pipeline.process.device import environment, set_up
from pipeline.process.lifecycle import run_stage
from pipeline.storage.files import write_json
from pipeline.storage.tables import read_parquet, write_csv, write_parquet
from pipeline.tracking.run import Run


def main() -> None:
    arguments = parse_paths(__doc__, "data", "model", "images", "table", "curves", "metrics")
    params = load_params()
    verify = params.verify
    device = set_up(params.runtime.device, verify.seed)
    dataset = load_dataset(arguments.data)
    model = load_model(arguments.model, device)
    settings = estimator(params.evaluate, model.vae)
    table = given_label(read_parquet(arguments.images, "log_px", "log_px_se", "trusted", "elbo"))
    measured = table.head(verify.images)
    # The same dequantised images that the evaluation measured.
    x = model.vae.images.read_fixed(dataset.test_images, params.evaluate.seed)[: len(measured)].to(device)
    y = dataset.test_labels[: len(measured)].long().to(device)

    with Run("verify", params, arguments):
        table = second_opinions.measure(model.vae, x, y, measured, verify, settings)
        curves = second_opinions.curves(model.vae, x, y, measured, verify, settings)
        metrics = second_opinions.summarise(table)
        write_parquet(arguments.table, table)
        write_csv(arguments.curves, curves)
        write_json(arguments.metrics, {"verify": metrics, "environment": environment(device)})
    if metrics["not_finite"]:
        print(f"warning: {metrics['not_finite']} differences are not finite and are excluded", file=sys.stderr)
    print(f"evaluate - annealed: {plus_minus(metrics, 'difference', '+.2f')} nats per image")
    if "missed" in metrics:
        print(
            f"trusted estimates below the lower bound: {metrics['missed']:.1%} of {metrics['trusted']} simulated images"
        )
    print(f"bidirectional gap on simulated images: {plus_minus(metrics, 'bdmc_gap')} nats per image")


if __name__ == "__main__":
    sys.exit(run_stage(main))
