"""What the panels of a study show."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from logpx.observations.gaussian import gaussian_ceiling
from studies.grids import STUDIES
from studies.panels import PANELS, plot, root_mean_square, short
from tests.pipeline.report.artists import texts, y_of

VALUES = [0.01, 0.1, 1.0]


def table(**changes: Any) -> pd.DataFrame:
    columns = {
        "value": VALUES, "sigma": VALUES, "pixels": 784, "images": 100,
        "log_px": [-18_158.0, 850.0, -700.0], "log_px_se": 3.0, "elbo": [-24_000.0, 740.0, -750.0], "elbo_se": 4.0,
        "reconstruction": [-23_900.0, 800.0, -730.0], "kl": [130.0, 58.0, 12.0],
        "trusted": [0.5, 0.99, 1.0], "ess_median": 100.0, "image_se_median": [0.02, 0.04, 0.06],
        "recognised": [0.3, 0.4, 0.5], "recognised_se": 0.005,
    }  # fmt: skip
    return pd.DataFrame(columns | changes)


def panel_of(name: str, rows: pd.DataFrame) -> Any:
    """The panel called `name`, as the first panel of a study's figure."""
    return plot(replace(STUDIES["sigma"], panels=(name, "kl", "kl", "kl")), rows).axes[0]


@pytest.mark.parametrize("name", PANELS)
def test_every_panel_has_a_title_a_unit_and_the_values_of_the_grid(name: str) -> None:
    panel = panel_of(name, table())
    assert panel.get_title()
    assert panel.get_ylabel()
    assert panel.get_xlabel() == STUDIES["sigma"].axis
    assert texts(panel.get_xticklabels()) == ["0.01", "0.1", "1"]
    assert list(panel.get_xticks()) == VALUES


def test_log_px_is_beside_the_elbo_and_below_its_ceiling() -> None:
    panel = panel_of("log_px", table())
    lines = {line.get_label(): list(y_of(line)) for line in panel.lines if not line.get_label().startswith("_")}
    assert lines["ceiling of σ"] == [gaussian_ceiling(784, sigma) for sigma in VALUES]
    intervals = {container.get_label(): list(y_of(container.lines[0])) for container in panel.containers}
    assert intervals == {"log p(x)": [-18_158, 850, -700], "ELBO": [-24_000, 740, -750]}


def test_a_value_below_the_axis_is_written_as_a_number() -> None:
    panel = panel_of("log_px", table())
    assert panel.get_ylim()[0] == -1500
    (text,) = panel.texts
    assert text.get_text() == "↓ −18,158"
    assert text.xy == (0.01, -1500)


def test_one_ceiling_for_all_experiments_is_not_drawn() -> None:
    panel = panel_of("log_px", table(sigma=0.1, log_px=800.0, elbo=700.0))
    assert [container.get_label() for container in panel.containers] == ["log p(x)", "ELBO"]
    assert "ceiling of σ" not in [line.get_label() for line in panel.lines]
    assert not panel.texts


def test_differences_are_from_the_last_experiment_with_the_error_of_sampling() -> None:
    panel = panel_of("log_px_difference", table(log_px=[838.0, 849.0, 850.0]))
    assert panel.get_title() == "log p(x) − its value with most samples (850.0)"
    (interval,) = panel.containers
    assert list(y_of(interval.lines[0])) == [-12, -1, 0]
    (bars,) = interval.lines[2]
    lengths = [segment[1][1] - segment[0][1] for segment in bars.get_segments()]
    assert lengths == pytest.approx([2 * 1.96 * error / 10 for error in (0.02, 0.04, 0.06)])


def test_the_residual_is_recovered_from_the_reconstruction_term() -> None:
    residuals = np.random.default_rng(0).normal(scale=0.3, size=784)
    sigma = 0.1
    reconstruction = -0.5 * (784 * math.log(2 * math.pi * sigma**2) + (residuals**2).sum() / sigma**2)
    row = {"pixels": 784, "sigma": sigma, "reconstruction": reconstruction}
    assert root_mean_square(row) == pytest.approx(math.sqrt((residuals**2).mean()))


def test_shares_of_images_are_in_percent() -> None:
    (line,) = panel_of("trusted", table()).lines
    assert list(y_of(line)) == [50, 99, 100]


@pytest.mark.parametrize(("value", "text"), [(0.0707107, "0.071"), (0.3, "0.3"), (16.0, "16"), (2048.0, "2048")])
def test_values_are_short_labels(value: float, text: str) -> None:
    assert short(value) == text


def test_without_gaussian_pixels_there_is_neither_a_ceiling_nor_a_residual() -> None:
    rows = table(sigma=[0.1, np.nan, np.nan])
    assert "ceiling of σ" not in [line.get_label() for line in panel_of("log_px", rows).lines]
    panel = panel_of("residual", rows)
    assert not panel.lines
    assert texts(panel.texts) == ["only Gaussian pixels\nhave a residual"]


def test_repetitions_have_their_errors_over_images_and_the_spread_between_them() -> None:
    study = replace(STUDIES["seeds"], panels=("log_px_spread", "recognised_spread", "kl", "kl"))
    axes: list[Any] = plot(study, table(value=[0.0, 1.0, 2.0], log_px=[855.0, 858.0, 861.0])).axes
    panel, recognised = axes[:2]
    assert panel.get_xscale() == "linear"
    assert list(panel.get_xticks()) == [0, 1, 2]
    (interval,) = panel.containers
    assert list(y_of(interval.lines[0])) == [855, 858, 861]
    (bars,) = interval.lines[2]
    assert [segment[1][1] - segment[0][1] for segment in bars.get_segments()] == pytest.approx([6.0] * 3)
    (band,) = panel.patches
    extents = band.get_extents().transformed(panel.transData.inverted())
    assert (extents.y0, extents.y1) == pytest.approx((855.0, 861.0))
    (shares,) = recognised.containers
    assert list(y_of(shares.lines[0])) == pytest.approx([30, 40, 50])
