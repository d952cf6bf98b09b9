"""Render: every picture of the report, from the trained model and the measured test images."""

import sys

import torch

from pipeline.config import load_params
from pipeline.data import probes
from pipeline.data.dataset import load_dataset
from pipeline.model.checkpoint import load_model
from pipeline.process.cli import parse_paths
from pipeline.process.device import set_up
from pipeline.process.lifecycle import run_stage
from pipeline.report import plotting
from pipeline.report.pictures import PICTURES, convergence, overview
from pipeline.report.scene import Scene
from pipeline.storage.tables import read_csv, read_parquet


@torch.inference_mode()
def main() -> None:
    inputs = ("data", "model", "history", "table", "verified", "curves", "probes")
    arguments = parse_paths(__doc__, *inputs, "figures", "overview", "convergence")
    params = load_params()
    device = set_up(params.runtime.device, params.render.seed)
    dataset = load_dataset(arguments.data)
    vae, _, _ = load_model(arguments.model, device)
    history = read_csv(arguments.history, "epoch", "train_elbo", "validation_elbo", "best")
    table = read_parquet(arguments.table, "label", "log_px", "khat", "ess", "samples", "trusted")
    verified = read_parquet(arguments.verified, "kind", "label", "log_px", "best_elbo", "elbo")
    curves = read_csv(arguments.curves, "method", "evaluations", "log_px", "low", "high")
    measured = read_parquet(arguments.probes, "kind", "label", "log_px")

    # (v + 1/2) / levels: the dequantised image without its noise.
    x = (dataset.test_images.flatten(1) + 0.5) / dataset.levels
    examples = probes.examples(dataset.test_images[:10], dataset.test_labels[:10], dataset.levels)
    scene = Scene(
        vae, x.to(device), dataset.test_labels.numpy(), dataset.shape,
        history, table, verified, curves, measured, examples, params.render,
    )  # fmt: skip

    for name, picture in PICTURES.items():
        if figure := picture.draw(scene):
            plotting.save(figure, arguments.figures / f"{name}.png")
    # These two are shown outside the report.
    plotting.save(overview(scene), arguments.overview)
    plotting.save(convergence(scene), arguments.convergence)


if __name__ == "__main__":
    sys.exit(run_stage(main))
