"""A study's page: NAME.html, which opens offline, NAME.md, NAME.json and the two pictures that both show."""

import base64
import math
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from numpy.typing import NDArray

from pipeline import datasets, figures, trained
from pipeline.checkpoint import Description
from pipeline.errors import UserError
from pipeline.figures import BLUE, GREEN, GREY, ORANGE, Figure
from pipeline.files import write_json, write_text
from pipeline.observations import gaussian_ceiling
from studies.grids import Study

Outcome = dict[str, Any] | str
DIGITS, SAMPLES = 6, 9  # images in a row of the picture


def write(name: str, study: Study, outcomes: Mapping[float, Outcome], folder: Path) -> None:
    """Write all files of the page."""
    measured = {value: outcome for value, outcome in outcomes.items() if isinstance(outcome, dict)}
    models = {value: _model(outcome["rev"]) for value, outcome in measured.items()}
    rows = [_row(value, outcome, models[value].description) for value, outcome in measured.items()]
    table = pd.DataFrame(rows)
    figures.save(plot(study, table), folder / f"{name}.png")
    figures.save(pictures(study, models), folder / f"{name}_images.png")
    failed = {value: reason for value, reason in outcomes.items() if isinstance(reason, str)}
    write_json(folder / f"{name}.json", {
        "study": name, "parameter": study.parameter, "experiments": table.to_dict("records"),
        "failed": {f"{value:g}": reason for value, reason in failed.items()},
    })  # fmt: skip
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(["html.jinja"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    images = {end: (folder / f"{name}{end}.png").read_bytes() for end in ("", "_images")}
    values = {
        "name": name, "study": study, "rows": table.to_dict("records"), "failed": failed,
        "uris": {end: "data:image/png;base64," + base64.b64encode(png).decode() for end, png in images.items()},
    }  # fmt: skip
    for kind in ("html", "md"):
        text = environment.get_template(f"study.{kind}.jinja").render(values)
        write_text(folder / f"{name}.{kind}", text + "\n")
    print(f"{folder / name}.html")


def _row(value: float, outcome: dict[str, Any], model: Description) -> dict[str, float]:
    """What the table has of one experiment; nats an image."""
    test = outcome["metrics"]["reports/metrics/evaluate.json"]["data"]["test"]
    names = (
        "images", "log_px", "log_px_se", "elbo", "elbo_se", "reconstruction", "kl", "trusted", "ess_median",
        "image_se_median", "evaluations_mean",
    )  # fmt: skip
    about = {"value": value, "sigma": model.model.sigma, "pixels": model.height * model.width}
    return about | {name: test[name] for name in names}


def _model(rev: str) -> trained.Trained:
    """The trained model of an experiment, from DVC's cache."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vae.safetensors"
        command = ["dvc", "get", "-q", ".", "models/vae.safetensors", "--rev", rev, "-o", str(path)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise UserError(f"the model of {rev} is not in DVC's cache: {result.stderr.strip()}")
        return trained.load(path, torch.device("cpu"))


@torch.inference_mode()
def pictures(study: Study, models: Mapping[float, trained.Trained]) -> Figure:
    """A row an experiment: the same test digits reconstructed, and samples of the prior from the same noise."""
    dataset = datasets.load(Path("data/images.safetensors"))
    x = (dataset.test_images[:DIGITS].flatten(1) + 0.5) / dataset.levels
    rows = [_images(x, dataset.shape)]
    for model in models.values():
        noise = torch.randn(SAMPLES, 256, generator=torch.Generator().manual_seed(0))[:, : model.vae.latent]
        decoded = model.vae.decoder(torch.cat([model.vae.encoder(x).mean, noise])).mean
        rows.append(_images(decoded, dataset.shape))
    rows[0] = np.concatenate([rows[0], np.zeros((SAMPLES, *dataset.shape))])
    with_gap = [np.concatenate([row[:DIGITS], np.zeros((1, *dataset.shape)), row[DIGITS:]]) for row in rows]
    figure = figures.grid(np.stack(with_gap), row_labels=["test digits", *(_short(value) for value in models)])
    figure.axes[0].set(ylabel=study.axis, xlabel="reconstructions f(μ(x)), left; samples f(z), z ~ N(0, I), right")
    return figure


def _images(pixels: torch.Tensor, shape: tuple[int, int]) -> NDArray[np.floating]:
    return pixels.numpy().reshape(-1, *shape)


def _log_px(panel: Any, table: pd.DataFrame) -> None:
    panel.errorbar(table["value"], table["log_px"], 1.96 * table["log_px_se"], color=BLUE, marker="o", label="log p(x)")
    panel.errorbar(table["value"], table["elbo"], 1.96 * table["elbo_se"], color=ORANGE, marker="s", label="ELBO")
    ceilings = [gaussian_ceiling(int(row["pixels"]), row["sigma"]) for row in table.to_dict("records")]
    if len(set(ceilings)) > 1:
        panel.plot(table["value"], ceilings, color=GREY, ls=":", label="ceiling of σ")
        bottom = max(table[["log_px", "elbo"]].to_numpy().min() - 200, -1500)
        panel.set_ylim(bottom=bottom)
        for row in pd.DataFrame(table[table["log_px"] < bottom]).to_dict("records"):
            panel.annotate(f"{row['log_px']:,.0f}".replace("-", "−") + " ↓", (row["value"], bottom), xytext=(0, 4),
                           textcoords="offset points", ha="center", fontsize=8, color=BLUE)  # fmt: skip
    panel.set(title="log p(x) and ELBO", ylabel="nats per image")
    panel.legend(fontsize=8)


def _log_px_alone(panel: Any, table: pd.DataFrame) -> None:
    best = table["log_px"].iloc[-1]
    error = 1.96 * table["image_se_median"] / np.sqrt(table["images"])
    panel.errorbar(table["value"], table["log_px"] - best, error, color=BLUE, marker="o")
    panel.axhline(0, color=GREY, ls=":", lw=1)
    panel.set(title=f"log p(x) − its value with most samples ({best:,.1f})", ylabel="nats per image")


def _residual(panel: Any, table: pd.DataFrame) -> None:
    panel.plot(
        table["value"], [_rms(row) for row in table.to_dict("records")], color=BLUE, marker="o", label="residual"
    )
    panel.plot(table["value"], table["sigma"], color=GREY, ls=":", label="σ")
    panel.set(title="root mean square of x − f(z), z ~ q", ylabel="pixel units", yscale="log")
    _round_ticks(panel)
    panel.legend(fontsize=8)


def _rms(row: Mapping[Any, float]) -> float:
    """From E log p(x | z) = ceiling − E‖x − f(z)‖² / 2σ²."""
    pixels = int(row["pixels"])
    squares = 2 * row["sigma"] ** 2 * (gaussian_ceiling(pixels, row["sigma"]) - row["reconstruction"])
    return math.sqrt(squares / pixels)


def _kl(panel: Any, table: pd.DataFrame) -> None:
    panel.plot(table["value"], table["kl"], color=BLUE, marker="o")
    panel.set(title="KL[q(z | x) ‖ p(z)]", ylabel="nats per image", ylim=(0, None))


def _trusted(panel: Any, table: pd.DataFrame) -> None:
    panel.plot(table["value"], 100 * table["trusted"], color=GREEN, marker="o")
    panel.set(title="images whose log p(x) is trusted", ylabel="%", ylim=(-3, 103))


def _error(panel: Any, table: pd.DataFrame) -> None:
    panel.plot(table["value"], table["image_se_median"], color=BLUE, marker="o")
    panel.set(title="median standard error of an image", ylabel="nats", yscale="log")
    _round_ticks(panel)


def _ess(panel: Any, table: pd.DataFrame) -> None:
    panel.plot(table["value"], table["ess_median"], color=BLUE, marker="o", label="median")
    panel.plot(table["value"], table["value"], color=GREY, ls=":", label="K")
    panel.set(title="effective samples", yscale="log")
    panel.legend(fontsize=8)


def _round_ticks(panel: Any) -> None:
    """A logarithmic axis of less than two decades has too few powers of ten."""
    low, high = panel.get_ylim()
    ticks = [m * 10.0**e for e in range(-6, 7) for m in (1, 1.5, 2, 3, 5, 7) if low <= m * 10.0**e <= high]
    panel.set_yticks(ticks, [f"{tick:.2g}" for tick in ticks])


PANELS: dict[str, Callable[[Any, pd.DataFrame], None]] = {
    "log_px": _log_px, "log_px_alone": _log_px_alone, "residual": _residual, "kl": _kl, "trusted": _trusted,
    "error": _error, "ess": _ess,
}  # fmt: skip


def _short(value: float) -> str:
    return f"{value:.2g}" if value < 1 else f"{value:g}"


def plot(study: Study, table: pd.DataFrame) -> Figure:
    """The study's panels over its parameter."""
    figure, axes = figures.new(9.0, 6.8, rows=2, columns=2)
    if engine := figure.get_layout_engine():
        engine.set(h_pad=0.12)  # pyright: ignore[reportCallIssue]
    for panel, name in zip(list[Any](axes.flat), study.panels, strict=True):
        PANELS[name](panel, table)
        panel.set_xscale("log")
        panel.set_xticks(table["value"], [_short(value) for value in table["value"]])
        panel.minorticks_off()
        panel.set_xlabel(study.axis)
    return figure
