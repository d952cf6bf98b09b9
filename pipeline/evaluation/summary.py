"""Metrics of a measured table. A metric is a finite number, or it is absent: nothing stands in for NaN or infinity."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Metrics = dict[str, int | float]


def mean_and_error(name: str, values: NDArray[np.floating]) -> Metrics:
    """The mean, and its standard error over images as `NAME_se`: no values have no mean, and one has no error."""
    found: Metrics = {name: float(values.mean())} if len(values) else {}
    if len(values) > 1:
        found[f"{name}_se"] = float(values.std(ddof=1)) / math.sqrt(len(values))
    return found


def rounded(values: Metrics) -> Metrics:
    """The finite ones of these numbers, with four decimals."""
    return {name: round(value, 4) for name, value in values.items() if math.isfinite(value)}


def plus_minus(metrics: Mapping[str, int | float], name: str, form: str = ".2f") -> str:
    """A metric with its standard error, as far as they exist, as text."""
    if name not in metrics:
        return "not finite"
    error = f" ± {metrics[f'{name}_se']:{form.lstrip('+')}}" if f"{name}_se" in metrics else ""
    return f"{metrics[name]:{form}}{error}"
