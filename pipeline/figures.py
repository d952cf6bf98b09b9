"""Figures: arrays in, matplotlib figures out. Images are dark on white, whatever the data set's polarity."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pipeline.files import atomic

matplotlib.use("Agg")

Images = NDArray[np.floating]  # (..., height, width), in [0, 1]

# Okabe & Ito's palette: distinct to colour-blind readers.
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#666666"
CLASS_COLOURS = [BLUE, ORANGE, GREEN, PURPLE, "#E69F00", "#56B4E9", "#B8A900", "#000000", "#8C564B", "#999999"]

STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "axes.axisbelow": True,
    "savefig.facecolor": "white",
}
matplotlib.rcParams.update(STYLE)


def save(figure: Figure, path: Path) -> None:
    """Write a PNG atomically; without metadata, so that the same figure is the same bytes."""
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150, bbox_inches="tight", metadata={"Software": None})


def new(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, NDArray[np.object_]]:
    """A styled figure of `width` × `height` inches and its axes as a (rows, columns) array."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def montage(images: Images, gap: int = 2) -> NDArray[np.floating]:
    """Images (rows, columns, height, width) as one white sheet with `gap` pixels between them."""
    rows, columns, height, width = images.shape
    sheet = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap))
    for r in range(rows):
        for c in range(columns):
            sheet[r * (height + gap) :, c * (width + gap) :][:height, :width] = images[r, c]
    return sheet


def show(axes: Axes, images: Images, row_labels: Sequence[str] = (), column_labels: Sequence[str] = ()) -> None:
    """Draw a grid of images (rows, columns, height, width), with labels beside rows and below columns."""
    rows, columns, height, width = images.shape
    axes.imshow(montage(images), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_yticks([(height + 2) * r + height / 2 for r in range(rows)] if row_labels else [], list(row_labels))
    axes.set_xticks([(width + 2) * c + width / 2 for c in range(columns)] if column_labels else [], list(column_labels))


def grid(images: Images, title: str = "", row_labels: Sequence[str] = (), column_labels: Sequence[str] = ()) -> Figure:
    """One grid of images (rows, columns, height, width)."""
    rows, columns, height, width = images.shape
    cell = min(0.75, 8 / columns)
    figure, axes = new(columns * cell + 0.8, rows * cell * height / width + 0.5)
    show(axes[0, 0], images, row_labels, column_labels)
    axes[0, 0].set_title(title)
    return figure


def interpolations(linear: Images, spherical: Images) -> Figure:
    """The same pairs of digits joined by a straight line and by a great circle: (pairs, steps, height, width)."""
    pairs, steps, height, width = linear.shape
    cell = 8 / (2 * steps)
    figure, axes = new(10.5, pairs * cell * height / width * 1.15 + 0.8, columns=2)
    shares = [f"{i / (steps - 1):.1g}" if i in (0, steps // 2, steps - 1) else "" for i in range(steps)]
    for panel, images, title in zip(axes[0], (linear, spherical), ("linear", "spherical"), strict=True):
        show(panel, images, column_labels=shares)
        panel.set_title(title)
        panel.set_xlabel("share of the way from one digit to the other")
    return figure


def traversals(images: Images, coordinates: Sequence[int], kl: Sequence[float], values: Sequence[float]) -> Figure:
    """One latent coordinate a row (coordinates, steps, height, width), from the smallest value to the largest."""
    labels = [f"z[{i}], {nats:.1f} nats" for i, nats in zip(coordinates, kl, strict=True)]
    figure = grid(images, row_labels=labels, column_labels=[f"{v:+.1f}" for v in values])
    figure.axes[0].set_xlabel("value of the coordinate, in standard deviations of the prior")
    return figure


def manifold(images: Images, values: Sequence[float]) -> Figure:
    """Decoder means over a square of the plane (rows, columns, height, width): z₁ across, z₂ upwards."""
    side = len(values)
    labels = [f"{v:.1f}" if i % max(1, side // 6) == 0 else "" for i, v in enumerate(values)]
    figure, axes = new(8.0, 8.2)
    show(axes[0, 0], images, row_labels=labels[::-1], column_labels=labels)
    axes[0, 0].set(xlabel="z₁, in standard deviations of the prior", ylabel="z₂, in standard deviations of the prior")
    return figure


def latent_space(points: NDArray[np.floating], labels: NDArray[np.integer], names: tuple[str, str]) -> Figure:
    """Points (n, 2) of the latent space coloured by class, each class's number at its median."""
    figure, axes = new(7.5, 6.5)
    panel = axes[0, 0]
    for label in np.unique(labels):
        chosen = points[labels == label]
        colour = CLASS_COLOURS[int(label) % len(CLASS_COLOURS)]
        panel.scatter(chosen[:, 0], chosen[:, 1], s=5, alpha=0.35, linewidths=0, color=colour, rasterized=True)
    for label in np.unique(labels):
        x, y = np.median(points[labels == label], axis=0)
        box = {"boxstyle": "circle,pad=0.2", "facecolor": "white", "edgecolor": CLASS_COLOURS[int(label)], "lw": 1.5}
        panel.text(x, y, str(label), ha="center", va="center", weight="bold", bbox=box)
    panel.set(xlabel=names[0], ylabel=names[1])
    return figure


def training_curves(history: pd.DataFrame) -> Figure:
    """ELBO, reconstruction and KL over epochs, for training and validation, with the epoch kept."""
    figure, axes = new(10.0, 3.4, columns=3)
    kept = history.loc[history["best"], "epoch"].iloc[-1]
    titles = {"elbo": "ELBO", "reconstruction": "reconstruction, E log p(x | z)", "kl": "KL[q(z | x) ‖ p(z)]"}
    for panel, (term, title) in zip(axes[0], titles.items(), strict=True):
        for part, colour in (("train", BLUE), ("validation", ORANGE)):
            panel.plot(history["epoch"], history[f"{part}_{term}"], color=colour, label=part, marker=".", ms=4)
        panel.axvline(kept, color=GREY, lw=1, ls=":")
        panel.set(title=title, xlabel="epoch", ylabel="nats per image")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        _focus(panel, history[[f"train_{term}", f"validation_{term}"]].to_numpy())
    axes[0, 0].legend(loc="lower right", title=f"kept: epoch {kept}")
    return figure


def _focus(panel: Axes, values: NDArray[np.floating]) -> None:
    """Leave the first epochs' plunge out of view, so that the later ones can be told apart."""
    late = values[len(values) // 5 :]
    margin = 0.08 * float(np.ptp(late)) or 1.0
    panel.set_ylim(late.min() - margin, late.max() + margin)


def log_px(values: NDArray[np.floating], least: Images, most: Images) -> Figure:
    """Distribution of the per-image log p(x), above the least and the most likely images (n, height, width)."""
    figure, axes = new(9.0, 5.0, rows=2, columns=2)
    for panel in axes[0]:
        panel.remove()
    whole = figure.add_subplot(axes[0, 0].get_gridspec()[0, :])
    low = np.quantile(values, 0.005)
    whole.hist(values[values >= low], bins=60, color=BLUE)
    whole.axvline(values.mean(), color=ORANGE, lw=2, label=f"mean {values.mean():.1f}")
    whole.set(xlabel="log p(x), nats per image (the lowest 0.5 % lie further left)", ylabel="test images")
    whole.legend(loc="upper left")
    for panel, images, which in zip(axes[1], (least, most), ("least", "most"), strict=True):
        show(panel, _in_rows(images, 7))
        panel.set_title(f"the {which} likely test images")
    return figure


def _in_rows(images: Images, columns: int) -> Images:
    """Images (n, height, width) as rows of `columns`, the last row filled up with white."""
    missing = -len(images) % columns
    padded = np.concatenate([images, np.zeros((missing, *images.shape[1:]))])
    return padded.reshape(-1, columns, *images.shape[1:])


def _with_reconstructions(digits: Images, reconstructions: Images, columns: int) -> Images:
    """Rows of images, each row above the row of their reconstructions."""
    pairs = np.stack([_in_rows(digits, columns), _in_rows(reconstructions, columns)], axis=1)
    return pairs.reshape(-1, columns, *digits.shape[1:])


def reconstructions(originals: Images, decoded: Images, columns: int) -> Figure:
    """Images (n, height, width) in rows, each row above its reconstructions."""
    images = _with_reconstructions(originals, decoded, columns)
    return grid(images, row_labels=["x", "f(μ(x))"] * (len(images) // 2))


def overview(digits: Images, decoded: Images, samples: Images, history: pd.DataFrame) -> Figure:
    """The project in one picture: test images and reconstructions, samples of the prior, the ELBO over epochs."""
    figure, axes = new(13.0, 4.4, columns=3)
    show(axes[0, 0], _with_reconstructions(digits, decoded, 8))
    axes[0, 0].set_title("test images, each above its reconstruction")
    show(axes[0, 1], samples)
    axes[0, 1].set_title("samples: f(z), z ~ N(0, I)")
    panel = axes[0, 2]
    for part, colour in (("train", BLUE), ("validation", ORANGE)):
        panel.plot(history["epoch"], history[f"{part}_elbo"], color=colour, label=part)
    _focus(panel, history[["train_elbo", "validation_elbo"]].to_numpy())
    panel.set(title="ELBO", xlabel="epoch", ylabel="nats per image")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.legend(loc="lower right")
    return figure
