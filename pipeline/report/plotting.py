"""How every figure looks, and grids of images. Grey images are drawn dark on white, colour images as they are.

An image has the shape (height, width), or (height, width, 3) in colour, with pixels in [0, 1].

This is the only module that imports matplotlib.
"""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread, imsave
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pipeline.storage.files import atomic

# Okabe and Ito's palette, which colour-blind readers can tell apart.
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
# Set once, at import: matplotlib reads these settings when it makes axes and again when it saves a figure, and all
# figures of this project share them.
matplotlib.use("Agg")
matplotlib.rcParams.update(STYLE)

NO_METADATA: dict[Any, Any] = {"Software": None}  # of a PNG: the version of matplotlib
GAP = 2  # white pixels between the images of a grid

# A legend with a white background, for panels in which a line would cross its text.
ON_WHITE: dict[str, Any] = {"frameon": True, "facecolor": "white", "edgecolor": "none", "framealpha": 1.0}


class NotDrawnError(Exception):
    """A picture has nothing to show. The message is the reason, for the report."""


def new(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, NDArray[np.object_]]:
    """A figure of `width` × `height` inches, and its axes as a (rows, columns) array."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def to_png(figure: Figure) -> bytes:
    """The figure as PNG. It has no metadata, so the same figure gives the same bytes."""
    content = BytesIO()
    figure.savefig(content, format="png", dpi=150, bbox_inches="tight", metadata=NO_METADATA)
    return content.getvalue()


def save(picture: Figure | bytes, path: Path) -> None:
    """Write a figure, or the PNG of one, atomically."""
    with atomic(path) as temporary:
        temporary.write_bytes(to_png(picture) if isinstance(picture, Figure) else picture)


def message(text: str) -> Figure:
    """A figure of a text, in place of a picture that cannot be drawn."""
    figure, axes = new(6.0, 2.0)
    axes[0, 0].axis("off")
    axes[0, 0].text(0.5, 0.5, text, ha="center", va="center", wrap=True, parse_math=False)
    return figure


def note_left_out(figure: Figure, counts: Mapping[str, int]) -> None:
    """Below the figure: how many values of each kind it leaves out because they are not finite."""
    if some := [f"{name} ({count})" for name, count in counts.items() if count]:
        figure.supxlabel(f"not finite, and left out: {', '.join(some)}", fontsize=8)


def integer_ticks(panel: Axes) -> None:
    """Put the ticks of the horizontal axis at whole numbers only."""
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))


def minus(text: str) -> str:
    """The text with the minus sign that matplotlib's own tick labels have, in place of hyphens."""
    return text.replace("-", "−")


def white(count: int, like: Float[np.ndarray, "images height width *channels"]) -> Float[np.ndarray, "{count} *image"]:
    """White images: 0 is white in grey images, and 1 in colour."""
    return np.full((count, *like.shape[1:]), float(like.ndim == 4))


def montage(
    images: Float[np.ndarray, "rows columns height width *channels"],
) -> Float[np.ndarray, "sheet_height sheet_width *channels"]:
    """A grid of images as one sheet, with `GAP` white pixels between them."""
    rows, columns, height, width, *channels = images.shape
    size = rows * (height + GAP) - GAP, columns * (width + GAP) - GAP
    sheet = np.full((*size, *channels), float(bool(channels)))
    for r in range(rows):
        for c in range(columns):
            sheet[r * (height + GAP) :, c * (width + GAP) :][:height, :width] = images[r, c]
    return sheet


def show(
    panel: Axes,
    images: Float[np.ndarray, "rows columns height width *channels"],
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
) -> None:
    """Draw a grid of images: 0 is white and 1 is black, or colours. Labels go left of rows and below columns."""
    rows, columns, height, width = images.shape[:4]
    panel.imshow(montage(images).clip(0, 1), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    panel.grid(visible=False)
    panel.spines[:].set_visible(False)
    panel.tick_params(length=0)
    row_centres = [(height + GAP) * r + height / 2 for r in range(rows)]
    column_centres = [(width + GAP) * c + width / 2 for c in range(columns)]
    panel.set_yticks(row_centres if row_labels else [], list(row_labels))
    panel.set_xticks(column_centres if column_labels else [], list(column_labels))


def outline(panel: Axes, row: int, column: int, height: int, width: int) -> None:
    """Draw a frame around one image of the grid of images in a panel."""
    corner = column * (width + GAP) - 1.5, row * (height + GAP) - 1.5
    panel.add_patch(
        Rectangle(corner, width + 2, height + 2, fill=False, edgecolor=ORANGE, linewidth=1.5, clip_on=False)
    )


def grid(
    images: Float[np.ndarray, "rows columns height width *channels"],
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
) -> Figure:
    """A figure of one grid of images."""
    rows, columns, height, width = images.shape[:4]
    cell = min(0.75, 8 / columns)
    figure, axes = new(columns * cell + 0.8, rows * cell * height / width + 0.5)
    show(axes[0, 0], images, row_labels, column_labels)
    return figure


def strip(images: Float[np.ndarray, "images height width *channels"]) -> bytes:
    """A row of images as PNG, one pixel each: 0 is white, 1 is black. `read_strip` reads it, if they are grey."""
    content = BytesIO()
    sheet = np.concatenate(list(images), axis=1).clip(0, 1)
    sheet = 255 * (sheet if images.ndim == 4 else (1 - sheet)[:, :, None].repeat(3, axis=2))
    colours = sheet.round().astype(np.uint8)
    imsave(content, colours, format="png", metadata=NO_METADATA)
    return content.getvalue()


def read_strip(path: Path, images: int) -> Float[np.ndarray, "{images} height width"]:
    """The images of a row, with 256 grey levels in [0, 1]."""
    sheet = 1.0 - imread(path)[:, :, 0].astype(float)
    return np.stack(np.split(sheet, images, axis=1))


def in_rows(
    images: Float[np.ndarray, "images height width *channels"], columns: int
) -> Float[np.ndarray, "rows {columns} height width *channels"]:
    """A list of images in rows of `columns`. White images fill up the last row."""
    padded = np.concatenate([images, white(-len(images) % columns, images)])
    return padded.reshape(-1, columns, *images.shape[1:])
