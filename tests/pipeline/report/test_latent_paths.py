"""Lines, walks, grids and projections in latent space."""

import numpy as np
import torch

from pipeline.config import Model
from pipeline.model.vae import VAE
from pipeline.report.latent_paths import coordinate_kl, lerp, plane, project, slerp, traversals


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
    vae = VAE(Model(latent=3, encoder=(4,), decoder=(), activation="relu", sigma=0.1), 7)
    q = vae.encoder(x)
    kl = 0.5 * (q.mean.square() + q.variance - 1 - q.variance.log())  # of N(μ, s²) from N(0, 1)
    torch.testing.assert_close(coordinate_kl(vae, x), kl.mean(0))


def test_a_projection_keeps_two_dimensions_and_separates_the_classes_of_more() -> None:
    random = np.random.default_rng(0)
    labels = np.arange(300) % 3
    means = random.standard_normal((300, 6))
    means[:, 4] += 5 * labels
    flat = means[:, :2]
    assert project(flat, labels)[0] is flat
    points, _ = project(means, labels)
    centres = [points[labels == label, 0].mean() for label in range(3)]
    assert min(abs(np.diff(centres))) > 3 * points[labels == 0, 0].std()
    assert project(means[:, :1], labels)[0].shape == (300, 2)
