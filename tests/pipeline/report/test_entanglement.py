"""What is measured of decoded images: slant and stroke width of known bars, and what a coordinate changes."""

import math
from dataclasses import replace

import pytest
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d

from pipeline.data.dataset import Dataset
from pipeline.report.entanglement import SAMPLES, VALUE, effects, slant, stroke_width
from pipeline.report.scene import Scene
from tests.pipeline.report.test_pictures import make_scene

SIZE, FINE = 28, 10  # pixels of an image, and points of a pixel


def coordinates() -> tuple[Tensor, Tensor]:
    """x to the right and y downwards of fine points, from the middle of the image."""
    points = (torch.arange(SIZE * FINE, dtype=torch.float64) + 0.5) / FINE - SIZE / 2
    y, x = torch.meshgrid(points, points, indexing="ij")
    return x, y


def sheared(angle: float, width: float, length: float = 20) -> Float[Tensor, "1 28 28"]:
    """An upright bar whose rows are shifted, so that it leans to the right by an angle."""
    x, y = coordinates()
    ink = ((x + y * math.tan(math.radians(angle))).abs() < width / 2) & (y.abs() < length / 2)
    return avg_pool2d(ink.double()[None], FINE)


def turned(angle: float, width: float, length: float = 20) -> Float[Tensor, "1 28 28"]:
    """An upright bar that is rotated to the right."""
    x, y = coordinates()
    sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    ink = ((x * sine - y * cosine).abs() < length / 2) & ((x * cosine + y * sine).abs() < width / 2)
    return avg_pool2d(ink.double()[None], FINE)


@pytest.mark.parametrize("angle", [-40.0, -15.0, 0.0, 10.0, 30.0])
@pytest.mark.parametrize("width", [2.0, 4.0])
def test_the_slant_is_the_angle_of_the_shear(angle: float, width: float) -> None:
    image = sheared(angle, width)
    assert float(slant(image)) == pytest.approx(angle, abs=0.1)
    assert float(slant(image / 3)) == pytest.approx(angle, abs=0.1)  # paler ink
    moved = image.roll((1, 2), dims=(1, 2))
    assert float(slant(moved)) == pytest.approx(angle, abs=0.1)
    assert float(slant(image.flip(2))) == pytest.approx(-angle, abs=0.1)


@pytest.mark.parametrize("angle", [-30.0, 0.0, 30.0, 45.0, 90.0])
@pytest.mark.parametrize("width", [2.0, 3.0, 4.0])
def test_the_stroke_width_is_that_of_a_bar_whatever_its_direction(angle: float, width: float) -> None:
    image = turned(angle, width)
    exact = width * 20 / (width + 20)  # 2 · area / perimeter of a rectangle
    assert float(stroke_width(image)) == pytest.approx(exact, rel=0.15)
    assert float(stroke_width(image / 3)) == pytest.approx(float(stroke_width(image)))  # paler ink is not thinner


def test_the_outline_at_the_edge_of_the_image_counts() -> None:
    """A white square of 28 × 28: area / perimeter = 28 / 4, with rounded corners."""
    assert float(stroke_width(torch.ones(1, SIZE, SIZE))) == pytest.approx(SIZE / 2, rel=0.02)


def test_an_image_without_ink_has_no_slant_and_no_stroke() -> None:
    blank = torch.zeros(1, SIZE, SIZE)
    assert (float(slant(blank)), float(stroke_width(blank))) == (0, 0)


@pytest.fixture
def scene(tiny: Dataset) -> Scene:
    return make_scene(tiny)


def test_a_coordinate_that_is_not_used_changes_nothing(scene: Scene) -> None:
    with torch.inference_mode():
        next(scene.vae.decoder.network.parameters())[:, 1] = 0  # the first layer does not see z[1]
        found, whole = effects(scene)
    for change in found:
        assert change.shape == (3,)
        assert change[1] == 0
        assert (change[[0, 2]] > 0).all()
    assert all(change.shape == (1,) and change > 0 for change in whole)


def test_the_class_changes_if_the_judge_says_so(scene: Scene) -> None:
    """This judge knows z[0] only: its class changes in every sample, and never with another coordinate."""
    seen: list[Tensor] = []
    generate = scene.vae.generate

    def remember(noise: Tensor, y: Tensor | None = None) -> object:
        seen.append(noise)
        return generate(noise, y)

    scene.vae.generate = remember  # pyright: ignore[reportAttributeAccessIssue]
    with torch.inference_mode():
        found, whole = effects(replace(scene, judge=lambda p: (seen[-1][:, 0] > 0).long()))
    assert found.kind.tolist() == [1, 0, 0]
    assert float(whole.kind) == pytest.approx(0.5, abs=0.15)  # 4 standard errors of 200 samples
    assert {tuple(noise[:, d].unique().tolist()) for d in range(3) for noise in seen[2 + d :: 3]} >= {
        (-VALUE,), (VALUE,),
    }  # fmt: skip
    assert all(len(noise) == SAMPLES for noise in seen)


def test_samples_of_a_conditional_model_have_all_classes(tiny: Dataset) -> None:
    scene = make_scene(tiny, condition="label", prior="flow")
    labels: list[Tensor] = []
    generate = scene.vae.generate

    def remember(noise: Tensor, y: Tensor) -> object:
        labels.append(y)
        return generate(noise, y)

    scene.vae.generate = remember  # pyright: ignore[reportAttributeAccessIssue]
    with torch.inference_mode():
        effects(scene)
    assert all(y.bincount().tolist() == [SAMPLES // 5] * 5 for y in labels)
