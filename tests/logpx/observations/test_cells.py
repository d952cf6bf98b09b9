"""The grey level of a dequantised pixel is recovered from x, whatever the noise."""

import pytest
import torch

from logpx.observations.cells import grey_levels, uniform_in_cells
from pipeline.data.dequantise import dequantise


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("levels", [2, 17, 256])
def test_the_lowest_and_the_highest_x_of_a_cell_have_its_level(levels: int, dtype: torch.dtype) -> None:
    v = torch.arange(levels)
    low, next_low = v.to(dtype) / levels, (v + 1).to(dtype) / levels
    high = next_low.nextafter(torch.zeros((), dtype=dtype))
    assert torch.equal(grey_levels(low, levels), v)
    assert torch.equal(grey_levels(high, levels), v)
    for below in (1 - 2.0**-16, 1 - 2.0**-24):  # the largest u of `dequantise`, and of torch.rand in float32
        u = torch.full((), below, dtype=dtype)
        apart = v + u < v + 1  # float32 rounds 255 + u to 256 for the second u
        assert torch.equal(grey_levels((v + u) / levels, levels)[apart], v[apart])


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_every_value_of_the_noise_leaves_the_level(levels: int) -> None:
    """All 65 536 values of u that `dequantise` has, for every level."""
    u = torch.arange(2**16) / 2**16
    for v in range(levels):
        assert (grey_levels((v + u) / levels, levels) == v).all()


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_the_level_of_dequantised_images_is_that_of_the_images(levels: int, generator: torch.Generator) -> None:
    images = torch.arange(levels, dtype=torch.uint8).repeat(1000, 1)
    assert torch.equal(grey_levels(dequantise(images, levels, generator), levels), images.long())


def test_one_and_values_outside_have_the_nearest_level() -> None:
    assert grey_levels(torch.tensor([-0.1, 0.0, 1.0, 1.1]), 256).tolist() == [0, 0, 255, 255]


@pytest.mark.parametrize("levels", [2, 3, 17, 49, 100, 191, 255, 256])
def test_samples_are_in_their_cell(levels: int, generator: torch.Generator) -> None:
    v = torch.arange(levels).float().repeat(10_000, 1)
    x = uniform_in_cells(v, levels, generator)
    assert torch.equal(grey_levels(x, levels), v.long())
    u = x.double() * levels - v
    assert 0 < float(u.min()) < 0.001
    assert 0.999 < float(u.max()) < 1
