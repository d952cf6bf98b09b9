"""Render: every picture of the report, from the trained model and the measured test images."""

import sys
from pathlib import Path

import pandas as pd
import torch

from pipeline.config import load_params
from pipeline.data import probes
from pipeline.data.dataset import Dataset, load_dataset
from pipeline.data.image_format import ImageFormat, as_pictures
from pipeline.evaluation.samples import grey_mean
from pipeline.judge.checkpoint import load_judge
from pipeline.judge.classifier import Judge, judge_images
from pipeline.model.checkpoint import load_model
from pipeline.process.cli import parse_paths
from pipeline.process.device import set_up
from pipeline.process.lifecycle import run_stage
from pipeline.report import plotting
from pipeline.report.pictures import PICTURES, drawn, overview
from pipeline.report.scene import Judge as JudgeOfScene
from pipeline.report.scene import Neighbours, Scene, as_seen
from pipeline.storage.files import unusable
from pipeline.storage.tables import read_csv, read_parquet, write_parquet
from pipeline.storage.tensors import load_tensors


@torch.inference_mode()
def main() -> None:
    inputs = ("data", "model", "judge", "history", "table", "verified", "curves", "probes", "samples")
    arguments = parse_paths(__doc__, *inputs, "figures", "pictures", "overview", "convergence")
    params = load_params()
    device = set_up(params.runtime.device, params.render.seed)
    dataset = load_dataset(arguments.data)
    vae = load_model(arguments.model, device).vae
    judge = load_judge(arguments.judge, dataset, device)
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
        seen_by(judge, vae.images), read_neighbours(arguments.samples, dataset),
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


def seen_by(judge: Judge | None, images: ImageFormat) -> JudgeOfScene | None:
    """The class that the judge sees in the mean of each p(x | z); None without a judge."""
    return (lambda p: judge_images(judge, grey_mean(p, images)).classes) if judge else None


def read_neighbours(path: Path, dataset: Dataset) -> Neighbours:
    """The drawn images that stage sample has kept, and their nearest training images.

    Raises:
        UserError: if the file is missing, damaged, or of another data set.
    """
    tensors, description = load_tensors(path)
    if not {"images", "nearest", "distance"} <= set(tensors) or description.get("dataset") != dataset.name:
        raise unusable(path, f"has no samples of a model of {dataset.name}")
    drawn = as_pictures(tensors["images"].numpy() / 255, dataset.shape)
    nearest = dataset.train_images[tensors["nearest"]].flatten(1).numpy() / (dataset.levels - 1)
    return Neighbours(drawn, as_pictures(nearest, dataset.shape), tensors["distance"].numpy())


if __name__ == "__main__":
    sys.exit(run_stage(main))
