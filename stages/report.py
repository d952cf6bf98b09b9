"""Report: one HTML file that opens offline, a short Markdown version of it, and the explorer."""

import math
import os
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from logpx.observations.gaussian import Gaussian
from logpx.weights import MINIMUM_ESS
from pipeline.code import code_digest
from pipeline.config import load_params
from pipeline.data.dataset import load_dataset
from pipeline.evaluation.auroc import summarise_probes
from pipeline.evaluation.every_label import given_label
from pipeline.evaluation.ladder import rungs
from pipeline.model.checkpoint import load_model
from pipeline.process.cli import parse_paths
from pipeline.process.lifecycle import run_stage
from pipeline.report.estimate_plots import ladder
from pipeline.report.explorer import explorer, read_log_weights
from pipeline.report.html import data_uri, load_pictures, render, untrusted
from pipeline.report.model_text import OBJECTIVE_TEXTS, OBSERVATION_TEXTS, PRIOR_TEXTS
from pipeline.report.parameters import read_parameters
from pipeline.report.plotting import to_png
from pipeline.report.sample_text import SAMPLE_ROWS
from pipeline.report.standing import above_histogram, mean_difference, overfitting
from pipeline.storage.files import read_metrics, write_text
from pipeline.storage.tables import finite, read_parquet
from pipeline.tracking.run import Run


def main() -> None:
    metrics = [f"{name}_metrics" for name in ("train", "test", "verify", "compare", "sample", "judge")]
    inputs = ("data", "model", "table", "log_weights", "probes", *metrics, "figures", "pictures", "overview")
    arguments = parse_paths(__doc__, *inputs, "html", "markdown", "explorer")
    params = load_params()
    dataset = load_dataset(arguments.data)
    vae, description, model_sha256 = load_model(arguments.model, torch.device("cpu"))
    images = description.images
    table = read_parquet(arguments.table, "label", "trusted", "log_px", "prior_log_px")
    measured = read_parquet(arguments.probes, "kind", "log_px", "trusted")
    log_px = finite(table, "log_px")
    listed = read_parquet(arguments.pictures, "picture", "left_out")
    drawn, left_out = load_pictures(arguments.figures, listed, description.model)
    train, evaluated = read_metrics(arguments.train_metrics), read_metrics(arguments.test_metrics)
    test, compare = evaluated["test"], read_metrics(arguments.compare_metrics)["compare"]
    sections = params.model_dump(exclude={"recovery", "tracking"})
    observation = vae.decoder.observation
    ceiling = observation.ceiling(images.pixels)
    stands = rungs(description.dataset, images, compare, test["log_px"], test.get("log_px_se"), ceiling)
    values = {
        "params": sections,
        "parameters": read_parameters(sections),
        "texts": {
            "prior": PRIOR_TEXTS[params.model.prior],
            "observation": OBSERVATION_TEXTS[params.model.observation],
            "objective": OBJECTIVE_TEXTS[params.train.objective],
        },
        "data": {
            "name": "own images" if description.dataset == "own" else description.dataset,
            "levels": images.levels,
            "pixels": images.pixels,
            "colour": images.channels > 1,
            "size": f"{images.height} x {images.width}",
            "binarised": images.binarise != "none",
        },
        "sigma": observation.sigma if isinstance(observation, Gaussian) else None,
        "discrete": observation.discrete,
        "train": train,
        "test": test,
        "measured": {name: evaluated[name] for name in ("train", "validation")},
        "overfit": overfitting({name: evaluated[name] for name in ("train", "validation", "test")}),
        "verify": read_metrics(arguments.verify_metrics)["verify"],
        "compare": compare,
        "sample": read_metrics(arguments.sample_metrics)["sample"],
        "sample_rows": SAMPLE_ROWS,
        "judge": read_metrics(arguments.judge_metrics)["judge"],
        "rungs": stands,
        "ladder": data_uri(to_png(ladder(stands))),
        "above": above_histogram(test, compare),
        "per_pixel": {"certain": math.log(images.levels), "ceiling": ceiling / images.pixels},
        "bits_per_dim": images.bits_per_dim,
        "prior_short": mean_difference(given_label(table), "log_px", "prior_log_px"),
        "untrusted": untrusted(table),
        "median": float(np.median(log_px)),
        "probes": summarise_probes(measured, log_px),
        "ceiling": ceiling,
        "pictures": drawn,
        "left_out": left_out,
        "rule": {"minimum_ess": MINIMUM_ESS},
        "explorer": Path(os.path.relpath(arguments.explorer, arguments.html.parent)).as_posix(),
        "overview": Path(os.path.relpath(arguments.overview, arguments.markdown.parent)).as_posix(),
        "lineage": {
            "data": description.data_sha256,
            "model": model_sha256,
            "trained_on": "; ".join(train["environment"]),
            "measured_on": "; ".join(evaluated["environment"]),
            "code": code_digest(),
            "versions": ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "dvc", "mlflow")),
        },
    }
    dataset, log_weights = load_dataset(arguments.data), read_log_weights(arguments.log_weights)
    page = explorer(vae, description.model, dataset, table, log_weights, params.evaluate.proposal)
    with Run("report", params, arguments):
        write_text(arguments.html, render("report.html.jinja", values))
        write_text(arguments.markdown, render("report.md.jinja", values))
        write_text(arguments.explorer, page)
    print(f"report: {arguments.html}")


if __name__ == "__main__":
    sys.exit(run_stage(main))
