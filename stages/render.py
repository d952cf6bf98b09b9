"""Render: every picture of the report, from the trained model and the measured test images."""

import sys

import torch

from pipeline import config, datasets, figures, lifetime, probes, runtime, tables, trained
from pipeline.gallery import PICTURES, Scene, convergence, overview


@torch.inference_mode()
def main() -> None:
    inputs = ("data", "model", "history", "table", "verified", "curves", "probes")
    arguments = runtime.paths(__doc__, *inputs, "figures", "overview", "convergence")
    params = config.load()
    device = runtime.start(params.runtime.device, params.render.seed)
    dataset = datasets.load(arguments.data)
    vae, _, _ = trained.load(arguments.model, device)
    history = tables.read_csv(arguments.history, "epoch", "train_elbo", "validation_elbo", "best")
    table = tables.read_parquet(arguments.table, "label", "log_px", "khat", "ess", "samples", "trusted")
    verified = tables.read_parquet(arguments.verified, "kind", "label", "log_px", "best_elbo", "elbo")
    curves = tables.read_csv(arguments.curves, "method", "evaluations", "log_px", "low", "high")
    measured = tables.read_parquet(arguments.probes, "kind", "label", "log_px")

    # Mid-cell values (v + 1/2) / levels: the mean of the dequantised image, without its noise.
    x = (dataset.test_images.flatten(1) + 0.5) / dataset.levels
    examples = probes.examples(dataset.test_images[:10], dataset.test_labels[:10], dataset.levels)
    scene = Scene(
        vae, x.to(device), dataset.test_labels.numpy(), dataset.shape,
        history, table, verified, curves, measured, examples, params.render,
    )  # fmt: skip

    for name, picture in PICTURES.items():
        if figure := picture(scene):
            figures.save(figure, arguments.figures / f"{name}.png")
    # Beside the report's pictures, the two that are shown outside it.
    figures.save(overview(scene), arguments.overview)
    figures.save(convergence(scene), arguments.convergence)


if __name__ == "__main__":
    sys.exit(lifetime.run(main))
