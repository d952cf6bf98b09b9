"""Distances of sets of features, against closed forms and against plain numpy in float64."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.evaluation import sample_metrics
from pipeline.evaluation.sample_metrics import (
    BLOCKS,
    Sums,
    blocks,
    frechet,
    frechet_and_error,
    jackknife_error,
    nearest,
    neighbourhoods,
    squared_radii,
    total_variation,
)


def with_moments(mean: Tensor, covariance: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Random vectors whose mean and covariance are exactly these."""
    values = torch.randn(count, len(mean), generator=generator, dtype=torch.float64)
    values -= values.mean(0)
    white = values @ torch.linalg.inv(torch.linalg.cholesky(values.T.cov())).T
    return white @ torch.linalg.cholesky(covariance).T + mean


def covariance(dim: int, generator: torch.Generator) -> Tensor:
    root = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    return root @ root.T + 0.1 * torch.eye(dim, dtype=torch.float64)


def test_the_frechet_distance_of_gaussians_with_diagonal_covariances(generator: torch.Generator) -> None:
    """|μ₁ − μ₂|² + Σ (σ₁ − σ₂)²."""
    means = torch.tensor([[1.0, 2.0, 3.0], [1.5, 0.0, 3.0]], dtype=torch.float64)
    variances = torch.tensor([[1.0, 4.0, 9.0], [4.0, 4.0, 1.0]], dtype=torch.float64)
    a, b = (with_moments(m, v.diag(), 40, generator) for m, v in zip(means, variances, strict=True))
    expected = 0.25 + 4 + (1 - 2) ** 2 + 0 + (3 - 1) ** 2
    assert frechet(Sums.of(a), Sums.of(b)) == pytest.approx(expected, abs=1e-9)
    assert frechet(Sums.of(a), Sums.of(a)) == pytest.approx(0, abs=1e-9)


def test_the_frechet_distance_is_that_of_the_matrix_square_root(generator: torch.Generator) -> None:
    """tr (Σ₁ Σ₂)^½ by SciPy's Schur method."""
    a = torch.randn(50, 6, generator=generator, dtype=torch.float64) @ covariance(6, generator)
    b = torch.randn(70, 6, generator=generator, dtype=torch.float64) + 0.3
    x, y = a.numpy(), b.numpy()
    first, second = np.cov(x.T), np.cov(y.T)
    root = np.real(np.asarray(scipy.linalg.sqrtm(first @ second)))
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(first + second - 2 * root)
    assert frechet(Sums.of(a), Sums.of(b)) == pytest.approx(expected, rel=1e-9)


def test_the_sums_of_a_part_can_be_left_out(generator: torch.Generator) -> None:
    values = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    mean, spread = (Sums.of(values) - Sums.of(values[:7])).moments
    torch.testing.assert_close(mean, values[7:].mean(0))
    torch.testing.assert_close(spread, values[7:].T.cov())


def test_the_error_of_the_frechet_distance_is_its_spread_over_sets(generator: torch.Generator) -> None:
    """Both are of 60 sets, with relative errors of 2 % and 9 %. Seeded."""
    reference = torch.randn(1000, 3, generator=generator)
    found = [frechet_and_error(torch.randn(200, 3, generator=generator) + 0.5, reference) for _ in range(60)]
    values, errors = np.array(found).T
    assert np.mean(errors) == pytest.approx(values.std(), rel=0.3)


def test_with_one_image_per_block_the_jackknife_of_a_mean_is_exact(generator: torch.Generator) -> None:
    """s / √n: the total variation distance from a class with all the mass is the share of the other class."""
    classes = (torch.rand(BLOCKS, generator=generator) < 0.3).long()
    distance, error = total_variation(classes, (1.0, 0.0))
    values = classes.double()
    assert distance == pytest.approx(float(values.mean()))
    assert error == pytest.approx(float(values.std()) / math.sqrt(BLOCKS))
    assert math.isnan(jackknife_error([1.0]))


def test_blocks_do_not_depend_on_the_order_of_the_images() -> None:
    """Classes in turn, as they are asked for, would fill each block with one class."""
    classes = torch.arange(1000) % 10
    parts = blocks(classes)
    assert len(parts) == BLOCKS
    assert sorted(torch.cat(parts).tolist()) == sorted(classes.tolist())
    assert min(len(part.unique()) for part in parts) >= 8
    assert [len(part) for part in blocks(torch.arange(3))] == [1, 1, 1]


def test_total_variation_of_known_shares() -> None:
    classes = torch.tensor([0] * 50 + [1] * 30 + [3] * 20)
    assert total_variation(classes, (0.4, 0.4, 0.1, 0.1))[0] == pytest.approx(0.5 * (0.1 + 0.1 + 0.1 + 0.1))
    assert total_variation(classes, (0.5, 0.3, 0.0, 0.2))[0] == pytest.approx(0)
    assert total_variation(torch.zeros(10, dtype=torch.int64), (0.0, 1.0))[0] == 1


def plain_neighbourhoods(samples: NDArray[np.float64], reference: NDArray[np.float64], k: int) -> list[float]:
    """Precision, density, recall, coverage by loops, as in Kynkäänniemi et al. 2019 and Naeem et al. 2020."""

    def distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
        return float(((a - b) ** 2).sum())

    def radius(index: int, images: NDArray[np.float64]) -> float:
        return sorted(distance(images[index], other) for i, other in enumerate(images) if i != index)[k - 1]

    own = [radius(i, samples) for i in range(len(samples))]
    others = [radius(i, reference) for i in range(len(reference))]
    hits = [[distance(s, r) <= others[j] for j, r in enumerate(reference)] for s in samples]
    recalled = [any(distance(s, r) <= own[i] for i, s in enumerate(samples)) for r in reference]
    return [
        float(np.mean([any(row) for row in hits])),
        float(np.mean([sum(row) / k for row in hits])),
        float(np.mean(recalled)),
        float(np.mean([any(row[j] for row in hits) for j in range(len(reference))])),
    ]


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (1.0, 1.0), (0.0, 0.3), (0.5, 2.0)])
def test_neighbourhoods_are_those_of_plain_loops(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch, k: int, shift: float, scale: float
) -> None:
    monkeypatch.setattr(sample_metrics, "ROWS", 7)
    samples = shift + scale * torch.randn(23, 3, generator=generator, dtype=torch.float64)
    reference = torch.randn(31, 3, generator=generator, dtype=torch.float64)
    found = [float(values.mean()) for values in neighbourhoods(samples, reference, k)]
    assert found == pytest.approx(plain_neighbourhoods(samples.numpy(), reference.numpy(), k))


def test_neighbourhoods_of_two_sets_of_one_distribution_and_of_far_sets(generator: torch.Generator) -> None:
    """Coverage is 1 − Π_{i < k} (n − k + i + 1 − ...) ≈ 1 − 2^−k (Naeem et al. 2020, lemma 2); density has mean 1."""
    a, b = torch.randn(2, 1000, 2, generator=generator)
    found = neighbourhoods(a, b)
    assert found.coverage.mean() == pytest.approx(1 - 2**-5, abs=0.03)
    assert found.density.mean() == pytest.approx(1, abs=0.1)
    assert min(found.precision.mean(), found.recall.mean()) > 0.9
    far = neighbourhoods(a + 100, b)
    assert [float(values.mean()) for values in far] == [0, 0, 0, 0]


def test_one_image_has_no_neighbours_but_a_value() -> None:
    found = neighbourhoods(torch.zeros(1, 2), torch.ones(1, 2))
    assert [values.shape for values in found] == [(1,)] * 4
    assert squared_radii(torch.zeros(1, 2), 0).tolist() == [0]


def test_the_nearest_training_image_is_found_in_every_part(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_metrics, "ROWS", 4)
    monkeypatch.setattr(sample_metrics, "COLUMNS", 5)
    training = torch.randint(0, 17, (23, 12), generator=generator, dtype=torch.uint8)
    grey = torch.cat([torch.rand(9, 12, generator=generator), training[[22, 0]] / 16])
    found = nearest(grey, training, 17)
    distances = np.sqrt(((grey[:, None].double() - training.double() / 16) ** 2).mean(-1).numpy())
    assert found.image.tolist() == distances.argmin(1).tolist()
    np.testing.assert_allclose(found.distance.numpy(), distances.min(1), atol=1e-3)
    assert found.image[-2:].tolist() == [22, 0]
