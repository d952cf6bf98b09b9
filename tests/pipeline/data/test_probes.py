"""Each kind of probe is what its name says."""

import pytest
import torch

from pipeline.data.dataset import Dataset
from pipeline.data.probes import PROBES, Digits, examples
from tests.support import in_colour


@pytest.fixture
def digits(tiny: Dataset, generator: torch.Generator) -> Digits:
    return Digits(tiny.test_images, tiny.test_labels, tiny.levels, generator)


@pytest.mark.parametrize("kind", list(PROBES))
def test_every_kind_has_the_shape_and_grey_levels_of_the_digits(digits: Digits, kind: str) -> None:
    made = PROBES[kind](digits)
    assert made.shape == digits.images.shape
    assert made.dtype == torch.uint8
    assert int(made.max()) < digits.levels


def test_noise_has_all_grey_levels(digits: Digits) -> None:
    assert len(PROBES["uniform noise"](digits).unique()) == digits.levels


def test_permuting_moves_pixels_and_keeps_their_values(digits: Digits) -> None:
    made = PROBES["permuted pixels"](digits)
    assert torch.equal(made.flatten(1).sort(1).values, digits.images.flatten(1).sort(1).values)
    assert (made != digits.images).any(-1).any(-1).all()


@pytest.fixture
def coloured(tiny: Dataset, generator: torch.Generator) -> Digits:
    return Digits(in_colour(tiny).test_images, tiny.test_labels, tiny.levels, generator)


@pytest.mark.parametrize("kind", list(PROBES))
def test_every_kind_has_colours(coloured: Digits, kind: str) -> None:
    assert PROBES[kind](coloured).shape == (20, 3, 6, 5)


def test_the_colours_of_a_pixel_stay_together(coloured: Digits) -> None:
    made, before = (images.flatten(-2).mT for images in (PROBES["permuted pixels"](coloured), coloured.images))
    for image, original in zip(made.tolist(), before.tolist(), strict=True):
        assert image != original
        assert sorted(image) == sorted(original)
    turned = torch.rot90(coloured.images, 2, (-2, -1))
    assert torch.equal(PROBES["upside down"](coloured), turned)


def test_upside_down_is_a_turn_by_180_degrees(digits: Digits) -> None:
    assert torch.equal(PROBES["upside down"](digits), torch.rot90(digits.images, 2, (1, 2)))
    one = digits._replace(images=torch.tensor([[[1, 2], [3, 4]]], dtype=torch.uint8))
    assert PROBES["upside down"](one).tolist() == [[[4, 3], [2, 1]]]


def test_chimeras_join_halves_of_two_classes(digits: Digits) -> None:
    made, half = PROBES["chimeras"](digits), digits.images.shape[-1] // 2
    assert torch.equal(made[..., :half], digits.images[..., :half])
    for image, label in zip(made, digits.labels, strict=True):
        origin = (digits.images[..., half:] == image[..., half:]).flatten(1).all(1)
        assert (digits.labels[origin] != label).any()


def test_chimeras_of_a_single_class_join_any_two_images(digits: Digits) -> None:
    one_class = digits._replace(labels=torch.zeros_like(digits.labels))
    assert PROBES["chimeras"](one_class).shape == digits.images.shape


def test_blank_images_have_no_ink(digits: Digits) -> None:
    assert PROBES["blank"](digits).sum() == 0


def test_examples_show_one_image_of_each_kind_in_the_unit_interval(tiny: Dataset) -> None:
    shown = examples(tiny.test_images, tiny.test_labels, tiny.levels)
    assert list(shown) == list(PROBES)
    for image in shown.values():
        assert image.shape == tiny.shape
        assert 0 <= image.min() <= image.max() <= 1
    assert shown["uniform noise"].max() == 1
