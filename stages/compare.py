"""Compare: log p(x) beside densities with closed forms, and log p(x) of images that are unlike the data."""

import sys

import pandas as pd

from pipeline.config import load_params
from pipeline.data.dataset import load_dataset
from pipeline.evaluation import other_images
from pipeline.evaluation.auroc import summarise_probes
from pipeline.evaluation.settings import estimator
from pipeline.model.checkpoint import load_model
from pipeline.process.cli import parse_paths
from pipeline.process.device import environment, set_up
from pipeline.process.lifecycle import run_stage
from pipeline.storage.files import write_json
from pipeline.storage.tables import finite, read_parquet, write_parquet
from pipeline.tracking.run import Run


def main() -> None:
    arguments = parse_paths(__doc__, "data", "model", "images", "table", "metrics")
    params = load_params()
    compare = params.compare
    device = set_up(params.runtime.device, compare.seed)
    dataset = load_dataset(arguments.data)
    model = load_model(arguments.model, device)
    settings = estimator(params.evaluate, model.vae)
    digits = read_parquet(arguments.images, "log_px")

    kinds = other_images.images_of_each_kind(dataset, compare)
    with Run("compare", params, arguments):
        parts = [other_images.measure(model.vae, kind, *kinds[kind], compare, settings) for kind in kinds]
        table = pd.concat(parts, ignore_index=True)
        found = summarise_probes(table, finite(digits, "log_px"))
        evaluate = params.evaluate
        metrics = {
            **other_images.baselines(
                dataset, model.description.model, model.vae.images, evaluate.images, evaluate.seed
            ),
            **{f"auroc_{row.kind.replace(' ', '_')}": round(row.auroc, 4) for row in found},
        }
        write_parquet(arguments.table, table)
        write_json(arguments.metrics, {"compare": metrics, "environment": environment(device)})
    for row in found:
        print(f"{row.kind}: median log p(x) {row.median:.1f}, AUROC {row.auroc:.3f}")


if __name__ == "__main__":
    sys.exit(run_stage(main))
