"""Report: one self-contained HTML file, and a short Markdown of the same."""

import os
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np

from pipeline import checkpoint, config, lifetime, probes, report, runtime, tables
from pipeline.files import read_metrics, sha256, write_text
from pipeline.likelihood.weights import MINIMUM_ESS
from pipeline.observations import gaussian_ceiling
from pipeline.tracking.run import Run


def main() -> None:
    metrics = [f"{name}_metrics" for name in ("train", "test", "verify", "compare")]
    arguments = runtime.paths(__doc__, "model", "table", "probes", *metrics, "figures", "overview", "html", "markdown")
    params = config.load()
    _, description = checkpoint.load(arguments.model)
    model_sha256 = sha256(arguments.model)
    pixels = description.height * description.width
    table = tables.read_parquet(arguments.table, "label", "trusted", "log_px")
    measured = tables.read_parquet(arguments.probes, "kind", "log_px", "trusted")
    log_px = tables.finite(table, "log_px")
    train, test = read_metrics(arguments.train_metrics), read_metrics(arguments.test_metrics)
    values = {
        "params": params.model_dump(exclude={"recovery", "tracking"}),
        "data": {"name": description.dataset, "levels": description.levels, "pixels": pixels},
        "train": train,
        "test": test["test"],
        "verify": read_metrics(arguments.verify_metrics)["verify"],
        "compare": read_metrics(arguments.compare_metrics)["compare"],
        "untrusted": report.untrusted(table),
        "median": float(np.median(log_px)),
        "probes": probes.summary(measured, log_px),
        "ceiling": gaussian_ceiling(pixels, description.model.sigma),
        "pictures": report.pictures(arguments.figures),
        "rule": {"minimum_ess": MINIMUM_ESS},
        "overview": Path(os.path.relpath(arguments.overview, arguments.markdown.parent)).as_posix(),
        "lineage": {
            "data": description.data_sha256,
            "model": model_sha256,
            "trained_on": "; ".join(train["environment"]),
            "measured_on": "; ".join(test["environment"]),
            "code": report.code_digest([Path("pipeline"), Path("stages")]),
            "versions": ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "dvc", "mlflow")),
        },
    }
    write_text(arguments.html, report.render("report.html.jinja", values))
    write_text(arguments.markdown, report.render("report.md.jinja", values))
    with Run("report", params.tracking, (description.dataset, description.data_sha256), model_sha256) as run:
        run.artifacts("figures", arguments.figures, arguments.overview)
        run.artifacts("report", arguments.html, arguments.markdown)
    print(f"report: {arguments.html}")


if __name__ == "__main__":
    sys.exit(lifetime.run(main))
