"""Report: one HTML file that opens offline, and a short Markdown version of it."""

import os
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np

from logpx.observations.gaussian import gaussian_ceiling
from logpx.weights import MINIMUM_ESS
from pipeline.code import code_digest
from pipeline.config import load_params
from pipeline.evaluation.auroc import summarise_probes
from pipeline.model.checkpoint import load_checkpoint
from pipeline.process.cli import parse_paths
from pipeline.process.lifecycle import run_stage
from pipeline.report.html import load_pictures, render, untrusted
from pipeline.report.parameters import read_parameters
from pipeline.storage.files import read_metrics, sha256, write_text
from pipeline.storage.tables import finite, read_parquet
from pipeline.tracking.run import Run


def main() -> None:
    metrics = [f"{name}_metrics" for name in ("train", "test", "verify", "compare")]
    arguments = parse_paths(
        __doc__, "model", "table", "probes", *metrics, "figures", "pictures", "overview", "html", "markdown"
    )
    params = load_params()
    _, description = load_checkpoint(arguments.model)
    model_sha256 = sha256(arguments.model)
    pixels = description.height * description.width
    table = read_parquet(arguments.table, "label", "trusted", "log_px")
    measured = read_parquet(arguments.probes, "kind", "log_px", "trusted")
    log_px = finite(table, "log_px")
    drawn, left_out = load_pictures(arguments.figures, read_parquet(arguments.pictures, "picture", "left_out"))
    train, test = read_metrics(arguments.train_metrics), read_metrics(arguments.test_metrics)
    sections = params.model_dump(exclude={"recovery", "tracking"})
    values = {
        "params": sections,
        "parameters": read_parameters(sections),
        "data": {"name": description.dataset, "levels": description.levels, "pixels": pixels},
        "train": train,
        "test": test["test"],
        "verify": read_metrics(arguments.verify_metrics)["verify"],
        "compare": read_metrics(arguments.compare_metrics)["compare"],
        "untrusted": untrusted(table),
        "median": float(np.median(log_px)),
        "probes": summarise_probes(measured, log_px),
        "ceiling": gaussian_ceiling(pixels, description.model.sigma),
        "pictures": drawn,
        "left_out": left_out,
        "rule": {"minimum_ess": MINIMUM_ESS},
        "overview": Path(os.path.relpath(arguments.overview, arguments.markdown.parent)).as_posix(),
        "lineage": {
            "data": description.data_sha256,
            "model": model_sha256,
            "trained_on": "; ".join(train["environment"]),
            "measured_on": "; ".join(test["environment"]),
            "code": code_digest(),
            "versions": ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "dvc", "mlflow")),
        },
    }
    with Run("report", params, arguments):
        write_text(arguments.html, render("report.html.jinja", values))
        write_text(arguments.markdown, render("report.md.jinja", values))
    print(f"report: {arguments.html}")


if __name__ == "__main__":
    sys.exit(run_stage(main))
