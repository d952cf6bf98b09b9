"""How well log p(x) separates digits from other images: the area under the ROC curve (AUROC)."""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray


class Auroc(NamedTuple):
    """Probability that a digit has a higher log p(x) than another image, with its standard error.

    1 is perfect separation, ½ is chance. One digit or one other image has no standard error: None.
    """

    value: float
    standard_error: float | None


def auroc(digits: NDArray[np.floating], others: NDArray[np.floating]) -> Auroc:
    """The fraction of pairs in which the digit has the higher log p(x); a tie counts half.

    The standard error has a term for the sampling of the digits and one for that of the other images: √(var(fraction of
    others below each digit) / digits + var(fraction of digits above each other image) / others). DeLong et al. 1988.

    Args:
        digits: log p(x) of digits, in nats.
        others: log p(x) of the other images, in nats.
    """
    below, above = _fraction_below(others, digits), 1 - _fraction_below(digits, others)
    if min(len(below), len(above)) < 2:
        return Auroc(float(above.mean()), None)
    return Auroc(float(above.mean()), math.sqrt(sum(part.var(ddof=1) / len(part) for part in (below, above))))


def _fraction_below(values: NDArray[np.floating], limits: NDArray[np.floating]) -> NDArray[np.floating]:
    """The fraction of the values below each limit; a tie counts half."""
    ordered = np.sort(values)
    return (np.searchsorted(ordered, limits, "left") + np.searchsorted(ordered, limits, "right")) / (2 * len(values))


class ProbeSummary(NamedTuple):
    """Results for one kind of images. `median` is that of log p(x), in nats; `trusted` is the fraction trusted."""

    kind: str
    images: int
    median: float
    trusted: float
    auroc: float
    auroc_se: float | None


def summarise_probes(table: pd.DataFrame, digits: NDArray[np.floating]) -> list[ProbeSummary]:
    """Compare each kind of images with the digits, in the order of the table.

    Images whose log p(x) is not finite count in `images` and `trusted` only. A kind without any finite log p(x) is left
    out.

    Args:
        table: columns `kind`, `log_px` and `trusted`, one row per image.
        digits: finite log p(x) of the digits, in nats.
    """
    rows = []
    for kind, part in table.groupby("kind", sort=False):
        log_px = part["log_px"].to_numpy(dtype=np.float64)
        log_px = log_px[np.isfinite(log_px)]
        if not len(log_px):
            continue
        trusted = float(part["trusted"].to_numpy(dtype=bool).mean())
        rows.append(ProbeSummary(str(kind), len(part), float(np.median(log_px)), trusted, *auroc(digits, log_px)))
    return rows
