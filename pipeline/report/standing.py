"""Differences of measurements that the report states in words."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline.evaluation.summary import Metrics


class Difference(NamedTuple):
    """A difference of two means, with its standard error if both have one; nats per image."""

    nats: float
    error: float | None


def above_histogram(test: Metrics, compare: Metrics) -> float | None:
    """How much larger the model's log p(x) is than the histogram baseline's, nats; None if one of them is missing."""
    if "log_px" not in test or "histogram" not in compare:
        return None
    return test["log_px"] - compare["histogram"]


def overfitting(measured: Mapping[str, Metrics]) -> dict[str, Difference] | None:
    """log p(x) of training images minus that of validation images, and of test images; None if one is missing.

    Args:
        measured: metrics of stage evaluate for train, validation and test.
    """
    if any("log_px" not in part for part in measured.values()):
        return None
    return {name: _difference(measured["train"], measured[name]) for name in ("validation", "test")}


def mean_difference(table: pd.DataFrame, larger: str, smaller: str) -> float | None:
    """The mean of one column minus another, over the rows in which both are finite; None if no row is."""
    differences = table[larger].to_numpy(dtype=np.float64) - table[smaller].to_numpy(dtype=np.float64)
    finite = differences[np.isfinite(differences)]
    return float(finite.mean()) if len(finite) else None


def _difference(a: Metrics, b: Metrics) -> Difference:
    """Of independent images: the squares of their errors add up."""
    known = "log_px_se" in a and "log_px_se" in b
    return Difference(a["log_px"] - b["log_px"], math.hypot(a["log_px_se"], b["log_px_se"]) if known else None)
