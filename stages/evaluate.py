"""Evaluate: the ELBO and log p(x) of every test image, in nats, with what speaks for each estimate."""

import sys

import pandas as pd

from pipeline import config, datasets, lifetime, ranks, runtime, scratch, tables, trained
from pipeline.files import sha256, write_json
from pipeline.likelihood import importance
from pipeline.likelihood.evaluation import measure, summary
from pipeline.observations import dequantised
from pipeline.tracking.run import OFF, Run


def main() -> None:
    arguments = runtime.paths(__doc__, "data", "model", "table", "metrics")
    params = config.load()
    device = runtime.start(params.runtime.device, params.evaluate.seed)
    dataset = datasets.load(arguments.data)
    model = trained.load(arguments.model, device)
    settings = importance.sized(params.evaluate, model.vae)
    if ranks.launch(params.runtime.processes, device):
        return
    x = dequantised(dataset.test_images, dataset.levels, settings.seed)[: settings.images].to(device)

    environment = runtime.environment(device)
    determines = settings.model_dump(mode="json"), sha256(arguments.data), model.sha256, environment
    with (
        ranks.joined(device) as group,
        Run("evaluate", params.tracking if group.rank == 0 else OFF, model.data, model.sha256) as run,
        scratch.opened("evaluate", params.recovery, *determines, group) as kept,
    ):
        run.settings({"evaluate": settings.model_dump()})
        columns = measure(model.vae, x, settings, kept, group)
        if group.rank == 0:
            table = pd.DataFrame({"label": dataset.test_labels[: settings.images], **columns})
            metrics = summary(table)
            tables.write_parquet(arguments.table, table)
            write_json(arguments.metrics, {"test": metrics, "environment": environment})
            run.metrics({"test": metrics})
            tell(metrics)
        group.gather({})  # no process gives its part away before the whole is written


def tell(metrics: dict[str, int | float]) -> None:
    if metrics["not_finite"]:
        print(f"warning: {metrics['not_finite']:.0f} images have no finite number, and are in no mean", file=sys.stderr)
    print(f"ELBO: {metrics['elbo']:.2f} ± {metrics['elbo_se']:.2f} nats per image")
    print(f"log p(x): {metrics['log_px']:.2f} ± {metrics['log_px_se']:.2f}, {metrics['trusted']:.1%} of images trusted")


if __name__ == "__main__":
    sys.exit(lifetime.run(main))
