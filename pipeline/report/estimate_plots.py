"""Figures of the estimates of log p(x): how good they are, and what the density knows about images."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from pipeline.evaluation.ladder import Rung
from pipeline.report.plotting import (
    BLUE,
    GREEN,
    GREY,
    ON_WHITE,
    ORANGE,
    PURPLE,
    Figure,
    NotDrawnError,
    in_rows,
    minus,
    new,
    note_left_out,
    show,
)


def _finite_rows(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """The rows whose numbers in these columns are finite.

    Raises:
        NotDrawnError: if there are none.
    """
    rows = pd.DataFrame(table[np.isfinite(table[[*columns]].to_numpy(dtype=np.float64)).all(1)])
    if rows.empty:
        raise NotDrawnError(f"no row has finite numbers in the columns {', '.join(columns)}")
    return rows


def log_px(
    values: Float[np.ndarray, " _images"],
    least: Float[np.ndarray, "images height width *channels"],
    most: Float[np.ndarray, "images height width *channels"],
) -> Figure:
    """Histogram of the finite log p(x) of the test images (nats), above the least and the most likely images."""
    shown = values[np.isfinite(values)]
    if not len(shown):
        raise NotDrawnError("no test image has a finite log p(x)")
    figure, axes = new(9.0, 5.0, rows=2, columns=2)
    for panel in axes[0]:
        panel.remove()
    whole = figure.add_subplot(axes[0, 0].get_gridspec()[0, :])
    low = np.quantile(shown, 0.005)
    whole.hist(shown[shown >= low], bins=60, color=BLUE)
    whole.axvline(shown.mean(), color=ORANGE, lw=2, label=f"mean {minus(f'{shown.mean():.1f}')}")
    whole.set(xlabel="log p(x), nats per image (the lowest 0.5 % are not shown)", ylabel="number of test images")
    whole.legend(loc="upper left")
    for panel, images, which in zip(axes[1], (least, most), ("least", "most"), strict=True):
        show(panel, in_rows(images, 7))
        panel.set_title(f"the {which} likely test images")
    note_left_out(figure, {"test images": len(values) - len(shown)})
    return figure


class Label(NamedTuple):
    """The text beside a curve: at its first point (0) or its last (−1), and how many points above it."""

    text: str
    colour: str
    at: int
    above: int


METHODS = {
    "prior": Label("prior as proposal", GREY, at=-1, above=-14),
    "encoder": Label("encoder as proposal", ORANGE, at=0, above=8),
    # The curves of laplace and mixture lie on each other: one label names both.
    "laplace": Label("", GREEN, at=-1, above=0),
    "mixture": Label("fitted to each image:\nlaplace (green), mixture (blue)", BLUE, at=-1, above=14),
    "annealed": Label("annealed from the prior", PURPLE, at=0, above=-14),
}


def convergence(curves: pd.DataFrame) -> Figure:
    """Estimates against decoder evaluations, as differences from the mixture's estimate with most samples.

    Args:
        curves: columns method, evaluations (per image), log_px, low and high (nats, means over images).
    """
    figure, axes = new(9.0, 5.2)
    panel = axes[0, 0]
    points = len(curves)
    curves = _finite_rows(curves, "evaluations", "log_px", "low", "high")
    fitted = curves.loc[curves["method"] == "mixture", "log_px"]
    if fitted.empty:
        raise NotDrawnError("no estimate with the proposal mixture is finite")
    best = fitted.iloc[-1]
    for method, curve in curves.groupby("method", sort=False):
        label = METHODS[str(method)]
        panel.fill_between(
            curve["evaluations"], curve["low"] - best, curve["high"] - best, color=label.colour, alpha=0.3
        )
        panel.plot(curve["evaluations"], curve["log_px"] - best, color=label.colour, marker=".", lw=2)
        point = (curve["evaluations"].iloc[label.at], curve["log_px"].iloc[label.at] - best)
        panel.annotate(
            label.text, point, xytext=(0, label.above), textcoords="offset points", color=label.colour,
            va="bottom" if label.above > 0 else "top", ha="left" if label.at == 0 else "right",
        )  # fmt: skip
    panel.axhline(0, color="black", lw=1, ls=":")
    panel.annotate(minus(f"best estimate: {best:,.1f} nats"), (0.01, 0), xycoords=("axes fraction", "data"),
                   xytext=(0, 4), textcoords="offset points")  # fmt: skip
    panel.set_yscale("symlog", linthresh=1.0, linscale=0.8)
    farthest = (curves["log_px"] - best).min()
    ticks = [1.0, 0.5, 0.0, -0.5, -1.0, *(t for t in (-10.0, -100.0, -1e3, -1e4, -1e5) if t > 2 * farthest)]
    panel.set_yticks(ticks, [minus(f"{t:+,g}" if t else "0") for t in ticks])
    panel.minorticks_off()
    panel.set(
        xscale="log",
        ylim=(1.5 * min(farthest, -1.0), 3.0),
        xlabel="decoder evaluations per image, fit included (a gradient counts as one evaluation)",
        ylabel="estimate of log p(x) − best estimate, nats per image",
    )
    note_left_out(figure, {"points": points - len(curves)})
    return figure


def diagnostics(table: pd.DataFrame, limits: Mapping[int, float], minimum_ess: float) -> Figure:
    """Histograms of Pareto k̂ and of the effective sample size, of trusted images and of the others.

    Args:
        table: columns khat, ess, trusted.
        limits: for each number of samples used, the value that k̂ of a trusted image stays below.
        minimum_ess: the smallest effective sample size of a trusted image.
    """
    figure, axes = new(9.0, 3.4, columns=2)
    images = len(table)
    table = _finite_rows(table.assign(khat=table["khat"].clip(-0.5, 1.5)), "khat", "ess")
    trusted = table["trusted"].to_numpy(dtype=bool)
    parts, labels = (trusted, ~trusted), ("trusted", "not trusted")
    khat = table["khat"].to_numpy()
    ess = table["ess"].clip(lower=1.0).to_numpy()
    bins = (np.linspace(-0.5, 1.5, 61), np.geomspace(1.0, max(float(ess.max()) * 1.05, 2 * minimum_ess), 61))
    for panel, values, edges in zip(axes[0], (khat, ess), bins, strict=True):
        panel.hist([values[part] for part in parts], bins=edges, stacked=True, color=[BLUE, ORANGE], label=labels)
        panel.set(yscale="log", ylim=(0.7, None), ylabel="number of test images (log scale)")
    of_khat, of_ess = axes[0]
    for limit in limits.values():
        of_khat.axvline(limit, color=GREY, lw=1, ls=":")
    # The smallest K is named left of its line, the largest right of its line. Others have no room.
    for samples, side in {min(limits): "right", max(limits): "left"}.items():
        of_khat.annotate(
            f"limit for K = {samples}", (limits[samples], 1), xycoords=("data", "axes fraction"),
            xytext=(2 if side == "left" else -1, 0), textcoords="offset points",
            rotation=90, va="top", ha=side, fontsize=8, color=GREY,
        )  # fmt: skip
    of_khat.set(xlabel="Pareto k̂ of the weights (end bins include all beyond)", xticks=[-0.5, 0.0, 0.5, 1.0, 1.5])
    of_ess.set(xscale="log", xlabel="effective sample size (log scale)")
    of_ess.axvline(minimum_ess, color=GREY, lw=1, ls=":", label=f"minimum, {minimum_ess:g}")
    of_ess.legend(loc="upper left", **ON_WHITE)
    note_left_out(figure, {"test images": images - len(table)})
    return figure


def gaps(table: pd.DataFrame, *, by_class: bool = True) -> Figure:
    """The inference gap and its two parts, for all images and for each class.

    Args:
        table: columns label, log_px, best_elbo, elbo; nats per image.
        by_class: whether the labels tell images apart.
    """
    images = len(table)
    table = _finite_rows(table, "log_px", "best_elbo", "elbo")
    parts = {"all": table}
    if by_class:
        parts |= {f"class {label}": part for label, part in table.groupby("label")}
    figure, axes = new(8.0, 0.32 * len(parts) + 1.2)
    panel = axes[0, 0]
    decimals = 0 if float(table["log_px"].sub(table["elbo"]).to_numpy().mean()) >= 10 else 1
    for i, part in enumerate(parts.values()):
        estimate, best, elbo = part[["log_px", "best_elbo", "elbo"]].to_numpy(dtype=np.float64).mean(0)
        approximation, amortisation = float(estimate - best), float(best - elbo)
        panel.barh(i, approximation, color=BLUE, label="approximation gap" if i == 0 else None)
        panel.barh(i, amortisation, left=approximation, color=ORANGE, label="amortisation gap" if i == 0 else None)
        text = minus(f"  {approximation:.{decimals}f} + {amortisation:.{decimals}f}")
        panel.text(approximation + amortisation, i, text, va="center")
    panel.set_yticks(range(len(parts)), list(parts))
    panel.invert_yaxis()
    panel.margins(x=0.15)
    panel.grid(visible=False, axis="y")
    panel.set_xlabel("log p(x) − ELBO, nats per image")
    figure.legend(loc="outside upper right", ncols=2)
    note_left_out(figure, {"images": images - len(table)})
    return figure


def densities(
    test: Float[np.ndarray, " _test"],
    probes: Mapping[str, Float[np.ndarray, " _images"]],
    auroc: Mapping[str, float],
    examples: Mapping[str, Float[np.ndarray, "height width *channels"]],
    ceiling: float,
) -> Figure:
    """Histograms of log p(x) of each kind of other images beside that of the test images.

    The axis is logarithmic in the distance to the ceiling, because the kinds lie from tens to thousands of nats below.

    Args:
        test: log p(x) of the test images, nats.
        probes: log p(x) of the images of each other kind, nats.
        auroc: of each kind: the probability that a test image is likelier.
        examples: an image of some of the kinds, pixels in [0, 1].
        ceiling: the largest log-density possible, nats.
    """
    every = {"test images": test, **probes}
    finite = {name: values[np.isfinite(values)] for name, values in every.items()}
    test, kinds = finite["test images"], [kind for kind in probes if len(finite[kind])]
    if not kinds:
        raise NotDrawnError("no kind of other images has a finite log p(x)")
    figure, axes = new(9.0, 1.15 * len(kinds) + 0.7, rows=len(kinds), columns=2)
    axes[0, 0].get_gridspec().set_width_ratios([1, 11])
    values = np.concatenate(list(finite.values()))
    below = np.maximum(ceiling - values, 1.0)
    edges = np.geomspace(below.min() * 0.9, below.max() * 1.1, 90)
    ticks = _ticks(ceiling, edges[0], edges[-1])
    for (picture, panel), kind in zip(axes, kinds, strict=True):
        if kind in examples:
            picture.imshow(examples[kind].clip(0, 1), cmap="gray_r", vmin=0, vmax=1)
        picture.set_xticks([])
        picture.set_yticks([])
        picture.grid(visible=False)
        picture.spines[:].set(visible=True, color=GREY, linewidth=0.5)  # a blank image would be invisible without them
        for numbers, colour in ((test, GREY), (finite[kind], ORANGE)):
            percent = np.full(len(numbers), 100 / len(numbers))
            panel.hist(np.maximum(ceiling - numbers, 1.0), bins=list(edges), weights=percent, color=colour, alpha=0.7)
        panel.set_xscale("log")
        panel.set_xticks(ticks, [minus(f"{ceiling - t:,.0f}") if kind == kinds[-1] else "" for t in ticks])
        panel.minorticks_off()
        panel.set_xlim(edges[-1], edges[0])
        panel.set_ylabel("% of images", fontsize=8)
        panel.set_title(f"{kind} (orange), test images (grey): AUROC {auroc[kind]:.3f}", loc="left", fontsize=10)
    figure.align_ylabels(axes[:, 1])
    axes[-1, 1].set_xlabel(f"log p(x), nats per image (log scale of the distance to the ceiling, {ceiling:,.0f})")
    note_left_out(figure, {name: len(every[name]) - len(finite[name]) for name in every})
    return figure


def _ticks(ceiling: float, least: float, most: float) -> list[float]:
    """Distances to the ceiling of round values of log p(x), from `most` to `least`; closer together near it."""
    ticks: list[float] = []
    for mantissas in ((3, 1), (7, 5, 4, 3, 2, 1)):  # more of them if a narrow range has too few ticks
        steps = [mantissa * 10**power for power in (5, 4, 3, 2, 1) for mantissa in mantissas]
        values = [round(ceiling - step, -min(int(np.log10(step)), 4)) for step in steps]
        ticks = [ceiling - value for value in dict.fromkeys(values) if least <= ceiling - value <= most]
        if len(ticks) > 2:
            break
    return ticks


def upside_down(auroc: Mapping[int, float]) -> Figure:
    """For each class: the probability that an upright image is likelier than one turned upside down."""
    if not auroc:
        raise NotDrawnError("no class has finite log p(x) both upright and upside down")
    figure, axes = new(7.0, 2.6)
    panel = axes[0, 0]
    panel.axhline(0.5, color=GREY, lw=1, ls=":")
    panel.vlines(list(auroc), 0.5, list(auroc.values()), color=BLUE, lw=1.5)
    panel.plot(list(auroc), list(auroc.values()), "o", color=BLUE)
    for label, value in auroc.items():
        panel.annotate(f"{value:.2f}", (label, value), xytext=(0, 6 if value >= 0.5 else -14),
                       textcoords="offset points", ha="center", fontsize=8)  # fmt: skip
    panel.set(xlabel="class", ylabel="AUROC, upright\nagainst upside down", xticks=list(auroc), ylim=(0.0, 1.15))
    panel.grid(visible=False, axis="x")
    return figure


KINDS = {"baseline": GREY, "published": GREEN, "ceiling": PURPLE, "this model": BLUE}  # rungs of the ladder


def ladder(rungs: Sequence[Rung]) -> Figure:
    """Densities of the test images on one axis, the best at the top: baselines, this model, published ones, a ceiling.

    The axis is logarithmic in bits per dimension, which fall to the right, because good models differ by hundredths
    of a bit and bad ones by several bits. It is linear if a number of bits is not positive.

    Args:
        rungs: from the smallest to the largest log-density.
    """
    if not rungs:
        raise NotDrawnError("no density of the test images is known")
    figure, axes = new(9.0, 0.31 * len(rungs) + 1.2)
    panel = axes[0, 0]
    bits = [rung.bits_per_dim for rung in rungs]
    logarithmic = min(bits) > 0
    if logarithmic:
        panel.set_xscale("log")
        low, high = min(bits) / 1.15, max(bits) * 1.15
    else:
        margin = 0.05 * (max(bits) - min(bits)) or 1.0
        low, high = min(bits) - margin, max(bits) + margin
    panel.set_xlim(high, low)
    for i, rung in enumerate(rungs):
        here = rung.kind == "this model"
        panel.axhline(i, color=KINDS[rung.kind], lw=1.2 if here else 0.5, alpha=0.6 if here else 0.35)
        panel.plot(rung.bits_per_dim, i, "D" if here else "o", color=KINDS[rung.kind], ms=9 if here else 6)
        panel.annotate(
            minus(f"{rung.nats:,.1f} nats, {rung.bits_per_dim:.2f} bits/dim"), (1.01, i),
            xycoords=("axes fraction", "data"), va="center", fontsize=9, weight="bold" if here else "normal",
        )  # fmt: skip
    panel.set_yticks(range(len(rungs)), [rung.name for rung in rungs])
    for label, rung in zip(panel.get_yticklabels(), rungs, strict=True):
        label.set(color=KINDS[rung.kind], weight="bold" if rung.kind == "this model" else "normal")
    panel.tick_params(axis="y", length=0)
    panel.grid(visible=False, axis="y")
    panel.set_ylim(-0.6, len(rungs) - 0.4)
    if logarithmic:
        ticks = [t for t in (0.05, 0.1, 0.2, 0.3, 0.5, 1, 1.5, 2, 3, 4, 6, 8, 16, 32, 64) if low <= t <= high]
        panel.set_xticks(ticks, [f"{t:g}" for t in ticks])
        panel.minorticks_off()
    scale = " (log scale)" if logarithmic else ""
    panel.set_xlabel(f"bits per dimension{scale}; better models are further right")
    return figure
