"""Figures of what a model does: reconstructions, samples, walks through its latent space, and its training."""

from collections.abc import Mapping, Sequence
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
    outline,
    show,
    white,
)


def reconstructions(
    originals: Float[np.ndarray, "images height width *channels"],
    decoded: Float[np.ndarray, "images height width *channels"],
    columns: int,
) -> Figure:
    """Images in rows of `columns`, each row above the row of its reconstructions."""
    images = _above_reconstructions(originals, decoded, columns)
    return grid(images, row_labels=["x", "f(μ(x))"] * (len(images) // 2))


def _above_reconstructions(
    originals: Float[np.ndarray, "images height width *channels"],
    decoded: Float[np.ndarray, "images height width *channels"],
    columns: int,
) -> Float[np.ndarray, "rows {columns} height width *channels"]:
    pairs = np.stack([in_rows(originals, columns), in_rows(decoded, columns)], axis=1)
    return pairs.reshape(-1, columns, *originals.shape[1:])


def pixels(
    originals: Float[np.ndarray, "images height width *channels"],
    means: Float[np.ndarray, "images height width *channels"],
    draws: Float[np.ndarray, "images height width *channels"],
) -> Figure:
    """Images above their decoder means, and above images drawn from p(x | z)."""
    return grid(np.stack([originals, means, draws]), row_labels=["x", "f(μ(x))", "x ~ p(x | μ(x))"])


def digits(images: Float[np.ndarray, "rows classes height width *channels"], classes: Sequence[int]) -> Figure:
    """One column per class; every row has its own noise."""
    figure = grid(images, column_labels=[str(label) for label in classes])
    figure.axes[0].set_xlabel("class asked for")
    return figure


def analogies(
    originals: Float[np.ndarray, "rows height width *channels"],
    images: Float[np.ndarray, "rows classes height width *channels"],
    labels: Sequence[int],
    classes: Sequence[int],
) -> Figure:
    """Images on the left, and their style in every class on the right. Their own class has a frame.

    Args:
        labels: classes of the originals.
        classes: of the columns.
    """
    left = np.stack([originals, white(len(originals), originals)], axis=1)
    figure = grid(np.concatenate([left, images], axis=1), column_labels=["x", "", *map(str, classes)])
    panel = figure.axes[0]
    panel.set_xlabel("a test image, and its style in every class")
    for row, label in enumerate(labels):
        if label in classes:
            outline(panel, row, 2 + list(classes).index(label), *originals.shape[1:3])
    return figure


def neighbours(
    drawn: Float[np.ndarray, "images height width *channels"],
    nearest: Float[np.ndarray, "images height width *channels"],
    distances: Float[np.ndarray, " images"],
    columns: int,
) -> Figure:
    """Drawn images in rows, each above the training image nearest to it, with their distance below.

    Args:
        distances: root mean square over the pixels.
    """
    pairs = _above_reconstructions(drawn, nearest, columns)
    rows, _, height, width = pairs.shape[:4]
    cell = min(0.75, 8 / columns)
    figure, axes = new(columns * cell + 1.0, rows * (cell * height / width + 0.13) + 0.5, rows=rows // 2)
    for row, panel in enumerate(axes[:, 0]):
        some = [f"{distance:.2f}" for distance in distances[row * columns : (row + 1) * columns]]
        labels = some + [""] * (columns - len(some))
        show(panel, pairs[2 * row : 2 * row + 2], row_labels=["drawn", "nearest"], column_labels=labels)
    axes[-1, 0].set_xlabel("distance: root mean square difference of the pixels, which lie in [0, 1]")
    return figure


def interpolations(
    linear: Float[np.ndarray, "pairs steps height width *channels"],
    spherical: Float[np.ndarray, "pairs steps height width *channels"],
) -> Figure:
    """The same pairs of images, joined by a straight line on the left and by a great circle on the right."""
    pairs, steps, height, width = linear.shape[:4]
    cell = 8 / (2 * steps)
    figure, axes = new(10.5, pairs * cell * height / width * 1.15 + 0.8, columns=2)
    fractions = [f"{i / (steps - 1):.1g}" if i in (0, steps // 2, steps - 1) else "" for i in range(steps)]
    for panel, images, title in zip(axes[0], (linear, spherical), ("straight line", "great circle"), strict=True):
        show(panel, images, column_labels=fractions)
        panel.set_title(title)
        panel.set_xlabel("fraction of the way between the two images")
    return figure


def traversals(
    images: Float[np.ndarray, "coordinates steps height width *channels"],
    labels: Sequence[str],
    values: Sequence[float],
) -> Figure:
    """One row per coordinate, from its smallest value to its largest.

    Args:
        labels: names of the coordinates, and what puts them in this order.
        values: of the coordinate in each column.
    """
    figure = grid(images, row_labels=labels, column_labels=[minus(f"{value:+.1f}") for value in values])
    figure.axes[0].set_xlabel("value of the coordinate, in standard deviations of the prior")
    return figure


def manifold(
    images: Float[np.ndarray, "side side height width *channels"], values: Sequence[float], symbol: str
) -> Figure:
    """Decoder means over a square of the plane: the first coordinate from left to right, the second from bottom to top.

    Args:
        symbol: of the coordinates.
    """
    side = len(values)
    labels = [minus(f"{value:.1f}") if i % max(1, side // 6) == 0 else "" for i, value in enumerate(values)]
    figure, axes = new(8.0, 8.2)
    show(axes[0, 0], images, row_labels=labels[::-1], column_labels=labels)
    first, second = (f"{symbol}{index}, in standard deviations of the prior" for index in "₁₂")
    axes[0, 0].set(xlabel=first, ylabel=second)
    return figure


def manifolds(
    images: Float[np.ndarray, "classes side side height width *channels"], classes: Sequence[int], symbol: str
) -> Figure:
    """The same square of the plane for every class of a conditional model."""
    columns = min(len(classes), 4)
    rows = -(-len(classes) // columns)
    figure, axes = new(2.6 * columns, 2.9 * rows + 0.3, rows=rows, columns=columns)
    for panel in list[Any](axes.flat)[len(classes) :]:
        panel.axis("off")
    for panel, label, plane in zip(list[Any](axes.flat), classes, images, strict=False):
        show(panel, plane)
        panel.set_title(f"class {label}")
    figure.supxlabel(f"{symbol}₁ grows to the right, {symbol}₂ upwards", fontsize=10)
    return figure


def entanglement(
    values: Float[np.ndarray, "coordinates quantities"],
    reference: Float[np.ndarray, " quantities"],
    darkest: Float[np.ndarray, " quantities"],
    names: Sequence[str],
    quantities: Mapping[str, int],
    change: str,
) -> Figure:
    """A table of numbers on colours: how much each coordinate changes each quantity.

    Args:
        values: mean changes, in the units of the quantities.
        reference: change of each quantity if all coordinates are drawn anew.
        darkest: change of each quantity that has the darkest colour.
        names: of the coordinates.
        quantities: their names with units, and the decimals that are shown.
        change: of a coordinate, in words.
    """
    table = np.concatenate([reference[None], values])
    shares = (table / np.maximum(darkest, 1e-9)).clip(0, 1)
    figure, axes = new(6.2, 0.3 * len(table) + 1.5)
    panel = axes[0, 0]
    image = panel.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    decimals = list(quantities.values())
    for (row, column), number in np.ndenumerate(table):
        colour = "white" if shares[row, column] > 0.6 else "black"
        panel.text(column, row, f"{number:.{decimals[column]}f}", ha="center", va="center", color=colour)
    panel.axhline(0.5, color="black", lw=1)
    panel.set_yticks(range(len(table)), ["all drawn anew", *names])
    panel.set_xticks(range(len(quantities)), list(quantities))
    panel.xaxis.tick_top()
    panel.tick_params(length=0)
    panel.grid(visible=False)
    panel.spines[:].set_visible(False)
    panel.set_xlabel(f"mean change of the decoded image, if the coordinate moves {change}")
    bar = figure.colorbar(image, ax=panel, ticks=[0, 0.5, 1], fraction=0.05)
    bar.ax.set_yticklabels(["0 %", "50 %", "≥ 100 %"])
    bar.set_label("of the change if all are drawn anew; class: of the samples")
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
    originals: Float[np.ndarray, "images height width *channels"],
    decoded: Float[np.ndarray, "images height width *channels"],
    samples: Float[np.ndarray, "rows columns height width *channels"],
    history: pd.DataFrame,
    prior: str,
) -> Figure:
    """The project in one picture: test images with reconstructions, samples of the prior, the ELBO over epochs.

    Args:
        prior: what the samples are, for their title.
    """
    figure, axes = new(13.0, 4.4, columns=3)
    show(axes[0, 0], _above_reconstructions(originals, decoded, 8))
    axes[0, 0].set_title("test images, each above its reconstruction")
    show(axes[0, 1], samples)
    axes[0, 1].set_title(f"samples: {prior}")
    panel = axes[0, 2]
    _curves(panel, history, "elbo")
    panel.set_title("ELBO")
    panel.legend(loc="lower right")
    return figure
