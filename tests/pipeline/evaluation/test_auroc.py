"""AUROC against scikit-learn, and summaries of kinds of images."""

import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from pipeline.evaluation.auroc import auroc, summarise_probes


def test_the_auroc_is_that_of_scikit_learn_and_its_error_that_of_delong() -> None:
    random = np.random.default_rng(0)
    digits, others = random.normal(1, 1, 50).round(1), random.normal(0, 1, 80).round(1)  # rounding makes ties
    found = auroc(digits, others)
    truth = np.r_[np.ones(len(digits)), np.zeros(len(others))]
    assert found.value == pytest.approx(roc_auc_score(truth, np.r_[digits, others]), abs=1e-12)
    pairs = np.array([[(digit > other) + (digit == other) / 2 for other in others] for digit in digits])
    components = pairs.mean(1), pairs.mean(0)  # DeLong et al. 1988: of each digit, and of each other image
    variance = sum(np.var(values, ddof=1) / len(values) for values in components)
    assert found.standard_error == pytest.approx(math.sqrt(variance))


@pytest.mark.parametrize(("digits", "others"), [(360, 300), (60, 300), (300, 60)])
def test_the_error_of_the_auroc_is_its_spread_over_repeated_samples(digits: int, others: int) -> None:
    random = np.random.default_rng(0)
    drawn = [auroc(random.normal(1, 1, digits), random.normal(0, 2, others)) for _ in range(400)]
    spread = np.std([found.value for found in drawn])
    # The relative error of the spread of 400 values is 1/√800 = 0.035; the tolerance is four times that.
    assert np.mean([found.standard_error or 0 for found in drawn]) == pytest.approx(spread, rel=0.14)


def test_perfect_separation_is_1_and_ties_are_a_half() -> None:
    digits = np.array([5.0, 6.0])
    assert auroc(digits, np.array([1.0, 2.0])) == (1, 0)
    assert auroc(digits, np.array([7.0, 8.0])) == (0, 0)
    assert auroc(np.array([1.0, 1.0]), np.array([1.0, 1.0])) == (0.5, 0)


@pytest.mark.parametrize(("digits", "others"), [([1.0, 2.0], [0.0]), ([2.0], [0.0, 1.0]), ([2.0], [0.0])])
def test_one_digit_or_one_other_image_has_no_standard_error(digits: list[float], others: list[float]) -> None:
    assert auroc(np.array(digits), np.array(others)) == (1, None)


def test_a_summary_has_the_median_and_the_fraction_of_trusted_images() -> None:
    log_px = np.arange(80.0) ** 2
    table = pd.DataFrame({"kind": "noise", "log_px": log_px, "trusted": np.arange(80) < 20})
    digits = np.arange(40.0, 100.0)
    (row,) = summarise_probes(table, digits)
    assert (row.kind, row.images, row.median, row.trusted) == ("noise", 80, (39**2 + 40**2) / 2, 0.25)
    assert (row.auroc, row.auroc_se) == auroc(digits, log_px)


def test_images_without_a_finite_log_px_do_not_affect_median_and_auroc() -> None:
    digits = np.array([1.0, 2.0, 3.0])
    some = pd.DataFrame({"kind": "some", "log_px": [0.0, np.nan, 4.0, -np.inf], "trusted": [True, False, True, False]})
    none = pd.DataFrame({"kind": "none", "log_px": [np.nan], "trusted": [False]})
    (row,) = summarise_probes(pd.concat([some, none]), digits)
    assert (row.kind, row.images, row.median, row.trusted, row.auroc) == ("some", 4, 2.0, 0.5, 0.5)
