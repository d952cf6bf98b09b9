"""Contenders that train in turns, and when each reaches a level of the validation ELBO."""

import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple


class Point(NamedTuple):
    """The end of an epoch: seconds since the start of the training, and validation ELBO in nats per image."""

    seconds: float
    elbo: float


def race(contenders: Mapping[str, Iterator[float]]) -> dict[str, list[Point]]:
    """Train in turns, one epoch each. A contender ends with its epochs, or if its ELBO is not finite."""
    curves: dict[str, list[Point]] = {name: [] for name in contenders}
    running = dict(contenders)
    while running:
        for name, epochs in list(running.items()):
            start = time.perf_counter()
            elbo = next(epochs, math.nan)
            seconds = time.perf_counter() - start
            if math.isfinite(elbo):
                before = curves[name][-1].seconds if curves[name] else 0.0
                curves[name].append(Point(before + seconds, elbo))
            else:
                del running[name]
    return curves


def time_of(level: float, curve: Sequence[Point]) -> float | None:
    """Seconds until the ELBO is first at least `level`, linear between two epochs; None if it never is."""
    reached = next((i for i, point in enumerate(curve) if point.elbo >= level), None)
    if not reached:
        return None if reached is None else curve[0].seconds
    before, after = curve[reached - 1], curve[reached]
    share = (level - before.elbo) / (after.elbo - before.elbo)
    return before.seconds + share * (after.seconds - before.seconds)


def best(curve: Sequence[Point]) -> float:
    """The largest ELBO; NaN if no epoch was finished."""
    return max((point.elbo for point in curve), default=math.nan)


def medians(found: Sequence[Any]) -> Any:
    """Median of each number over the seeds. None and NaN count as infinite, and an infinite median is None."""
    if isinstance(found[0], dict):
        return {key: medians([each[key] for each in found]) for key in found[0]}
    median = statistics.median(math.inf if value is None or math.isnan(value) else value for value in found)
    return round(median, 4) if math.isfinite(median) else None
