"""Grids of images, and how figures are saved."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from pipeline.report import plotting
from pipeline.report.plotting import GAP, grid, in_rows, integer_ticks, minus, montage, new, save, show


def images(rows: int, columns: int) -> np.ndarray:
    """Images of 3 × 2 pixels, each with its own grey value."""
    greys = np.linspace(0.1, 1.0, rows * columns).reshape(rows, columns, 1, 1)
    return greys * np.ones((1, 1, 3, 2))


def test_a_sheet_has_every_image_at_its_place_and_white_between_them() -> None:
    grid_of_images = images(2, 3)
    sheet = montage(grid_of_images)
    assert sheet.shape == (2 * 3 + GAP, 3 * 2 + 2 * GAP)
    for r in range(2):
        for c in range(3):
            top, left = r * (3 + GAP), c * (2 + GAP)
            assert np.array_equal(sheet[top : top + 3, left : left + 2], grid_of_images[r, c])
    assert np.count_nonzero(sheet) == 6 * 3 * 2


def test_images_are_drawn_dark_on_white_on_a_fixed_scale() -> None:
    _, axes = new(2.0, 2.0)
    show(axes[0, 0], images(1, 2) / 2)
    (drawn,) = axes[0, 0].images
    assert drawn.get_clim() == (0, 1)
    assert drawn.cmap(0.0)[:3] == (1, 1, 1)
    assert drawn.cmap(1.0)[:3] == (0, 0, 0)


def test_labels_stand_at_the_centres_of_rows_and_columns() -> None:
    figure = grid(images(2, 3), row_labels=["a", "b"], column_labels=["1", "2", "3"])
    (panel,) = figure.axes
    assert [text.get_text() for text in panel.get_yticklabels()] == ["a", "b"]
    assert list(panel.get_yticks()) == [1.5, 1.5 + 3 + GAP]
    assert [text.get_text() for text in panel.get_xticklabels()] == ["1", "2", "3"]
    assert list(panel.get_xticks()) == [1, 1 + 2 + GAP, 1 + 2 * (2 + GAP)]
    assert not list(grid(images(2, 3)).axes[0].get_xticks())


def test_the_last_row_is_filled_up_with_white() -> None:
    rows = in_rows(images(1, 5)[0], 3)
    assert rows.shape == (2, 3, 3, 2)
    assert np.array_equal(rows.reshape(6, 3, 2)[:5], images(1, 5)[0])
    assert not rows[1, 2].any()


def test_colour_images_are_drawn_as_they_are_between_white() -> None:
    colours = np.random.default_rng(0).random((2, 3, 4, 5, 3)) / 2
    sheet = montage(colours)
    assert sheet.shape == (2 * 4 + GAP, 3 * 5 + 2 * GAP, 3)
    assert np.array_equal(sheet[4 + GAP :, 5 + GAP : 10 + GAP], colours[1, 1])
    assert (sheet[4 : 4 + GAP] == 1).all()
    rows = in_rows(colours[0], 2)
    assert rows.shape == (2, 2, 4, 5, 3)
    assert (rows[1, 1] == 1).all()
    (drawn,) = grid(colours).axes[0].images
    assert np.array_equal(np.asarray(drawn.get_array()), sheet)


def test_a_row_of_colour_images_is_written(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 3)) / 255
    (tmp_path / "strip.png").write_bytes(plotting.strip(colours))
    sheet = imread(tmp_path / "strip.png")[..., :3]
    assert np.stack(np.split(sheet, 3, axis=1)) == pytest.approx(colours, abs=1e-6)


def test_epochs_have_whole_numbers_as_ticks() -> None:
    _, axes = new(3.0, 2.0)
    axes[0, 0].plot([1, 2, 3], [0, 1, 2])
    integer_ticks(axes[0, 0])
    assert all(float(tick).is_integer() for tick in axes[0, 0].get_xticks())


@pytest.mark.parametrize(
    ("text", "expected"), [("-1,000", "−1,000"), ("+1", "+1"), ("best -2.0 nats", "best −2.0 nats")]
)
def test_hyphens_become_minus_signs(text: str, expected: str) -> None:
    assert minus(text) == expected


def test_a_figure_saved_twice_is_the_same_file_without_metadata(tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        save(grid(images(2, 2)), tmp_path / name)
    content = (tmp_path / "one.png").read_bytes()
    assert content == (tmp_path / "two.png").read_bytes()
    assert b"tEXt" not in content
    assert b"tIME" not in content


def test_a_row_of_images_is_written_and_read(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 5, 4)) / 255
    (tmp_path / "strip.png").write_bytes(plotting.strip(images))
    assert plotting.read_strip(tmp_path / "strip.png", 3) == pytest.approx(images)
    assert plotting.strip(images) == plotting.strip(images)
