"""The main picture of the study `models`: where every model stands, as points on one scale."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from pipeline.data.image_format import ImageFormat
from pipeline.evaluation import ladder
from pipeline.evaluation.baselines import BASELINES
from pipeline.report import plotting
from pipeline.report.plotting import BLUE, GREY, ORANGE, Axes, Figure
from studies.records import Record
from studies.rungs import RUNGS

Kind = Literal["baseline", "ceiling", "this project", "published", "published ELBO"]
SPLIT = 2.0  # bits/dim between the two panels: all Gaussian densities are on one side, all discrete ones on the other
LIGHT = "#7fb8dc"  # a lighter blue, for the ELBO

STYLE: dict[str, dict[str, Any]] = {
    "this project": {"color": BLUE, "marker": "o", "ms": 7},
    "published": {"color": ORANGE, "marker": "D", "ms": 5.5},
    "published ELBO": {"color": ORANGE, "marker": "D", "ms": 5.5, "mfc": "white"},
    "baseline": {"color": GREY, "marker": "s", "ms": 5.5},
    "ceiling": {"color": "black", "marker": "|", "ms": 12, "mew": 2},
}
LEGEND = {
    "this project": "this project, log p(x), 95 % interval",
    "published": "published, log p(x)",
    "published ELBO": "published, ELBO",
    "baseline": "no network",
    "ceiling": "ceiling of an observation model",
}


class Row(NamedTuple):
    """A row of the picture.

    Attributes:
        x: log p(x) on the picture's scale: bits per dimension, or nats.
        elbo: the ELBO on this scale.
        error: standard error on this scale.
    """

    label: str
    kind: Kind
    nats: float
    x: float
    elbo: float | None = None
    error: float | None = None


def grey_rows(records: Sequence[Record], images: ImageFormat) -> list[Row]:
    """Baselines, models and published results in bits per dimension, from the largest to the smallest."""
    per_nat = _per_nat(images)
    rows = [
        Row(
            _label(record), "this project", record.log_px, record.bits_per_dim,
            images.bits_per_dim(record.elbo), _bits(record.log_px_se, per_nat),
        )
        for record in records
    ]  # fmt: skip
    if records:
        most = max(records, key=lambda record: record.images)
        rows += [
            Row(BASELINES[name].label, "baseline", nats, images.bits_per_dim(nats))
            for name, nats in most.baselines.items()
        ]
    certain = images.bits_per_dim(0.0) / per_nat  # of P(v) = 1: discrete observation models have no lower ceiling
    ceilings = {round(record.ceiling, 1) for record in records if record.ceiling is not None}
    rows += [
        Row(f"ceiling of σ² = {_variance(nats, images.pixels):.2g}", "ceiling", nats, images.bits_per_dim(nats))
        for nats in sorted(ceilings)
        if nats < round(certain, 1)
    ]
    published = ladder.published("mnist", "none")
    rows += [
        Row(rung.name, _kind(rung), rung.nats, rung.bits_per_dim, None, _bits(rung.error, per_nat))
        for rung in published
    ]
    return sorted(rows, key=lambda row: -row.x)


def binarised_rows(records: Sequence[Record]) -> list[Row]:
    """Models and published results of dynamically binarised images in nats, from the least to the largest."""
    rows = [
        Row(_label(record), "this project", record.log_px, record.log_px, record.elbo, record.log_px_se)
        for record in records
    ]
    rows += [Row(rung.name, _kind(rung), rung.nats, rung.nats) for rung in ladder.published("mnist", "dynamic")]
    return sorted(rows, key=lambda row: row.x)


def _label(record: Record) -> str:
    return f"{record.name}: {RUNGS[record.name].label}"


def _variance(ceiling: float, pixels: int) -> float:
    """σ² of the Gaussian pixels that have this ceiling: −D/2 · ln 2πσ²."""
    return math.exp(-2 * ceiling / pixels) / (2 * math.pi)


def _kind(rung: ladder.Rung) -> Kind:
    return "published ELBO" if rung.note.startswith("ELBO") else "published"


def _bits(error: float | None, per_nat: float) -> float | None:
    """A standard error in nats as one in bits per dimension."""
    return None if error is None else error * per_nat


def draw_grey(rows: Sequence[Row], images: ImageFormat, histogram: float | None) -> Figure:
    """All rows in two panels beside each other, each with its own scale.

    Args:
        histogram: bits per dimension of independent pixels with a histogram each, to be drawn as a line.
    """
    figure = Figure(figsize=(10.5, 0.33 * len(rows) + 1.9), layout="constrained")
    coarse, fine = figure.subplots(1, 2, sharey=True, width_ratios=[1, 1.5])
    values = [value for row in rows for value in (row.x, row.elbo) if value is not None]
    for panel, inside, margin in (
        (coarse, [value for value in values if value > SPLIT], 0.3),
        (fine, [value for value in values if value <= SPLIT], 0.05),
    ):
        _draw_rows(panel, rows)
        low, high = (min(inside), max(inside)) if inside else (SPLIT, SPLIT)
        panel.set_xlim(high + margin, low - margin)  # better models are on the right
        panel.set_xlabel("bits per dimension")
        nats = panel.secondary_xaxis(
            "top",
            functions=(
                lambda bits: (images.bits_per_dim(0.0) - bits) / _per_nat(images),
                lambda nats: images.bits_per_dim(0.0) - nats * _per_nat(images),
            ),
        )
        nats.set_xlabel("nats per image")
        nats.tick_params(labelsize=9)
    if histogram is not None:
        fine.axvline(histogram, color=GREY, lw=1, ls="--", zorder=0)
        fine.annotate("the bar for a model of digits", (histogram, -0.55), xytext=(5, 0),
                      textcoords="offset points", fontsize=8, color=GREY, va="center")  # fmt: skip
    _name_rows(coarse, rows)
    _mark_break(coarse, fine)
    _write_numbers(fine, rows, "bits/dim", [f"{row.x:.2f}" for row in rows], 0)
    _write_numbers(fine, rows, "nats", [plotting.minus(f"{row.nats:,.0f}".replace(",", " ")) for row in rows], 1)
    _legend(figure, rows)
    return figure


def draw_binarised(rows: Sequence[Row]) -> Figure:
    """All rows in one panel."""
    figure = Figure(figsize=(10.5, 0.33 * len(rows) + 1.5), layout="constrained")
    panel = figure.subplots(1, 1)
    _draw_rows(panel, rows)
    _name_rows(panel, rows)
    panel.set_xlabel("nats per image, binarised")
    _write_numbers(panel, rows, "nats", [plotting.minus(f"{row.nats:.2f}") for row in rows], 0)
    _legend(figure, rows)
    return figure


def _per_nat(images: ImageFormat) -> float:
    """Bits per dimension of one nat per image."""
    return images.bits_per_dim(0.0) - images.bits_per_dim(1.0)


def _draw_rows(panel: Axes, rows: Sequence[Row]) -> None:
    """A point for each row, from the bottom to the top, with its ELBO and its interval if they are known."""
    for y, row in enumerate(rows):
        if row.elbo is not None:
            panel.plot([row.elbo, row.x], [y, y], color=LIGHT, lw=2, zorder=1)
            panel.plot(row.elbo, y, color=LIGHT, marker="|", ms=10, mew=2.5, zorder=1)
        if row.error is not None:
            panel.errorbar(row.x, y, xerr=1.96 * row.error, color=STYLE[row.kind]["color"], lw=1.5, capsize=3)
        panel.plot(row.x, y, ls="", zorder=3, **STYLE[row.kind])


def _name_rows(panel: Axes, rows: Sequence[Row]) -> None:
    """Put the names of the rows on the left of a panel. Ours are bold."""
    panel.set_ylim(-0.9, len(rows) - 0.4)
    panel.set_yticks(range(len(rows)), [row.label for row in rows])
    panel.tick_params(axis="y", length=0)
    for text, row in zip(panel.get_yticklabels(), rows, strict=True):
        text.set_color(STYLE[row.kind]["color"])
        text.set_fontweight("bold" if row.kind == "this project" else "normal")


def _write_numbers(panel: Axes, rows: Sequence[Row], title: str, texts: Sequence[str], column: int) -> None:
    """A column of numbers on the right of a panel."""
    style: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "ha": "right",
                             "va": "center", "fontsize": 9, "annotation_clip": False}  # fmt: skip
    offset = (40 + 45 * column, 0)
    panel.annotate(title, (1, len(rows) - 0.15), xytext=offset, color=GREY, **style)
    for y, (row, text) in enumerate(zip(rows, texts, strict=True)):
        panel.annotate(text, (1, y), xytext=offset, color=STYLE[row.kind]["color"], **style)


def _mark_break(left: Axes, right: Axes) -> None:
    """Two slanted strokes where the axis is cut."""
    right.tick_params(axis="y", labelleft=False, length=0)
    right.spines["left"].set_visible(False)
    style: dict[str, Any] = {"marker": [(-0.5, -1), (0.5, 1)], "ms": 10, "ls": "", "color": "black", "mew": 1,
                             "clip_on": False}  # fmt: skip
    left.plot([1, 1], [0, 1], transform=left.transAxes, **style)
    right.plot([0, 0], [0, 1], transform=right.transAxes, **style)


def _legend(figure: Figure, rows: Sequence[Row]) -> None:
    """What the marks mean, below the picture."""
    panel = figure.axes[0]
    kinds = [kind for kind in STYLE if any(row.kind == kind for row in rows)]
    handles = [panel.plot([], [], ls="", label=LEGEND[kind], **STYLE[kind])[0] for kind in kinds]
    if any(row.elbo is not None for row in rows):
        label = "its ELBO; the line is the inference gap"
        handles.insert(1, panel.plot([], [], color=LIGHT, lw=2, marker="|", ms=10, mew=2.5, label=label)[0])
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9)
