"""What the figures of estimates show: bars, lines, texts and their places."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

from pipeline.evaluation.ladder import Rung
from pipeline.report import estimate_plots
from pipeline.report.plotting import BLUE, GREY, ORANGE, NotDrawnError
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
    assert whole.get_subplotspec().rowspan.start == 0  # above the images
    shown = values[values >= np.quantile(values, 0.005)]
    assert sum(bar_heights(whole.patches)) == len(shown) == 398
    assert min(bar.get_x() for bar in whole.patches) == pytest.approx(shown.min())
    assert (least.get_title(), most.get_title()) == ("the least likely test images", "the most likely test images")


@pytest.mark.parametrize("other", [np.nan, np.inf, -np.inf])
def test_images_that_are_not_finite_are_not_in_the_histogram_but_are_counted(other: float) -> None:
    values = np.linspace(0.0, 10.0, 400)
    expected, found = (
        estimate_plots.log_px(shown, images(14), images(14)) for shown in (values, np.append(values, [other] * 3))
    )
    assert legend(panels(found)[2]) == ["mean 5.0"]
    assert bar_heights(panels(found)[2].patches) == bar_heights(panels(expected)[2].patches)
    assert expected.get_supxlabel() == ""
    assert found.get_supxlabel() == "not finite, and left out: test images (3)"
    with pytest.raises(NotDrawnError, match=r"no test image has a finite log p\(x\)"):
        estimate_plots.log_px(np.full(2, other), images(14), images(14))


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
    assert "decoder evaluations per image" in panel.get_xlabel()
    assert "nats per image" in panel.get_ylabel()
    worst = min(float(np.min(y_of(line))) for line in panel.lines)
    assert panel.get_ylim()[0] < worst
    labels = texts(panel.get_yticklabels())
    assert labels == ["+1", "+0.5", "0", "−0.5", "−1", "−10", "−100", "−1,000", "−10,000"]


def test_points_that_are_not_finite_are_not_drawn_but_are_counted() -> None:
    table = curves()
    table.loc[table["method"] == "prior", "log_px"] = np.nan
    table.loc[(table["method"] == "mixture") & (table["evaluations"] == 100), "low"] = np.nan
    figure = estimate_plots.convergence(table)
    (panel,) = panels(figure)
    best = 800.0 - 1 / 10  # the last finite point of the mixture
    assert [list(x_of(line)) for line in panel.lines[:-1]] == [[10, 100], [10, 100], [10], [10, 100]]
    assert y_of(panel.lines[0]) == pytest.approx(np.array([760.0, 796.0]) - best)
    assert "best estimate: 799.9 nats" in texts(panel.texts)
    assert figure.get_supxlabel() == "not finite, and left out: points (3)"
    with pytest.raises(NotDrawnError, match="mixture"):
        estimate_plots.convergence(pd.DataFrame(table[table["method"] != "mixture"]))
    with pytest.raises(NotDrawnError, match="no row has finite numbers"):
        estimate_plots.convergence(table.assign(log_px=np.nan))


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
    assert khat.get_xlabel().startswith("Pareto k̂")
    assert ess.get_xlabel().startswith("effective sample size")
    for bars, values in zip(ess.containers, ([100, 200, 30], [5, 50, 1]), strict=True):
        for value in values:
            (bar,) = [bar for bar in bars if bar.get_x() <= value < bar.get_x() + bar.get_width()]
            assert bar.get_height() == 1
    assert legend(ess) == ["trusted", "not trusted", "minimum, 10"]
    assert [x_of(line)[0] for line in khat.lines] == [0.58, 0.7]
    assert [x_of(line)[0] for line in ess.lines] == [10.0]
    assert texts(khat.texts) == ["limit for K = 256", "limit for K = 4096"]


def test_the_diagnostics_of_images_that_are_not_finite_are_not_drawn_but_are_counted() -> None:
    table = diagnosed()
    more = pd.concat([table, pd.DataFrame({"khat": [np.inf, np.nan], "ess": [np.nan, 5.0], "trusted": False})])
    expected, found = (estimate_plots.diagnostics(shown, {256: 0.58}, 10.0) for shown in (table, more))
    for before, after in zip(panels(expected), panels(found), strict=True):
        for one, other in zip(before.containers, after.containers, strict=True):
            assert bar_heights(one) == bar_heights(other)
            assert [bar.get_x() for bar in one] == [bar.get_x() for bar in other]
    assert found.get_supxlabel() == "not finite, and left out: test images (2)"
    assert expected.get_supxlabel() == ""


def test_a_bar_of_one_image_would_be_visible_on_the_logarithmic_axis() -> None:
    many = pd.concat([diagnosed()] * 20)
    for panel in panels(estimate_plots.diagnostics(many, {256: 0.58}, 10.0)):
        assert 0 < panel.get_ylim()[0] < 1


def test_values_beyond_the_ends_are_in_the_end_bins() -> None:
    khat = panels(estimate_plots.diagnostics(diagnosed(), {256: 0.58}, 10.0))[0]
    trusted, others = khat.containers
    assert trusted[0].get_height() == 1
    assert others[-1].get_height() == 1


def test_the_minimum_of_the_effective_sample_size_is_on_the_axis_even_if_no_image_reaches_it() -> None:
    ess = panels(estimate_plots.diagnostics(diagnosed().assign(ess=2.0), {256: 0.58}, 10.0))[1]
    assert ess.containers[0][-1].get_x() + ess.containers[0][-1].get_width() == pytest.approx(20)


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
    assert texts(panel.get_yticklabels()) == ["all", "class 3", "class 8"]
    assert [text.strip() for text in texts(panel.texts)] == ["20 + 70", "15 + 55", "30 + 100"]
    widths = [[bar.get_width() for bar in container] for container in panel.containers]
    assert np.concatenate(widths) == pytest.approx([20, 70, 15, 55, 30, 100])
    assert [bar.get_x() for container in panel.containers[1::2] for bar in container] == pytest.approx([20, 15, 30])
    assert panel.yaxis_inverted()  # "all" is at the top
    assert texts(figure.legends[0].get_texts()) == ["approximation gap", "amortisation gap"]


def test_each_gap_has_its_name_and_its_colour() -> None:
    table = pd.DataFrame({"label": [3], "log_px": [10.0], "best_elbo": [7.0], "elbo": [2.0]})
    figure = estimate_plots.gaps(table)
    (panel,) = panels(figure)
    assert [text.strip() for text in texts(panel.texts)] == ["3.0 + 5.0"] * 2
    named = {container.get_label(): container[0] for container in panel.containers[:2]}
    assert {name: (bar.get_x(), bar.get_width(), bar.get_facecolor()) for name, bar in named.items()} == {
        "approximation gap": (0, 3, to_rgba(BLUE)), "amortisation gap": (3, 5, to_rgba(ORANGE)),
    }  # fmt: skip


def test_gaps_that_are_not_finite_are_not_in_the_means_but_are_counted() -> None:
    table = gap_table()
    broken = table.assign(best_elbo=[np.nan, 910.0, 670.0])
    (panel,) = panels(figure := estimate_plots.gaps(broken))
    assert texts(panel.get_yticklabels()) == ["all", "class 3", "class 8"]
    assert [text.strip() for text in texts(panel.texts)] == ["20 + 70", "10 + 40", "30 + 100"]
    assert figure.get_supxlabel() == "not finite, and left out: images (1)"
    (panel,) = panels(estimate_plots.gaps(table.assign(elbo=[810.0, 870.0, -np.inf])))
    assert texts(panel.get_yticklabels()) == ["all", "class 3"]
    with pytest.raises(NotDrawnError, match="log_px, best_elbo, elbo"):
        estimate_plots.gaps(table.assign(log_px=np.nan))


def test_small_gaps_have_a_decimal() -> None:
    (panel,) = panels(estimate_plots.gaps(gap_table(scale=0.02)))
    assert [text.strip() for text in texts(panel.texts)] == ["0.4 + 1.4", "0.3 + 1.1", "0.6 + 2.0"]


def test_every_kind_of_images_is_drawn_beside_the_digits() -> None:
    random = np.random.default_rng(0)
    digits = random.normal(800, 100, 500)
    kinds = {"noise": random.normal(-9000, 50, 40), "blank": np.append(random.normal(1300, 5, 29), 1356.5)}
    example = random.random((6, 5))
    figure = estimate_plots.densities(digits, kinds, {"noise": 1.0, "blank": 0.0}, {"blank": example}, 1356.5)
    pictures, histograms = panels(figure)[::2], panels(figure)[1::2]
    assert not pictures[0].images
    assert np.array_equal(np.asarray(pictures[1].images[0].get_array()), example)
    assert pictures[1].images[0].get_clim() == (0, 1)  # whatever the image, 0 is white and 1 is black
    for panel in histograms:
        grey, orange = panel.containers
        assert sum(bar_heights(grey)) == pytest.approx(100)
        assert sum(bar_heights(orange)) == pytest.approx(100)
        left, right = panel.get_xlim()
        assert left > right  # a larger density is further right
    assert histograms[0].get_title(loc="left") == "noise (orange), test images (grey): AUROC 1.000"
    assert not any(texts(histograms[0].get_xticklabels()))
    # The ticks are at the distance of their values from the ceiling.
    labels = texts(histograms[1].get_xticklabels())
    assert labels == ["−10,000", "−2,000", "0", "1,100", "1,300", "1,330", "1,350"]
    for tick, text in zip(histograms[1].get_xticks(), labels, strict=True):
        assert float(text.replace("−", "-").replace(",", "")) == pytest.approx(1356.5 - tick, abs=1)


def test_densities_that_are_not_finite_are_not_drawn_but_are_counted() -> None:
    digits, noise = np.linspace(700, 900, 50), np.linspace(-9000, -8000, 40)
    expected, found = (
        panels(figure)[1].containers
        for figure in (
            estimate_plots.densities(digits, {"noise": noise}, {"noise": 1.0}, {}, 1356.5),
            estimate_plots.densities(
                np.append(digits, np.nan), {"noise": np.append(noise, [np.inf, np.nan]), "blank": np.full(3, np.nan)},
                {"noise": 1.0}, {}, 1356.5,
            ),
        )
    )  # fmt: skip
    for one, other in zip(expected, found, strict=True):
        assert bar_heights(one) == bar_heights(other)
        assert [bar.get_x() for bar in one] == [bar.get_x() for bar in other]
    text = found[0][0].get_figure().get_supxlabel()
    assert text == "not finite, and left out: test images (1), noise (2), blank (3)"


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


@pytest.mark.parametrize(
    ("ceiling", "least", "most", "shown"),
    [
        # A wide range, and two narrow ones that need more ticks.
        (1356.5, 1.0, 1e6, [-300_000, -100_000, -30_000, -10_000, -2000, 0, 1100, 1300, 1330, 1350]),
        (0.0, 12.0, 60.0, [-50, -40, -30, -20]),
        (4347.5, 500.0, 1500.0, [3000, 3600, 3800]),
    ],
)
def test_ticks_of_densities_are_round(ceiling: float, least: float, most: float, shown: list[float]) -> None:
    ticks = estimate_plots._ticks(ceiling, least, most)
    assert [ceiling - tick for tick in ticks] == pytest.approx(shown)


MADE_UP = [
    Rung("worst", -20.0, 16.0, 1.0, "baseline"),
    Rung("here", 0.0, 8.0, 1.0, "this model"),
    Rung("best", 1300.5, 1.0, None, "published"),
]


def test_the_ladder_has_the_best_density_at_the_top_and_right() -> None:
    (panel,) = panels(estimate_plots.ladder(MADE_UP))
    points = [(x_of(line)[0], y_of(line)[0]) for line in panel.lines if line.get_marker() in ("o", "D")]
    assert points == [(16.0, 0), (8.0, 1), (1.0, 2)]
    left, right = panel.get_xlim()
    assert left > 16.0
    assert right < 1.0
    assert texts(panel.get_yticklabels()) == ["worst", "here", "best"]
    assert texts(panel.texts) == [
        "−20.0 nats, 16.00 bits/dim",
        "0.0 nats, 8.00 bits/dim",
        "1,300.5 nats, 1.00 bits/dim",
    ]
    assert panel.get_xscale() == "log"
    assert [label.get_weight() for label in panel.get_yticklabels()] == ["normal", "bold", "normal"]


def test_the_ladder_shows_bits_that_are_not_positive() -> None:
    (panel,) = panels(estimate_plots.ladder([*MADE_UP, Rung("more", 1500.0, -0.1, None, "ceiling")]))
    assert panel.get_xscale() == "linear"
    assert panel.get_xlim()[1] < -0.1
    (single,) = panels(estimate_plots.ladder([Rung("here", 0.0, -1.0, None, "this model")]))
    assert single.get_xlim() == (0.0, -2.0)


def test_no_ladder_of_nothing_is_drawn() -> None:
    with pytest.raises(NotDrawnError, match="no density"):
        estimate_plots.ladder([])
