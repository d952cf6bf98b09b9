"""What the figures of a model show: images at their places, labels, curves."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from pipeline.report import model_plots
from pipeline.report.plotting import BLUE, ORANGE
from tests.pipeline.report.artists import Panel, cell, legend, panels, texts, x_of, y_of


def images(*shape: int) -> np.ndarray:
    """Images of 4 × 3 pixels in [0, 1]."""
    return np.random.default_rng(0).random((*shape, 4, 3))


def at(panel: Panel, row: int, column: int) -> np.ndarray:
    return cell(panel, row, column, 4, 3)


def history(epochs: int = 10, kept: int = 7) -> pd.DataFrame:
    epoch = np.arange(1, epochs + 1)
    columns = {"epoch": epoch, "best": epoch <= kept}
    for i, term in enumerate(("elbo", "reconstruction", "kl")):
        columns[f"train_{term}"] = 100.0 * i - 5000.0 / epoch**4
        columns[f"validation_{term}"] = 90.0 * i - 4000.0 / epoch**4
    return pd.DataFrame(columns)


def test_each_row_of_images_is_above_its_reconstructions() -> None:
    originals, decoded = images(5), images(5) / 2
    (panel,) = panels(model_plots.reconstructions(originals, decoded, 3))
    assert texts(panel.get_yticklabels()) == ["x", "f(μ(x))", "x", "f(μ(x))"]
    for i in range(5):
        assert np.array_equal(at(panel, 2 * (i // 3), i % 3), originals[i])
        assert np.array_equal(at(panel, 2 * (i // 3) + 1, i % 3), decoded[i])
    assert not at(panel, 3, 2).any()


def test_interpolations_are_straight_on_the_left_and_circular_on_the_right() -> None:
    linear, spherical = images(2, 5), images(2, 5) / 2
    left, right = panels(model_plots.interpolations(linear, spherical))
    assert (left.get_title(), right.get_title()) == ("straight line", "great circle")
    assert np.array_equal(at(left, 1, 4), linear[1, 4])
    assert np.array_equal(at(right, 1, 4), spherical[1, 4])
    assert texts(left.get_xticklabels()) == ["0", "", "0.5", "", "1"]


def test_a_traversal_names_its_coordinates_and_their_values() -> None:
    z = images(2, 3)
    (panel,) = panels(model_plots.traversals(z, ["z[4], KL 3.2 nats", "z[1], KL 0.5 nats"], [-3.0, 0.0, 3.0]))
    assert texts(panel.get_yticklabels()) == ["z[4], KL 3.2 nats", "z[1], KL 0.5 nats"]
    assert texts(panel.get_xticklabels()) == ["−3.0", "+0.0", "+3.0"]
    assert np.array_equal(at(panel, 1, 2), z[1, 2])


def test_the_manifold_runs_rightwards_and_upwards() -> None:
    plane = images(4, 4)
    (panel,) = panels(model_plots.manifold(plane, [-1.5, -0.5, 0.5, 1.5], "z"))
    assert texts(panel.get_xticklabels()) == ["−1.5", "−0.5", "0.5", "1.5"]
    assert texts(panel.get_yticklabels()) == ["1.5", "0.5", "−0.5", "−1.5"]
    assert panel.yaxis_inverted()  # the first row of images, and its label, are at the top
    assert panel.get_xlabel().startswith("z₁")
    assert panel.get_ylabel().startswith("z₂")
    assert np.array_equal(at(panel, 0, 3), plane[0, 3])


def test_every_class_has_its_own_plane() -> None:
    planes = images(6, 3, 3)
    axes = panels(model_plots.manifolds(planes, [0, 1, 2, 3, 4, 7], "ε"))
    assert [panel.get_title() for panel in axes[:6]] == [f"class {label}" for label in (0, 1, 2, 3, 4, 7)]
    for panel, plane in zip(axes, planes, strict=False):
        assert np.array_equal(at(panel, 2, 1), plane[2, 1])
    assert not any(panel.has_data() for panel in axes[6:])  # eight places for six classes


def test_each_column_of_digits_is_a_class() -> None:
    grid = images(2, 3)
    (panel,) = panels(model_plots.digits(grid, [0, 1, 4]))
    assert texts(panel.get_xticklabels()) == ["0", "1", "4"]
    assert panel.get_xlabel() == "class asked for"
    assert np.array_equal(at(panel, 1, 2), grid[1, 2])


def test_analogies_are_right_of_their_digit_and_its_own_class_has_a_frame() -> None:
    originals, grid = images(3), images(3, 2) / 2
    (panel,) = panels(model_plots.analogies(originals, grid, [4, 9, 2], [2, 4]))
    assert texts(panel.get_xticklabels()) == ["x", "", "2", "4"]
    for row in range(3):
        assert np.array_equal(at(panel, row, 0), originals[row])
        assert not at(panel, row, 1).any()
        assert np.array_equal(at(panel, row, 3), grid[row, 1])
    # Images of 4 × 3 pixels with 2 between them. Class 9 has no column, so its row has no frame.
    places = [(frame.get_x() + 1.5, frame.get_y() + 1.5) for frame in panel.patches]
    assert places == [(3 * 5, 0 * 6), (2 * 5, 2 * 6)]


def test_drawn_images_are_above_their_neighbours_with_the_distance() -> None:
    drawn, nearest = images(5), images(5) / 2
    above, below = panels(model_plots.neighbours(drawn, nearest, np.array([0.125, 0.2, 0.3, 0.4, 0.5]), 3))
    assert texts(above.get_yticklabels()) == ["drawn", "nearest"]
    assert texts(above.get_xticklabels()) == ["0.12", "0.20", "0.30"]
    assert texts(below.get_xticklabels()) == ["0.40", "0.50", ""]
    assert np.array_equal(at(below, 0, 1), drawn[4])
    assert np.array_equal(at(below, 1, 1), nearest[4])
    assert not at(below, 1, 2).any()
    assert "root mean square" in below.get_xlabel()


def test_entanglement_is_numbers_on_colours() -> None:
    values, reference = np.array([[10.0, 0.25], [1.0, 2.0]]), np.array([20.0, 0.5])
    figure = model_plots.entanglement(
        values, reference, np.array([20.0, 1.0]), ["ε[3]", "ε[0]"], {"slant": 1, "width": 2}, "from a to b"
    )
    panel, bar = panels(figure)
    assert texts(panel.get_yticklabels()) == ["all drawn anew", "ε[3]", "ε[0]"]
    assert texts(panel.get_xticklabels()) == ["slant", "width"]
    assert texts(panel.texts) == ["20.0", "0.50", "10.0", "0.25", "1.0", "2.00"]
    assert np.asarray(panel.images[0].get_array()) == pytest.approx(np.array([[1, 0.5], [0.5, 0.25], [0.05, 1]]))
    assert [text.get_color() for text in panel.texts] == ["white", "black", "black", "black", "black", "white"]
    assert panel.get_xlabel().endswith("moves from a to b")
    assert bar.get_ylabel()


def test_each_class_has_its_colour_and_its_number_at_its_median() -> None:
    random = np.random.default_rng(0)
    labels = np.arange(120) % 12  # more classes than colours
    points = random.standard_normal((120, 2))
    (panel,) = panels(model_plots.latent_space(points, labels, ("across", "up")))
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("across", "up")
    assert texts(panel.texts) == [str(label) for label in range(12)]
    for label, (text, dots) in enumerate(zip(panel.texts, panel.collections, strict=True)):
        of_class = points[labels == label]
        assert np.array_equal(np.asarray(dots.get_offsets()), of_class)
        assert text.get_position() == pytest.approx(tuple(np.median(of_class, axis=0)))
        assert text.get_bbox_patch().get_edgecolor()[:3] == pytest.approx(tuple(dots.get_facecolor()[0][:3]))


def test_training_curves_show_every_epoch_and_the_one_kept() -> None:
    table = history(kept=7)
    axes = panels(model_plots.training_curves(table))
    assert {(panel.get_xlabel(), panel.get_ylabel()) for panel in axes} == {("epoch", "nats per image")}
    assert [panel.get_title() for panel in axes] == ["ELBO", "reconstruction, E log p(x | z)", "KL[q(z | x) ‖ p(z)]"]
    for panel, term in zip(axes, ("elbo", "reconstruction", "kl"), strict=True):
        train, validation, kept = panel.lines
        assert np.array_equal(y_of(train), table[f"train_{term}"])
        assert np.array_equal(y_of(validation), table[f"validation_{term}"])
        assert list(x_of(kept)) == [7, 7]
        assert panel.get_ylabel() == "nats per image"
        assert (train.get_color(), validation.get_color()) == (BLUE, ORANGE)
    assert legend(axes[0]) == ["train", "validation", "epoch 7, kept"]


def test_the_axis_of_a_training_curve_fits_the_later_epochs() -> None:
    table = history()
    panel = panels(model_plots.training_curves(table))[0]
    low, high = panel.get_ylim()
    values = table[["train_elbo", "validation_elbo"]].to_numpy()
    assert values[0].max() < low
    assert low < values[2:].min()
    assert values[2:].max() < high


@pytest.mark.parametrize("epochs", [1, 2])
def test_training_curves_of_few_epochs_have_an_axis(epochs: int) -> None:
    table = history(epochs, kept=1)
    table["validation_kl"] = table["train_kl"] = 5.0  # the same everywhere
    for panel in panels(model_plots.training_curves(table)):
        low, high = panel.get_ylim()
        assert low < high
        assert all(low < value < high for line in panel.lines[:2] for value in y_of(line))


def test_the_overview_has_reconstructions_samples_and_the_elbo() -> None:
    originals, decoded, samples, table = images(32), images(32) / 2, images(8, 8), history()
    left, middle, right = panels(model_plots.overview(originals, decoded, samples, table, "f(z), z ~ N(0, I)"))
    assert np.array_equal(at(left, 2, 1), originals[9])
    assert np.array_equal(at(left, 3, 1), decoded[9])
    assert np.array_equal(at(middle, 7, 6), samples[7, 6])
    assert np.array_equal(y_of(right.lines[0]), table["train_elbo"])
    assert np.array_equal(y_of(right.lines[1]), table["validation_elbo"])
    assert legend(right) == ["train", "validation"]
    assert [panel.get_title() for panel in (left, middle, right)] == [
        "test images, each above its reconstruction", "samples: f(z), z ~ N(0, I)", "ELBO",
    ]  # fmt: skip
    assert all(b - a == pytest.approx(round(b - a)) for a, b in pairwise(right.get_xticks()))
