"""Sample: images that the model draws, by numbers from the judge, beside the same numbers of real images."""

import sys

from pipeline.config import load_params
from pipeline.data.dataset import load_dataset
from pipeline.evaluation import samples
from pipeline.evaluation.summary import plus_minus
from pipeline.judge.checkpoint import load_judge
from pipeline.model.checkpoint import load_model
from pipeline.process.cli import parse_paths
from pipeline.process.device import environment, set_up
from pipeline.process.lifecycle import run_stage
from pipeline.report import plotting
from pipeline.storage.files import write_json
from pipeline.storage.tensors import save_tensors
from pipeline.tracking.run import Run


def main() -> None:
    arguments = parse_paths(__doc__, "data", "model", "judge", "samples", "picture", "metrics")
    params = load_params()
    settings = params.sample
    device = set_up(params.runtime.device, settings.seed)
    dataset = load_dataset(arguments.data)
    vae = load_model(arguments.model, device).vae
    judge = load_judge(arguments.judge, dataset, device)

    with Run("sample", params, arguments):
        real = samples.references(dataset, judge, settings)
        drawn = samples.draw(vae, judge, settings)
        nearest = samples.nearest_training(drawn.images, dataset, device)
        metrics = samples.measure(drawn, nearest, real)
        save_tensors(arguments.samples, samples.shown(drawn, nearest), {"dataset": dataset.name})
        images, classes = samples.picture(drawn, dataset.shape)
        rows = plotting.in_rows(images, len(classes) or samples.COLUMNS)
        plotting.save(plotting.grid(rows, column_labels=classes), arguments.picture)
        write_json(arguments.metrics, {"sample": metrics, "environment": environment(device)})
    for name in ("recognised", "asked_for", "frechet"):
        if name in metrics:
            real_images = plus_minus(metrics, f"{name}_real", ".3f")
            print(f"{name}: {plus_minus(metrics, name, '.3f')}, of real test images {real_images}")


if __name__ == "__main__":
    sys.exit(run_stage(main))
