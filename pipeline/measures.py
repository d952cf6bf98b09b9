"""Figures of measurements: how good the estimates of log p(x) are, and what the density knows."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, Figure, Images, new

# Where a label goes: at which end of its curve, and how far above it in points.
METHODS = {
    "prior": ("samples of the prior", GREY, -1, -14),
    "encoder": ("encoder as proposal", ORANGE, 0, 8),
    "laplace": ("", GREEN, -1, 0),
    "mixture": ("fitted to each image:\nlaplace (green), mixture (blue)", BLUE, 0, 12),
    "annealed": ("annealed from the prior", PURPLE, 0, -14),
}


def convergence(curves: pd.DataFrame) -> Figure:
    """Estimates against decoder evaluations, by their distance to the best one.

    Args:
        curves: columns method, evaluations (an image), log_px, low and high (nats, means over images).
    """
    figure, axes = new(9.0, 5.2)
    panel = axes[0, 0]
    best = curves.loc[curves["method"] == "mixture", "log_px"].iloc[-1]
    for method, curve in curves.groupby("method", sort=False):
        label, colour, end, above = METHODS[str(method)]
        panel.fill_between(curve["evaluations"], curve["low"] - best, curve["high"] - best, color=colour, alpha=0.3)
        panel.plot(curve["evaluations"], curve["log_px"] - best, color=colour, marker=".", lw=2)
        at = (curve["evaluations"].iloc[end], curve["log_px"].iloc[end] - best)
        panel.annotate(label, at, xytext=(0, above), textcoords="offset points", color=colour,
                       va="bottom" if above > 0 else "top", ha="left" if end == 0 else "right")  # fmt: skip
    panel.axhline(0, color="black", lw=1, ls=":")
    panel.annotate(f"best estimate: {best:,.1f} nats", (0.01, 0), xycoords=("axes fraction", "data"),
                   xytext=(0, 4), textcoords="offset points")  # fmt: skip
    panel.set_yscale("symlog", linthresh=1.0, linscale=0.8)
    farthest = (curves["log_px"] - best).min()
    ticks = [1.0, 0.5, 0.0, -0.5, -1.0, *(t for t in (-10.0, -100.0, -1e3, -1e4, -1e5) if t > 2 * farthest)]
    panel.set_yticks(ticks, [f"{t:+,g}".replace("+0", "0") for t in ticks])
    panel.minorticks_off()
    panel.set(
        xscale="log",
        ylim=(1.5 * min(farthest, -1.0), 3.0),
        xlabel="decoder evaluations per image (fit included; a gradient counts as one more)",
        ylabel="estimate of log p(x) − best estimate, nats per image",
    )
    return figure


def diagnostics(table: pd.DataFrame, limits: Mapping[int, float], minimum_ess: float) -> Figure:
    """Distributions of Pareto k̂ and of the effective sample size, trusted images and others.

    Args:
        table: columns khat, ess, trusted.
        limits: the largest k̂ trusted, for each number of samples used.
        minimum_ess: the least effective sample size trusted.
    """
    figure, axes = new(9.0, 3.4, columns=2)
    trusted = table["trusted"].to_numpy(dtype=bool)
    parts, labels = (trusted, ~trusted), ("trusted", "not trusted")
    khat = table["khat"].clip(-0.5, 1.5).to_numpy()
    ess = table["ess"].clip(lower=1.0).to_numpy()
    bins = (np.linspace(-0.5, 1.5, 61), np.geomspace(1.0, max(float(ess.max()) * 1.05, 2 * minimum_ess), 61))
    for panel, values, edges in zip(axes[0], (khat, ess), bins, strict=True):
        panel.hist([values[part] for part in parts], bins=edges, stacked=True, color=[BLUE, ORANGE], label=labels)
        panel.set(yscale="log", ylabel="test images (log scale)")
    for limit in limits.values():
        axes[0, 0].axvline(limit, color=GREY, lw=1, ls=":")
    for samples, side in ((min(limits), "right"), (max(limits), "left")):
        axes[0, 0].annotate(
            f"limit for K = {samples}", (limits[samples], 1), xycoords=("data", "axes fraction"),
            rotation=90, va="top", ha=side, fontsize=8, color=GREY,
        )  # fmt: skip
    axes[0, 0].set_xlabel("Pareto k̂ of the weights (beyond the ends: in the end bins)")
    axes[0, 1].set(xscale="log", xlabel="effective sample size")
    axes[0, 1].axvline(minimum_ess, color=GREY, lw=1, ls=":")
    axes[0, 1].legend(loc="upper left")
    return figure


def gaps(table: pd.DataFrame) -> Figure:
    """The inference gap and its two parts, for all images and for each class.

    Args:
        table: columns label, log_px, best_elbo, elbo; nats an image.
    """
    rows = [("all", table), *((f"digit {label}", part) for label, part in table.groupby("label"))]
    figure, axes = new(8.0, 0.32 * len(rows) + 1.2)
    panel = axes[0, 0]
    for i, (_, part) in enumerate(rows):
        log_px, best, elbo = part[["log_px", "best_elbo", "elbo"]].to_numpy(dtype=np.float64).mean(0)
        approximation, amortisation = float(log_px - best), float(best - elbo)
        panel.barh(i, approximation, color=BLUE, label="approximation gap" if i == 0 else None)
        panel.barh(i, amortisation, left=approximation, color=ORANGE, label="amortisation gap" if i == 0 else None)
        panel.text(approximation + amortisation, i, f"  {approximation:.0f} + {amortisation:.0f}", va="center")
    panel.set_yticks(range(len(rows)), [name for name, _ in rows])
    panel.invert_yaxis()
    panel.margins(x=0.15)
    panel.grid(visible=False, axis="y")
    panel.set_xlabel("log p(x) − ELBO, nats per image")
    figure.legend(loc="outside upper right", ncols=2)
    return figure


def densities(
    digits: NDArray[np.floating],
    probes: Mapping[str, NDArray[np.floating]],
    auroc: Mapping[str, float],
    examples: Mapping[str, Images],
    ceiling: float,
) -> Figure:
    """Log p(x) of the test digits and of each other kind of images, with an example of the kind.

    Args:
        digits: log p(x) of the test images, nats.
        probes: that of images of each other kind, nats.
        auroc: of each kind: how often a digit is likelier.
        examples: an image (height, width) of some kinds.
        ceiling: the largest log-density there is; distances to it are drawn on a logarithmic scale.
    """
    kinds = list(probes)
    figure, axes = new(9.0, 1.15 * len(kinds) + 0.7, rows=len(kinds), columns=2)
    axes[0, 0].get_gridspec().set_width_ratios([1, 11])
    values = np.concatenate([digits, *probes.values()])
    below = np.maximum(ceiling - values, 1.0)
    edges = np.geomspace(below.min() * 0.9, below.max() * 1.1, 90)
    ticks = [ceiling - v for v in _round_values(ceiling) if edges[0] <= ceiling - v <= edges[-1]]
    for (picture, panel), kind in zip(axes, kinds, strict=True):
        if kind in examples:
            picture.imshow(examples[kind], cmap="gray_r", vmin=0, vmax=1)
        picture.set_xticks([])
        picture.set_yticks([])
        picture.grid(visible=False)
        picture.spines[:].set(visible=True, color=GREY, linewidth=0.5)  # else a blank image is not to be seen
        for numbers, colour in ((digits, GREY), (probes[kind], ORANGE)):
            share = np.full(len(numbers), 100 / len(numbers))
            panel.hist(np.maximum(ceiling - numbers, 1.0), bins=list(edges), weights=share, color=colour, alpha=0.7)
        panel.set_xscale("log")
        panel.set_xticks(ticks, [f"{ceiling - t:,.0f}" if kind == kinds[-1] else "" for t in ticks])
        panel.minorticks_off()
        panel.set_xlim(edges[-1], edges[0])
        panel.set_ylabel("% of images", fontsize=8)
        panel.set_title(f"{kind} (orange), test digits (grey): AUROC {auroc[kind]:.3f}", loc="left", fontsize=10)
    figure.align_ylabels(axes[:, 1])
    axes[-1, 1].set_xlabel(f"log p(x), nats per image; the ceiling {ceiling:,.0f} lies at infinity to the right")
    return figure


def _round_values(ceiling: float) -> list[float]:
    """Values of log p(x) at which to put ticks: round, and denser towards the ceiling."""
    steps = [100_000, 30_000, 10_000, 3_000, 1_000, 300, 100, 30, 10]
    digits = {3: -3, 2: -2, 1: -1}
    return [float(round(ceiling - s, digits.get(int(np.log10(s)), -4))) for s in steps]


def by_class(auroc: Mapping[int, float]) -> Figure:
    """How often a digit is likelier than one of its class turned upside down, for each class."""
    figure, axes = new(7.0, 2.6)
    panel = axes[0, 0]
    panel.axhline(0.5, color=GREY, lw=1, ls=":")
    panel.vlines(list(auroc), 0.5, list(auroc.values()), color=BLUE, lw=1.5)
    panel.plot(list(auroc), list(auroc.values()), "o", color=BLUE)
    for label, value in auroc.items():
        panel.annotate(f"{value:.2f}", (label, value), xytext=(0, 6 if value >= 0.5 else -14),
                       textcoords="offset points", ha="center", fontsize=8)  # fmt: skip
    panel.set(xlabel="digit", ylabel="AUROC, upright\nagainst upside down", xticks=list(auroc), ylim=(0.0, 1.15))
    panel.grid(visible=False, axis="x")
    return figure
