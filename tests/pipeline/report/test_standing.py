"""Differences that the report states in words."""

import numpy as np
import pandas as pd
import pytest

from pipeline.evaluation.summary import Metrics
from pipeline.report.standing import Difference, above_histogram, mean_difference, overfitting


def test_the_model_is_compared_with_the_histograms() -> None:
    assert above_histogram({"log_px": 10.5}, {"histogram": 12.0}) == -1.5
    assert above_histogram({"log_px": 10.5}, {}) is None
    assert above_histogram({}, {"histogram": 12.0}) is None


def test_errors_of_independent_images_add_up_in_squares() -> None:
    measured: dict[str, Metrics] = {
        "train": {"log_px": 10.0, "log_px_se": 3.0},
        "validation": {"log_px": 8.0, "log_px_se": 4.0},
        "test": {"log_px": 9.5},
    }
    assert overfitting(measured) == {"validation": Difference(2.0, 5.0), "test": Difference(0.5, None)}
    measured["train"] = {"images": 0}
    assert overfitting(measured) is None


def test_a_mean_difference_leaves_out_what_is_not_finite() -> None:
    table = pd.DataFrame({"a": [5.0, 7.0, np.inf, 4.0], "b": [1.0, 2.0, 3.0, np.nan]})
    assert mean_difference(table, "a", "b") == pytest.approx(4.5)
    assert mean_difference(table.tail(2), "a", "b") is None
