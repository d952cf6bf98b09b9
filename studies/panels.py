"""The panels of a study's figure: each draws one quantity of the experiments over the study's parameter."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from logpx.observations.gaussian import gaussian_ceiling
from pipeline.report import plotting
from pipeline.report.plotting import BLUE, GREEN, GREY, ORANGE, Axes, Figure, minus
from studies.grids import Study


def plot(study: Study, table: pd.DataFrame) -> Figure:
    """The study's four panels.

    Args:
        table: a row per experiment: value, sigma, pixels, and its metrics on the test images. sigma is NaN if the
            pixels are not Gaussian.
    """
    figure, axes = plotting.new(9.0, 6.8, rows=2, columns=2)
    if engine := figure.get_layout_engine():
        engine.set(h_pad=0.12)  # pyright: ignore[reportCallIssue]
    for panel, name in zip(list[Any](axes.flat), study.panels, strict=True):
        PANELS[name](panel, table)
        panel.set_xscale("linear" if study.repeats else "log")
        panel.set_xticks(table["value"], [short(value) for value in table["value"]])
        panel.minorticks_off()
        panel.set_xlabel(study.axis)
    return figure


def short(value: float) -> str:
    """A value of the parameter as a label."""
    return f"{value:.2g}" if value < 1 else f"{value:g}"


def log_px(panel: Axes, table: pd.DataFrame) -> None:
    """Log p(x) and the ELBO with 95 % intervals, and the ceiling if it is not the same for all experiments."""
    panel.errorbar(table["value"], table["log_px"], 1.96 * table["log_px_se"], color=BLUE, marker="o", label="log p(x)")
    panel.errorbar(table["value"], table["elbo"], 1.96 * table["elbo_se"], color=ORANGE, marker="s", label="ELBO")
    ceilings = [gaussian_ceiling(int(row["pixels"]), row["sigma"]) for row in table.to_dict("records")]
    if _gaussian(table) and len(set(ceilings)) > 1:
        panel.plot(table["value"], ceilings, color=GREY, ls=":", label="ceiling of σ")
        # The lowest values would press all others together: below the axis they are written as numbers.
        bottom = max(table[["log_px", "elbo"]].to_numpy().min() - 200, -1500)
        panel.set_ylim(bottom=bottom)
        for i, row in enumerate(pd.DataFrame(table[table["log_px"] < bottom]).to_dict("records")):
            # In two rows, so that neighbours do not overlap. The first must not cross the axis on its left.
            side = "left" if row["value"] == table["value"].min() else "center"
            panel.annotate(minus(f"↓ {row['log_px']:,.0f}"), (row["value"], bottom), xytext=(0, 14 - 10 * (i % 2)),
                           textcoords="offset points", ha=side, fontsize=8, color=BLUE)  # fmt: skip
    panel.set(title="log p(x) and ELBO", ylabel="nats per image")
    panel.legend(fontsize=8)


def _gaussian(table: pd.DataFrame) -> bool:
    """Whether every experiment has Gaussian pixels, and so a σ."""
    return bool(np.isfinite(table["sigma"].to_numpy(dtype=np.float64)).all())


def log_px_difference(panel: Axes, table: pd.DataFrame) -> None:
    """Log p(x) compared with its value in the last experiment. Intervals are those of the sampling error."""
    best = table["log_px"].iloc[-1]
    error = 1.96 * table["image_se_median"] / np.sqrt(table["images"])
    panel.errorbar(table["value"], table["log_px"] - best, error, color=BLUE, marker="o")
    panel.axhline(0, color=GREY, ls=":", lw=1)
    panel.set(title=minus(f"log p(x) − its value with most samples ({best:,.1f})"), ylabel="nats per image")


def log_px_spread(panel: Axes, table: pd.DataFrame) -> None:
    _spread(panel, table, "log_px")
    panel.set(title="log p(x)", ylabel="nats per image")


def elbo_spread(panel: Axes, table: pd.DataFrame) -> None:
    _spread(panel, table, "elbo")
    panel.set(title="ELBO", ylabel="nats per image")


def recognised_spread(panel: Axes, table: pd.DataFrame) -> None:
    _spread(panel, table.assign(recognised=100 * table["recognised"], recognised_se=100 * table["recognised_se"]),
            "recognised")  # fmt: skip
    panel.set(title="drawn images that the judge recognises", ylabel="% of drawn images")


def _spread(panel: Axes, table: pd.DataFrame, name: str) -> None:
    """Values of repetitions with one standard error over images, and the mean ± one standard deviation between them."""
    values = table[name].to_numpy(dtype=np.float64)
    mean = float(np.mean(values))
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    panel.axhspan(mean - deviation, mean + deviation, color=GREY, alpha=0.2, lw=0, label="mean ± 1 sd between seeds")
    panel.axhline(mean, color=GREY, ls=":", lw=1)
    panel.errorbar(
        table["value"], values, table[f"{name}_se"], color=BLUE, marker="o", ls="", label="± 1 se over images"
    )
    panel.margins(x=0.08, y=0.2)  # room for the legend
    panel.legend(fontsize=8, ncol=2, loc="upper center")


def residual(panel: Axes, table: pd.DataFrame) -> None:
    panel.set(title="root mean square of x − f(z), z ~ q", ylabel="pixel units", yscale="log")
    if not _gaussian(table):
        panel.text(
            0.5, 0.5, "only Gaussian pixels\nhave a residual", ha="center", transform=panel.transAxes, color=GREY
        )
        return
    values = [root_mean_square(row) for row in table.to_dict("records")]
    panel.plot(table["value"], values, color=BLUE, marker="o", label="residual")
    panel.plot(table["value"], table["sigma"], color=GREY, ls=":", label="σ")
    _round_ticks(panel)
    panel.legend(fontsize=8)


def root_mean_square(row: Mapping[Any, float]) -> float:
    """Root mean square of x − f(z), from E log p(x | z) = ceiling − E‖x − f(z)‖² / 2σ²."""
    pixels = int(row["pixels"])
    squares = 2 * row["sigma"] ** 2 * (gaussian_ceiling(pixels, row["sigma"]) - row["reconstruction"])
    return math.sqrt(squares / pixels)


def kl(panel: Axes, table: pd.DataFrame) -> None:
    panel.plot(table["value"], table["kl"], color=BLUE, marker="o")
    panel.set(title="KL[q(z | x) ‖ p(z)]", ylabel="nats per image", ylim=(0, None))


def trusted(panel: Axes, table: pd.DataFrame) -> None:
    panel.plot(table["value"], 100 * table["trusted"], color=GREEN, marker="o")
    panel.set(title="images with a trusted log p(x)", ylabel="% of test images", ylim=(-3, 103))


def error(panel: Axes, table: pd.DataFrame) -> None:
    panel.plot(table["value"], table["image_se_median"], color=BLUE, marker="o")
    panel.set(title="standard error of an image's log p(x), median", ylabel="nats", yscale="log")
    _round_ticks(panel)


def ess(panel: Axes, table: pd.DataFrame) -> None:
    panel.plot(table["value"], table["ess_median"], color=BLUE, marker="o", label="effective samples, median")
    panel.plot(table["value"], table["value"], color=GREY, ls=":", label="K")
    panel.set(title="effective samples", ylabel="samples per image", yscale="log")
    panel.legend(fontsize=8)


def _round_ticks(panel: Axes) -> None:
    """Put ticks at round numbers. An axis of less than two decades has too few powers of ten for labels."""
    low, high = panel.get_ylim()
    ticks = [m * 10.0**e for e in range(-6, 7) for m in (1, 1.5, 2, 3, 5, 7) if low <= m * 10.0**e <= high]
    panel.set_yticks(ticks, [f"{tick:.2g}" for tick in ticks])


PANELS: dict[str, Callable[[Axes, pd.DataFrame], None]] = {
    "log_px": log_px, "log_px_difference": log_px_difference, "residual": residual, "kl": kl, "trusted": trusted,
    "error": error, "ess": ess, "log_px_spread": log_px_spread, "elbo_spread": elbo_spread,
    "recognised_spread": recognised_spread,
}  # fmt: skip
