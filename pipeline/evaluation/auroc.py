"""How well log p(x) separates digits from other images: the area under the ROC curve (AUROC)."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray


class Auroc(NamedTuple):
    """Probability that a digit has a higher log p(x) than another image, with its standard error.

    1 is perfect separation, ½ is chance.
    """

    value: float
    standard_error: float


def auroc(digits: NDArray[np.floating], others: NDArray[np.floating]) -> Auroc:
    """The mean, over the other images, of the fraction of digits with a higher log p(x); a tie counts half.

    The standard error is that of this mean, NaN for a single image. It ignores the sampling error of the digits, which
    are many more than the others.

    Args:
        digits: log p(x) of digits, in nats.
        others: log p(x) of the other images, in nats.
    """
    ordered = np.sort(digits)
    not_higher = (np.searchsorted(ordered, others, "left") + np.searchsorted(ordered, others, "right")) / 2
    higher = 1 - not_higher / len(ordered)
    deviation = higher.std(ddof=1) if len(others) > 1 else np.nan
    return Auroc(float(higher.mean()), float(deviation / np.sqrt(len(others))))


class ProbeSummary(NamedTuple):
    """Results for one kind of images. `median` is that of log p(x), in nats; `trusted` is the fraction trusted."""

    kind: str
    images: int
    median: float
    trusted: float
    auroc: float
    auroc_se: float


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
