"""AUROC against scikit-learn, and summaries of kinds of images."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from pipeline.evaluation.auroc import auroc, summarise_probes


def test_the_auroc_is_that_of_scikit_learn_and_its_error_that_of_a_mean() -> None:
    random = np.random.default_rng(0)
    digits, others = random.normal(1, 1, 500).round(1), random.normal(0, 1, 80).round(1)  # rounding makes ties
    found = auroc(digits, others)
    truth = np.r_[np.ones(len(digits)), np.zeros(len(others))]
    assert found.value == pytest.approx(roc_auc_score(truth, np.r_[digits, others]), abs=1e-12)
    fractions = [((digits > x).mean() + (digits >= x).mean()) / 2 for x in others]
    assert found.standard_error == pytest.approx(np.std(fractions, ddof=1) / len(others) ** 0.5)


def test_perfect_separation_is_1_and_ties_are_a_half() -> None:
    digits = np.array([1.0, 2.0])
    assert auroc(digits, np.array([-1.0, 0.0])) == (1, 0)
    assert auroc(digits, np.array([3.0, 4.0])) == (0, 0)
    assert auroc(np.array([1.0, 1.0]), np.array([1.0, 1.0])) == (0.5, 0)


def test_one_image_has_no_standard_error() -> None:
    assert np.isnan(auroc(np.array([1.0, 2.0]), np.array([0.0])).standard_error)


def test_a_summary_has_the_median_and_the_fraction_of_trusted_images() -> None:
    table = pd.DataFrame({"kind": "noise", "log_px": np.arange(80.0), "trusted": np.arange(80) < 20})
    digits = np.arange(40.0, 100.0)
    (row,) = summarise_probes(table, digits)
    assert (row.kind, row.images, row.median, row.trusted) == ("noise", 80, 39.5, 0.25)
    assert (row.auroc, row.auroc_se) == auroc(digits, np.arange(80.0))


def test_images_without_a_finite_log_px_do_not_affect_median_and_auroc() -> None:
    digits = np.array([1.0, 2.0, 3.0])
    some = pd.DataFrame({"kind": "some", "log_px": [0.0, np.nan, 4.0, -np.inf], "trusted": [True, False, True, False]})
    none = pd.DataFrame({"kind": "none", "log_px": [np.nan], "trusted": [False]})
    (row,) = summarise_probes(pd.concat([some, none]), digits)
    assert (row.kind, row.images, row.median, row.trusted, row.auroc) == ("some", 4, 2.0, 0.5, 0.5)
