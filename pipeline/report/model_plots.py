"""Figures of what a model does: reconstructions, samples, walks through its latent space, and its training."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Integer

from pipeline.report.plotting import (
    BLUE,
    CLASS_COLOURS,
    GREY,
    ON_WHITE,
    ORANGE,
    Axes,
    Figure,
    grid,
    in_rows,
    integer_ticks,
    minus,
    new,
    show,
)


def reconstructions(
    originals: Float[np.ndarray, "images height width"], decoded: Float[np.ndarray, "images height width"], columns: int
) -> Figure:
    """Images in rows of `columns`, each row above the row of its reconstructions."""
    images = _above_reconstructions(originals, decoded, columns)
    return grid(images, row_labels=["x", "f(μ(x))"] * (len(images) // 2))


def _above_reconstructions(
    originals: Float[np.ndarray, "images height width"], decoded: Float[np.ndarray, "images height width"], columns: int
) -> Float[np.ndarray, "rows {columns} height width"]:
    pairs = np.stack([in_rows(originals, columns), in_rows(decoded, columns)], axis=1)
    return pairs.reshape(-1, columns, *originals.shape[1:])


def pixels(
    originals: Float[np.ndarray, "images height width"],
    means: Float[np.ndarray, "images height width"],
    draws: Float[np.ndarray, "images height width"],
) -> Figure:
    """Images above their decoder means, and above images drawn from p(x | z)."""
    return grid(np.stack([originals, means, draws]), row_labels=["x", "f(μ(x))", "x ~ p(x | μ(x))"])


def interpolations(
    linear: Float[np.ndarray, "pairs steps height width"], spherical: Float[np.ndarray, "pairs steps height width"]
) -> Figure:
    """The same pairs of images, joined by a straight line on the left and by a great circle on the right."""
    pairs, steps, height, width = linear.shape
    cell = 8 / (2 * steps)
    figure, axes = new(10.5, pairs * cell * height / width * 1.15 + 0.8, columns=2)
    fractions = [f"{i / (steps - 1):.1g}" if i in (0, steps // 2, steps - 1) else "" for i in range(steps)]
    for panel, images, title in zip(axes[0], (linear, spherical), ("straight line", "great circle"), strict=True):
        show(panel, images, column_labels=fractions)
        panel.set_title(title)
        panel.set_xlabel("fraction of the way between the two digits")
    return figure


def traversals(
    images: Float[np.ndarray, "coordinates steps height width"],
    coordinates: Sequence[int],
    kl: Sequence[float],
    values: Sequence[float],
) -> Figure:
    """One row per latent coordinate, from its smallest value to its largest.

    Args:
        coordinates: their indices in z.
        kl: mean KL of each coordinate, nats.
        values: of the coordinate in each column.
    """
    labels = [f"z[{i}], KL {nats:.1f} nats" for i, nats in zip(coordinates, kl, strict=True)]
    figure = grid(images, row_labels=labels, column_labels=[minus(f"{value:+.1f}") for value in values])
    figure.axes[0].set_xlabel("value of the coordinate, in standard deviations of the prior")
    return figure


def manifold(images: Float[np.ndarray, "side side height width"], values: Sequence[float]) -> Figure:
    """Decoder means over a square of the plane: z₁ from left to right, z₂ from bottom to top."""
    side = len(values)
    labels = [minus(f"{value:.1f}") if i % max(1, side // 6) == 0 else "" for i, value in enumerate(values)]
    figure, axes = new(8.0, 8.2)
    show(axes[0, 0], images, row_labels=labels[::-1], column_labels=labels)
    axes[0, 0].set(xlabel="z₁, in standard deviations of the prior", ylabel="z₂, in standard deviations of the prior")
    return figure


def latent_space(
    points: Float[np.ndarray, "images 2"], labels: Integer[np.ndarray, " images"], names: tuple[str, str]
) -> Figure:
    """Points of the latent space in the colours of their classes, with each class's number at its median.

    Args:
        names: of the two axes.
    """
    figure, axes = new(7.5, 6.5)
    panel = axes[0, 0]
    for label in np.unique(labels):
        chosen = points[labels == label]
        colour = CLASS_COLOURS[int(label) % len(CLASS_COLOURS)]
        panel.scatter(chosen[:, 0], chosen[:, 1], s=5, alpha=0.35, linewidths=0, color=colour, rasterized=True)
    for label in np.unique(labels):
        x, y = np.median(points[labels == label], axis=0)
        colour = CLASS_COLOURS[int(label) % len(CLASS_COLOURS)]
        box = {"boxstyle": "circle,pad=0.2", "facecolor": "white", "edgecolor": colour, "lw": 1.5}
        panel.text(x, y, str(label), ha="center", va="center", weight="bold", bbox=box)
    panel.set(xlabel=names[0], ylabel=names[1])
    return figure


def training_curves(history: pd.DataFrame) -> Figure:
    """ELBO, reconstruction and KL of each epoch, for training and validation, with the epoch that was kept.

    Args:
        history: columns epoch, best, and train_ and validation_ with elbo, reconstruction and kl; nats per image.
    """
    figure, axes = new(10.0, 3.4, columns=3)
    kept = history.loc[history["best"], "epoch"].iloc[-1]
    titles = {"elbo": "ELBO", "reconstruction": "reconstruction, E log p(x | z)", "kl": "KL[q(z | x) ‖ p(z)]"}
    for panel, (term, title) in zip(axes[0], titles.items(), strict=True):
        _curves(panel, history, term, marker=".", ms=4)
        panel.axvline(kept, color=GREY, lw=1, ls=":", label=f"epoch {kept}, kept")
        panel.set_title(title)
    axes[0, 0].legend(loc="lower right", **ON_WHITE)
    return figure


def _curves(panel: Axes, history: pd.DataFrame, term: str, **style: Any) -> None:
    for part, colour in (("train", BLUE), ("validation", ORANGE)):
        panel.plot(history["epoch"], history[f"{part}_{term}"], color=colour, label=part, **style)
    panel.set(xlabel="epoch", ylabel="nats per image")
    integer_ticks(panel)
    # The first epochs rise so steeply that the later ones would look flat: the axis fits the later ones.
    values = history[[f"train_{term}", f"validation_{term}"]].to_numpy()
    late = values[len(values) // 5 :]
    margin = 0.08 * float(np.ptp(late)) or 1.0
    panel.set_ylim(late.min() - margin, late.max() + margin)


def overview(
    originals: Float[np.ndarray, "images height width"],
    decoded: Float[np.ndarray, "images height width"],
    samples: Float[np.ndarray, "rows columns height width"],
    history: pd.DataFrame,
) -> Figure:
    """The project in one picture: test images with reconstructions, samples of the prior, the ELBO over epochs."""
    figure, axes = new(13.0, 4.4, columns=3)
    show(axes[0, 0], _above_reconstructions(originals, decoded, 8))
    axes[0, 0].set_title("test images, each above its reconstruction")
    show(axes[0, 1], samples)
    axes[0, 1].set_title("samples: f(z), z ~ N(0, I)")
    panel = axes[0, 2]
    _curves(panel, history, "elbo")
    panel.set_title("ELBO")
    panel.legend(loc="lower right")
    return figure
