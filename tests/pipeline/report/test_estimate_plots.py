"""What the figures of estimates show: bars, lines, texts and their places."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

from pipeline.report import estimate_plots
from pipeline.report.plotting import BLUE, GREY, ORANGE
from tests.pipeline.report.artists import bar_heights, legend, panels, texts, x_of, y_of


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).random((count, 4, 3))


def test_the_histogram_has_a_line_at_the_mean_of_all_images() -> None:
    values = np.concatenate([np.linspace(-100.0, 900.0, 399), [-90_000.0]])
    figure = estimate_plots.log_px(values, images(14), images(14))
    least, most, whole = panels(figure)
    (line,) = whole.lines
    assert x_of(line) == pytest.approx([values.mean()] * 2)
    assert legend(whole) == ["mean 174.0"]
    shown = values[values >= np.quantile(values, 0.005)]
    assert sum(bar_heights(whole.patches)) == len(shown) == 398
    assert min(bar.get_x() for bar in whole.patches) == pytest.approx(shown.min())
    assert (least.get_title(), most.get_title()) == ("the least likely test images", "the most likely test images")


def test_a_negative_mean_has_a_minus_sign() -> None:
    figure = estimate_plots.log_px(np.linspace(-300.0, -100.0, 50), images(14), images(14))
    assert legend(panels(figure)[2]) == ["mean −200.0"]


def curves() -> pd.DataFrame:
    rows = [
        (method, evaluations, 800.0 - shift / evaluations)
        for method, shift in (("prior", 90_000), ("encoder", 400), ("laplace", 2), ("mixture", 1), ("annealed", 5_000))
        for evaluations in (10.0, 100.0)
    ]
    table = pd.DataFrame(rows, columns=["method", "evaluations", "log_px"])
    return table.assign(low=table["log_px"] - 0.5, high=table["log_px"] + 0.5)


def test_curves_are_drawn_as_differences_from_the_best_estimate() -> None:
    table = curves()
    (panel,) = panels(estimate_plots.convergence(table))
    best = 800.0 - 1 / 100
    assert len(panel.lines) == 6  # five methods, and the best estimate
    for line, (_, curve) in zip(panel.lines, table.groupby("method", sort=False), strict=False):
        assert x_of(line) == pytest.approx(curve["evaluations"].to_numpy())
        assert y_of(line) == pytest.approx(curve["log_px"].to_numpy() - best)
    assert list(y_of(panel.lines[-1])) == [0, 0]
    assert "best estimate: 800.0 nats" in texts(panel.texts)
    for band, (_, curve) in zip(panel.collections, table.groupby("method", sort=False), strict=True):
        heights = band.get_paths()[0].vertices[:, 1] + best
        assert (heights.min(), heights.max()) == pytest.approx((curve["low"].min(), curve["high"].max()))


def test_every_method_is_named_in_the_colour_of_its_curve() -> None:
    table = curves()
    (panel,) = panels(estimate_plots.convergence(table))
    named = {text.get_text(): text.get_color() for text in panel.texts}
    for line, method in zip(panel.lines, table["method"].unique(), strict=False):
        label = estimate_plots.METHODS[method]
        assert line.get_color() == label.colour
        assert label.text == "" or named[label.text] == label.colour


def test_the_axis_of_the_curves_reaches_the_worst_estimate() -> None:
    (panel,) = panels(estimate_plots.convergence(curves()))
    worst = min(float(np.min(y_of(line))) for line in panel.lines)
    assert panel.get_ylim()[0] < worst
    labels = texts(panel.get_yticklabels())
    assert labels == ["+1", "+0.5", "0", "−0.5", "−1", "−10", "−100", "−1,000", "−10,000"]


def diagnosed() -> pd.DataFrame:
    return pd.DataFrame({
        "khat": [0.1, 0.2, 0.3, 0.65, np.inf, -np.inf],
        "ess": [100.0, 200.0, 5.0, 50.0, 1.0, 30.0],
        "trusted": [True, True, False, False, False, True],
    })  # fmt: skip


def test_the_diagnostics_count_every_image_as_trusted_or_not() -> None:
    figure = estimate_plots.diagnostics(diagnosed(), {256: 0.58, 4096: 0.7}, 10.0)
    for panel in panels(figure):
        trusted, others = panel.containers
        assert sum(bar_heights(trusted)) == 3
        assert sum(bar_heights(others)) == 3
    khat, ess = panels(figure)
    assert legend(ess) == ["trusted", "not trusted", "minimum, 10"]
    assert [x_of(line)[0] for line in khat.lines] == [0.58, 0.7]
    assert [x_of(line)[0] for line in ess.lines] == [10.0]
    assert texts(khat.texts) == ["limit for K = 256", "limit for K = 4096"]


def test_a_bar_of_one_image_would_be_visible_on_the_logarithmic_axis() -> None:
    many = pd.concat([diagnosed()] * 20)
    for panel in panels(estimate_plots.diagnostics(many, {256: 0.58}, 10.0)):
        assert 0 < panel.get_ylim()[0] < 1


def test_values_beyond_the_ends_are_in_the_end_bins() -> None:
    khat = panels(estimate_plots.diagnostics(diagnosed(), {256: 0.58}, 10.0))[0]
    trusted, others = khat.containers
    assert trusted[0].get_height() == 1
    assert others[-1].get_height() == 1


def test_a_single_number_of_samples_is_named_once() -> None:
    khat = panels(estimate_plots.diagnostics(diagnosed(), {256: 0.58}, 10.0))[0]
    assert texts(khat.texts) == ["limit for K = 256"]


def gap_table(scale: float = 1.0) -> pd.DataFrame:
    return pd.DataFrame({
        "label": [3, 3, 8],
        "log_px": [900.0, 920.0, 700.0],
        "best_elbo": [900.0 - 20 * scale, 920.0 - 10 * scale, 700.0 - 30 * scale],
        "elbo": [900.0 - 90 * scale, 920.0 - 50 * scale, 700.0 - 130 * scale],
    })  # fmt: skip


def test_the_gap_is_split_for_all_images_and_for_each_class() -> None:
    figure = estimate_plots.gaps(gap_table())
    (panel,) = panels(figure)
    assert texts(panel.get_yticklabels()) == ["all", "digit 3", "digit 8"]
    assert [text.strip() for text in texts(panel.texts)] == ["20 + 70", "15 + 55", "30 + 100"]
    widths = [[bar.get_width() for bar in container] for container in panel.containers]
    assert np.concatenate(widths) == pytest.approx([20, 70, 15, 55, 30, 100])
    assert [bar.get_x() for container in panel.containers[1::2] for bar in container] == pytest.approx([20, 15, 30])
    assert panel.yaxis_inverted()  # "all" is at the top
    assert texts(figure.legends[0].get_texts()) == ["approximation gap", "amortisation gap"]


def test_small_gaps_have_a_decimal() -> None:
    (panel,) = panels(estimate_plots.gaps(gap_table(scale=0.02)))
    assert [text.strip() for text in texts(panel.texts)] == ["0.4 + 1.4", "0.3 + 1.1", "0.6 + 2.0"]


def test_every_kind_of_images_is_drawn_beside_the_digits() -> None:
    random = np.random.default_rng(0)
    digits = random.normal(800, 100, 500)
    kinds = {"noise": random.normal(-9000, 50, 40), "blank": random.normal(1300, 5, 30)}
    example = random.random((6, 5))
    figure = estimate_plots.densities(digits, kinds, {"noise": 1.0, "blank": 0.0}, {"blank": example}, 1356.5)
    pictures, histograms = panels(figure)[::2], panels(figure)[1::2]
    assert not pictures[0].images
    assert np.array_equal(np.asarray(pictures[1].images[0].get_array()), example)
    for panel in histograms:
        grey, orange = panel.containers
        assert sum(bar_heights(grey)) == pytest.approx(100)
        assert sum(bar_heights(orange)) == pytest.approx(100)
        left, right = panel.get_xlim()
        assert left > right  # a larger density is further right
    assert histograms[0].get_title(loc="left") == "noise (orange), test digits (grey): AUROC 1.000"
    assert not any(texts(histograms[0].get_xticklabels()))
    # The ticks are at the distance of their values from the ceiling.
    for tick, text in zip(histograms[1].get_xticks(), texts(histograms[1].get_xticklabels()), strict=True):
        assert float(text.replace("−", "-").replace(",", "")) == pytest.approx(1356.5 - tick, abs=1)


def test_the_distance_of_a_kind_to_the_ceiling_is_drawn() -> None:
    values = {"noise": np.full(10, -643.5)}
    figure = estimate_plots.densities(np.full(20, 1000.0), values, {"noise": 1.0}, {}, 1356.5)
    _, orange = panels(figure)[1].containers
    (bar,) = [bar for bar in orange if bar.get_height() > 0]
    assert bar.get_x() <= 2000 <= bar.get_x() + bar.get_width()


def test_each_class_upside_down_has_its_value_above_or_below_its_point() -> None:
    (panel,) = panels(estimate_plots.upside_down({1: 0.8, 4: 0.4}))
    assert texts(panel.texts) == ["0.80", "0.40"]
    assert [text.xy for text in panel.texts] == [(1, 0.8), (4, 0.4)]
    assert [text.get_position()[1] > 0 for text in panel.texts] == [True, False]
    assert list(panel.get_xticks()) == [1, 4]
    assert list(y_of(panel.lines[0])) == [0.5, 0.5]


def test_trusted_images_and_others_have_different_colours() -> None:
    panel = panels(estimate_plots.diagnostics(diagnosed(), {256: 0.58}, 10.0))[0]
    trusted, others = panel.containers
    assert trusted[0].get_facecolor() == to_rgba(BLUE)
    assert others[0].get_facecolor() == to_rgba(ORANGE)
    assert panel.lines[0].get_color() == GREY
