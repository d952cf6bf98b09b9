"""log p(x) as the sum over labels: its error, its verdict, and the likeliest label."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from logpx.block import Settings
from pipeline.evaluation.every_label import DOUBT, Columns, given_label, sum_over_labels
from pipeline.model.vae import VAE
from tests.support import flat_format, model_settings

SETTINGS = Settings(samples=64, budget=256)


def make_vae(*shares: float) -> VAE:
    return VAE(model_settings(latent=2, condition="label", encoder=[], decoder=[]), flat_format(3), shares)


class Fake:
    """Estimates from a table (classes, images), and a record of what was asked for. Image i has x = i."""

    def __init__(self, log_px: Tensor, error: Tensor | None = None, trusted: Tensor | None = None) -> None:
        self.log_px = log_px.double()
        self.error = torch.full_like(self.log_px, 0.1) if error is None else error.double()
        self.trusted = torch.ones_like(self.log_px, dtype=torch.bool) if trusted is None else trusted
        self.asked: list[tuple[str, list[int], Settings]] = []

    @property
    def x(self) -> Tensor:
        return torch.arange(self.log_px.shape[1]).float()[:, None].expand(-1, 3)

    def __call__(self, name: str, x: Tensor, y: Tensor, settings: Settings) -> Columns:
        images = x[:, 0].long()
        self.asked.append((name, images.tolist(), settings))
        assert y.dtype == torch.long
        return self.columns(images, y)

    def columns(self, images: Tensor, y: Tensor) -> Columns:
        return {
            "log_px": self.log_px[y, images], "standard_error": self.error[y, images],
            "trusted": self.trusted[y, images],
        }  # fmt: skip


def test_every_label_is_measured_once_and_the_own_one_is_taken_as_known() -> None:
    fake, y = Fake(torch.randn(3, 5)), torch.tensor([1, 0, 1, 1, 2])
    known = fake.columns(torch.arange(5), y)
    found = sum_over_labels(make_vae(0.2, 0.3, 0.5), fake, fake.x, SETTINGS, known, y)
    # Each label has its own noise.
    fewer = [replace(SETTINGS, budget=64, rescue=False, seed=SETTINGS.seed + 1 + label) for label in range(3)]
    assert fake.asked == [
        ("label 0", [0, 2, 3, 4], fewer[0]), ("label 1", [1, 4], fewer[1]), ("label 2", [0, 1, 2, 3], fewer[2]),
    ]  # fmt: skip
    without = sum_over_labels(make_vae(0.2, 0.3, 0.5), fake, fake.x, SETTINGS)
    assert fake.asked[3:] == [(f"label {label}", [0, 1, 2, 3, 4], fewer[label]) for label in range(3)]
    for name, values in found.items():
        assert torch.equal(values, without[name])


def test_a_label_that_all_images_have_is_not_measured_again() -> None:
    fake, y = Fake(torch.randn(2, 4)), torch.ones(4).long()
    sum_over_labels(make_vae(0.5, 0.5), fake, fake.x, SETTINGS, fake.columns(torch.arange(4), y), y)
    assert [name for name, *_ in fake.asked] == ["label 0"]


def test_the_sum_has_the_shares_of_the_classes() -> None:
    """log Σ_y p(y) p(x | y), computed from the densities themselves; the likeliest label has the largest term."""
    log_px, shares = torch.tensor([[0.3, -2.0, 1.0], [1.0, 0.5, 1.2], [-1.0, 0.0, 0.9]]), (0.7, 0.1, 0.2)
    fake = Fake(log_px)
    found = sum_over_labels(make_vae(*shares), fake, fake.x, SETTINGS)
    densities = torch.tensor(shares).double()[:, None] * log_px.double().exp()
    torch.testing.assert_close(found["log_px"], densities.sum(0).log(), rtol=0, atol=1e-7)
    assert found["predicted"].tolist() == densities.argmax(0).tolist() == [0, 2, 0]
    assert found["log_px"].dtype == torch.float64


def test_the_error_is_that_of_the_sum_to_first_order(generator: torch.Generator) -> None:
    """Against the spread of sums whose terms have independent errors; 20 000 draws give it to 0.5 %."""
    log_px, error = torch.tensor([[0.0], [0.5], [-3.0]]), torch.tensor([[0.02], [0.01], [0.03]])
    fake, shares = Fake(log_px, error), (0.2, 0.3, 0.5)
    found = sum_over_labels(make_vae(*shares), fake, fake.x, SETTINGS)["log_px_se"]
    drawn = log_px + error * torch.randn(3, 20_000, generator=generator)
    spread = (torch.tensor(shares).log()[:, None] + drawn).double().logsumexp(0).std()
    assert float(found[0]) == pytest.approx(float(spread), rel=0.03)


@pytest.mark.parametrize(("doubtful", "trusted"), [(0.5 * DOUBT, True), (2 * DOUBT, False)])
def test_an_image_is_trusted_unless_doubtful_labels_are_a_part_of_it(doubtful: float, trusted: bool) -> None:
    """Whichever label it is: two of them may be too much together."""
    p = torch.tensor([1 - doubtful, doubtful / 2, doubtful / 2])
    for own in range(3):
        order = torch.arange(3).roll(own)
        fake = Fake(p[order].log()[:, None], trusted=(order == 0)[:, None])
        found = sum_over_labels(make_vae(1 / 3, 1 / 3, 1 / 3), fake, fake.x, SETTINGS)
        assert found["trusted"].tolist() == [trusted]


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_label_without_an_estimate_adds_nothing_and_the_sum_is_not_trusted(value: float) -> None:
    """It may have any part of p(x), so the others are a lower bound."""
    log_px = torch.tensor([[-1.0, -1.0], [value, -2.0]])
    fake = Fake(log_px, error=torch.tensor([[0.1, 0.1], [math.nan, 0.1]]), trusted=log_px.isfinite())
    found = sum_over_labels(make_vae(0.5, 0.5), fake, fake.x, SETTINGS)
    assert found["trusted"].tolist() == [False, True]
    assert float(found["log_px"][0]) == pytest.approx(-1 + math.log(0.5))
    assert float(found["log_px_se"][0]) == pytest.approx(0.1)
    assert found["predicted"][0] == 0


def test_a_class_without_training_images_is_not_measured() -> None:
    fake = Fake(torch.tensor([[-1.0], [0.0], [-2.0]]))
    found = sum_over_labels(make_vae(0.5, 0.0, 0.5), fake, fake.x, SETTINGS)
    assert [name for name, *_ in fake.asked] == ["label 0", "label 2"]
    assert found["trusted"].tolist() == [True]
    assert float(found["log_px"]) == pytest.approx(math.log(0.5 * math.exp(-1) + 0.5 * math.exp(-2)))


def test_an_infinite_density_is_not_finite_in_the_sum_either() -> None:
    """So that the image is counted as not finite."""
    fake = Fake(torch.tensor([[-1.0], [math.inf]]))
    found = sum_over_labels(make_vae(0.5, 0.5), fake, fake.x, SETTINGS)
    assert not found["log_px"].isfinite().any()
    assert not found["trusted"].any()


def test_an_image_without_any_estimate_has_no_density_and_is_not_trusted() -> None:
    fake = Fake(torch.full((2, 1), math.nan), trusted=torch.zeros(2, 1, dtype=torch.bool))
    found = sum_over_labels(make_vae(0.5, 0.5), fake, fake.x, SETTINGS)
    assert not found["log_px"].isfinite().any()
    assert not found["trusted"].any()


def test_a_table_of_conditional_densities_takes_the_place_of_that_of_sums() -> None:
    table = pd.DataFrame({
        "label": [3, 4], "elbo": [1.0, 2.0], "log_px": [5.0, 6.0], "log_px_se": [0.1, 0.2], "trusted": [True, False],
        "log_px_given_label": [7.0, 8.0], "log_px_se_given_label": [0.3, 0.4], "trusted_given_label": [False, True],
    })  # fmt: skip
    expected = pd.DataFrame({
        "label": [3, 4], "elbo": [1.0, 2.0], "log_px": [7.0, 8.0], "log_px_se": [0.3, 0.4], "trusted": [False, True],
    })  # fmt: skip
    pd.testing.assert_frame_equal(given_label(table), expected, check_like=True)
    assert table["log_px"].tolist() == [5.0, 6.0]  # it makes another table
    pd.testing.assert_frame_equal(given_label(expected), expected)
    assert np.isfinite(given_label(table)["log_px_se"]).all()
