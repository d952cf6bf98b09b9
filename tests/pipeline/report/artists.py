"""What is drawn in a figure: texts, lines and images."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.report.plotting import GAP, Figure

Panel = Any  # matplotlib's own types are too wide to index


def panels(figure: Figure) -> list[Panel]:
    return list(figure.axes)


def texts(labels: Iterable[Any]) -> list[str]:
    return [label.get_text() for label in labels]


def legend(panel: Panel) -> list[str]:
    return texts(panel.get_legend().get_texts())


def x_of(line: Any) -> NDArray[np.float64]:
    return np.asarray(line.get_xdata(), dtype=np.float64)


def y_of(line: Any) -> NDArray[np.float64]:
    return np.asarray(line.get_ydata(), dtype=np.float64)


def bar_heights(bars: Iterable[Any]) -> list[float]:
    return [bar.get_height() for bar in bars]


def cell(panel: Panel, row: int, column: int, height: int, width: int) -> NDArray[np.floating]:
    """One image of the grid of images in a panel."""
    sheet = np.asarray(panel.images[0].get_array())
    return sheet[row * (height + GAP) :, column * (width + GAP) :][:height, :width]
