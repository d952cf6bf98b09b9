"""Lines, walks, grids and projections in latent space."""

import numpy as np
import pytest
import torch

from pipeline.model.vae import VAE
from pipeline.report.latent_paths import (
    coordinate_change,
    coordinate_kl,
    lerp,
    plane,
    project,
    replaced,
    slerp,
    traversals,
)
from tests.support import Linear, flat_format, model_settings


def test_lines_and_circles_start_and_end_at_their_points(generator: torch.Generator) -> None:
    a, b = torch.randn(5, 8, generator=generator), torch.randn(5, 8, generator=generator)
    for path in (lerp(a, b, 7), slerp(a, b, 7)):
        torch.testing.assert_close(path[:, 0], a)
        torch.testing.assert_close(path[:, -1], b)


def test_a_great_circle_keeps_length_and_speed_and_a_straight_line_does_not(generator: torch.Generator) -> None:
    a, b = torch.randn(2, 5, 8, generator=generator).double()
    a, b = 3 * a / a.norm(dim=-1, keepdim=True), 3 * b / b.norm(dim=-1, keepdim=True)
    path = slerp(a, b, 9)
    torch.testing.assert_close(path.norm(dim=-1), torch.full((5, 9), 3.0).double(), rtol=0, atol=1e-5)
    steps = path.diff(dim=1).norm(dim=-1)
    torch.testing.assert_close(steps, steps[:, :1].expand(-1, 8), rtol=1e-5, atol=0)
    assert (lerp(a, b, 9)[:, 4].norm(dim=-1) < 2.9).all()


def test_parallel_points_are_joined_by_a_straight_line() -> None:
    a = torch.tensor([[1.0, 2.0]])
    torch.testing.assert_close(slerp(a, 3 * a, 5), lerp(a, 3 * a, 5))


@pytest.mark.parametrize("dimensions", [1, 16])
def test_opposite_points_are_joined_by_a_straight_line(generator: torch.Generator, dimensions: int) -> None:
    a = torch.randn(50, dimensions, generator=generator)
    # The direction goes from a to −a, the length from ‖a‖ to 2 ‖a‖.
    factors = torch.tensor([1.0, 1.25 * 0.5, 0.0, -1.75 * 0.5, -2.0])
    torch.testing.assert_close(slerp(a, -2 * a, 5), factors[:, None] * a[:, None])


def test_the_origin_is_joined_to_any_point_and_to_itself() -> None:
    zero, a = torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])
    assert torch.equal(slerp(zero, zero, 3), torch.zeros(1, 3, 2))
    there = slerp(zero, a, 3)
    torch.testing.assert_close(there[:, [0, 2]], torch.stack([zero, a], 1))
    assert there.isfinite().all()


def test_a_traversal_changes_one_coordinate() -> None:
    z = traversals(torch.tensor([5.0, 6.0, 7.0]), [2, 0], [-1.0, 0.0, 1.0])
    assert z[0].tolist() == [[5, 6, -1], [5, 6, 0], [5, 6, 1]]
    assert z[1].tolist() == [[-1, 6, 7], [0, 6, 7], [1, 6, 7]]


def test_the_plane_runs_rightwards_and_upwards() -> None:
    z, values = plane(4)
    assert values == sorted(values)
    torch.testing.assert_close(z[0, 0], torch.tensor([values[0], values[-1]]))
    torch.testing.assert_close(z[-1, -1], torch.tensor([values[-1], values[0]]))


def test_the_lines_of_the_plane_have_equal_prior_mass_between_them() -> None:
    _, values = plane(20)
    mass = torch.special.ndtr(torch.tensor(values, dtype=torch.float64)).diff()
    torch.testing.assert_close(mass, torch.full((19,), 0.05, dtype=torch.float64), rtol=1e-6, atol=0)


def test_the_kl_of_a_coordinate_has_its_closed_form(generator: torch.Generator) -> None:
    x = torch.rand(5, 7, generator=generator)
    vae = VAE(model_settings(latent=3, encoder=[4], decoder=[], activation="relu", sigma=0.1), flat_format(7))
    q = vae.encoder(x)
    kl = 0.5 * (q.mean.square() + q.variance - 1 - q.variance.log())  # of N(μ, s²) from N(0, 1)
    torch.testing.assert_close(coordinate_kl(vae, x, None), kl.mean(0))


def test_the_change_by_a_coordinate_is_that_of_a_linear_decoder(linear: Linear, generator: torch.Generator) -> None:
    """f(z) = W z + b: between z_d = −1 and +1 every image changes by 2 W_d, whatever the other coordinates are."""
    noise = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    expected = 2 * linear.w.square().mean(0).sqrt()
    with torch.no_grad():
        torch.testing.assert_close(coordinate_change(linear.vae(), noise, None), expected)


def test_one_coordinate_of_every_sample_is_replaced() -> None:
    noise = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert replaced(noise, 1, -1.5).tolist() == [[1, -1.5], [3, -1.5]]
    assert noise.tolist() == [[1, 2], [3, 4]]


def of_classes(count: int, dimensions: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Means whose fifth coordinate depends on the class, and the labels 6, 7, ..."""
    labels = np.arange(300) % count + 6
    means = np.random.default_rng(0).standard_normal((300, dimensions))
    means[:, 4] += 5 * labels
    return means, labels


@pytest.mark.parametrize("classes", [2, 3, 10, 26])
def test_the_plane_separates_the_classes(classes: int) -> None:
    means, labels = of_classes(classes)
    points, names = project(means, labels)
    first = np.array([points[labels == label, 0].mean() for label in np.unique(labels)])
    assert min(abs(np.diff(first))) > 3 * points[labels == 6, 0].std()
    assert names[0] == "first linear discriminant of μ(x)"
    assert points.shape == (300, 2)


def test_one_and_two_dimensions_stay_as_they_are() -> None:
    means, labels = of_classes(3)
    assert project(means[:, :2], labels)[0].tolist() == means[:, :2].tolist()
    assert project(means[:, :2], labels)[1] == ("z₁", "z₂")
    points, names = project(means[:, :1], labels)
    assert np.array_equal(points, np.column_stack([means[:, 0], labels]))
    assert names == ("z", "class")


def test_without_a_second_discriminant_the_other_axis_is_the_coordinate_with_the_largest_variance() -> None:
    means, labels = of_classes(2)
    means[:, 2] *= 9
    points, names = project(means, labels)
    assert names == ("first linear discriminant of μ(x)", "z[2] of μ(x)")
    assert np.array_equal(points[:, 1], means[:, 2])
    on_a_line = means[:, 4:5] * np.arange(1.0, 6.0)  # an encoder with one hidden unit
    points, names = project(on_a_line, np.arange(300) % 10)
    assert names == ("first linear discriminant of μ(x)", "z[4] of μ(x)")
    assert np.array_equal(points[:, 1], on_a_line[:, 4])


@pytest.mark.parametrize("labels", [np.zeros(40, int), np.arange(40), np.full(40, 9)])
def test_without_a_discriminant_both_axes_are_coordinates(labels: np.ndarray) -> None:
    means = np.random.default_rng(0).standard_normal((40, 4)) * [1.0, 5.0, 1.0, 3.0]
    points, names = project(means, labels)
    assert names == ("z[1] of μ(x)", "z[3] of μ(x)")
    assert np.array_equal(points, means[:, [1, 3]])


def test_constant_means_have_a_plane_too() -> None:
    points, names = project(np.full((40, 4), 0.25, np.float32), np.arange(40) % 10)
    assert names == ("z[0] of μ(x)", "z[1] of μ(x)")
    assert (points == 0.25).all()
