"""Probes are what their names say."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from pipeline.datasets import Dataset
from pipeline.probes import PROBES, Digits, summary


@pytest.fixture
def digits(tiny: Dataset, generator: torch.Generator) -> Digits:
    return Digits(tiny.test_images, tiny.test_labels, tiny.levels, generator)


@pytest.mark.parametrize("kind", list(PROBES))
def test_every_kind_has_the_size_and_levels_of_the_digits(digits: Digits, kind: str) -> None:
    made = PROBES[kind](digits)
    assert made.shape == digits.images.shape
    assert made.dtype == torch.uint8
    assert int(made.max()) < digits.levels


def test_noise_uses_all_levels(digits: Digits) -> None:
    assert len(PROBES["uniform noise"](digits).unique()) == digits.levels


def test_permuting_keeps_each_images_ink(digits: Digits) -> None:
    made = PROBES["permuted pixels"](digits)
    assert torch.equal(made.flatten(1).sort(1).values, digits.images.flatten(1).sort(1).values)
    assert (made != digits.images).any(-1).any(-1).all()


def test_upside_down_twice_is_the_digit(digits: Digits) -> None:
    twice = PROBES["upside down"](digits._replace(images=PROBES["upside down"](digits)))
    assert torch.equal(twice, digits.images)


def test_chimeras_are_halves_of_two_classes(digits: Digits) -> None:
    made, half = PROBES["chimeras"](digits), digits.images.shape[-1] // 2
    assert torch.equal(made[..., :half], digits.images[..., :half])
    for image, label in zip(made, digits.labels, strict=True):
        origin = (digits.images[..., half:] == image[..., half:]).flatten(1).all(1)
        assert (digits.labels[origin] != label).any()
    alone = digits._replace(labels=torch.zeros_like(digits.labels))
    assert PROBES["chimeras"](alone).shape == digits.images.shape


def test_blank_images_have_no_ink(digits: Digits) -> None:
    assert PROBES["blank"](digits).sum() == 0


def test_probes_have_the_auroc_of_scikit_learn_and_the_error_of_a_mean() -> None:
    rng = np.random.default_rng(0)
    digits, others = rng.normal(1, 1, 500).round(1), rng.normal(0, 1, 80).round(1)  # rounded, for ties
    table = pd.DataFrame({"kind": "noise", "log_px": others, "trusted": np.arange(80) < 20})
    (row,) = summary(table, digits)
    truth = np.r_[np.ones(len(digits)), np.zeros(len(others))]
    assert row.auroc == pytest.approx(roc_auc_score(truth, np.r_[digits, others]), abs=1e-12)
    shares = [((digits > x).mean() + (digits >= x).mean()) / 2 for x in others]
    assert row.auroc_se == pytest.approx(np.std(shares, ddof=1) / len(others) ** 0.5)
    assert (row.kind, row.images, row.trusted) == ("noise", 80, 0.25)
    assert row.median == np.median(others)
    (alone,) = summary(table.head(1), digits)
    assert np.isnan(alone.auroc_se)


def test_images_without_a_finite_number_are_in_no_median_and_no_order() -> None:
    digits = np.array([1.0, 2.0, 3.0])
    some = pd.DataFrame({"kind": "some", "log_px": [0.0, np.nan, 4.0, -np.inf], "trusted": [True, False, True, False]})
    none = pd.DataFrame({"kind": "none", "log_px": [np.nan], "trusted": [False]})
    (row,) = summary(pd.concat([some, none]), digits)
    assert (row.kind, row.images, row.median, row.trusted, row.auroc) == ("some", 4, 2.0, 0.5, 0.5)
