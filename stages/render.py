"""Render: every picture of the report, from the trained model and the measured test images."""

import sys

import pandas as pd
import torch

from pipeline.config import load_params
from pipeline.data import probes
from pipeline.data.dataset import load_dataset
from pipeline.model.checkpoint import load_model
from pipeline.process.cli import parse_paths
from pipeline.process.device import set_up
from pipeline.process.lifecycle import run_stage
from pipeline.report import plotting
from pipeline.report.pictures import PICTURES, drawn, overview
from pipeline.report.scene import Scene, as_seen
from pipeline.storage.tables import read_csv, read_parquet, write_parquet


@torch.inference_mode()
def main() -> None:
    inputs = ("data", "model", "history", "table", "verified", "curves", "probes")
    arguments = parse_paths(__doc__, *inputs, "figures", "pictures", "overview", "convergence")
    params = load_params()
    device = set_up(params.runtime.device, params.render.seed)
    dataset = load_dataset(arguments.data)
    vae, _, _ = load_model(arguments.model, device)
    history = read_csv(arguments.history, "epoch", "train_elbo", "validation_elbo", "best")
    table = read_parquet(arguments.table, "label", "log_px", "khat", "ess", "samples", "trusted")
    verified = read_parquet(arguments.verified, "kind", "label", "log_px", "best_elbo", "elbo")
    curves = read_csv(arguments.curves, "method", "evaluations", "log_px", "low", "high")
    measured = read_parquet(arguments.probes, "kind", "label", "log_px")

    x = vae.images.read_clean(dataset.test_images)
    examples = probes.examples(dataset.test_images[:10], dataset.test_labels[:10], dataset.levels)
    scene = Scene(
        vae, x.to(device), dataset.test_labels.numpy(), dataset.shape,
        history, table, verified, curves, measured, as_seen(examples, vae.images), params.render,
    )  # fmt: skip

    pictures = {name: drawn(picture.draw, scene) for name, picture in PICTURES.items()}
    arguments.figures.mkdir(parents=True, exist_ok=True)
    for name, (png, _) in pictures.items():
        if png:
            plotting.save(png, arguments.figures / f"{name}.png")
    left_out = [(name, reason) for name, (_, reason) in pictures.items()]
    write_parquet(arguments.pictures, pd.DataFrame(left_out, columns=["picture", "left_out"]))
    # These two are shown outside the report, and always exist.
    for path, (png, reason) in (
        (arguments.overview, drawn(overview, scene)),
        (arguments.convergence, pictures["convergence"]),
    ):
        plotting.save(png or plotting.message(reason), path)


if __name__ == "__main__":
    sys.exit(run_stage(main))
