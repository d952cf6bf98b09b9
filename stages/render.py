"""Render: every picture of the report, from the trained model and the measured test images."""

import sys

import torch

from pipeline import checkpoint, config, datasets, figures, runtime, tables
from pipeline.errors import guarded
from pipeline.gallery import PICTURES, Scene, overview
from pipeline.vae import VAE


@torch.inference_mode()
def main() -> None:
    arguments = runtime.paths(__doc__, "data", "model", "history", "table", "figures", "overview")
    params = config.load()
    device = runtime.device(params.runtime.device)
    dataset = datasets.load(arguments.data)
    weights, description = checkpoint.load(arguments.model)
    history = tables.read_csv(arguments.history, "epoch", "train_elbo", "validation_elbo", "best")
    table = tables.read_parquet(arguments.table, "log_px")

    runtime.deterministic(params.render.seed)
    vae = VAE(description.model, dataset.pixels)
    checkpoint.restore(vae, weights, arguments.model)
    # Mid-cell values (v + 1/2) / levels: the mean of the dequantised image, without its noise.
    x = (dataset.test_images.flatten(1) + 0.5) / dataset.levels
    scene = Scene(
        vae.to(device), x.to(device), dataset.test_labels.numpy(), dataset.shape, history, table, params.render
    )

    for name, picture in PICTURES.items():
        if figure := picture(scene):
            figures.save(figure, arguments.figures / f"{name}.png")
    figures.save(overview(scene), arguments.overview)


if __name__ == "__main__":
    sys.exit(guarded(main))
