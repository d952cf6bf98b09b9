"""Dequantisation keeps the grey level of each pixel and adds uniform noise."""

import pytest
import torch
from scipy import stats
from torch import Tensor

from pipeline.data.dequantise import dequantise


def noise(images: int, pixels: int) -> Tensor:
    """u = 256 x − v of images with all grey levels v."""
    generator = torch.Generator().manual_seed(3)
    v = torch.randint(0, 256, (images, pixels), generator=generator, dtype=torch.uint8)
    return dequantise(v, 256, generator).double() * 256 - v


@pytest.mark.parametrize("levels", [17, 256])
def test_pixels_keep_their_grey_level(levels: int) -> None:
    images = torch.arange(levels, dtype=torch.uint8).repeat(51, 1)  # also a number of pixels that 4 does not divide
    x = dequantise(images, levels, torch.Generator().manual_seed(3))
    assert x.dtype == torch.float32
    assert torch.equal((x.double() * levels).floor().to(torch.uint8), images)
    assert 0 <= float(x.min()) <= float(x.max()) <= 1


def test_the_noise_has_all_multiples_of_a_65536th_from_0_to_below_1() -> None:
    # Of 2 million draws, one of the 65 536 values is missing with probability 65536 exp(-2e6 / 65536) = 4e-9.
    assert torch.equal(noise(2000, 1000).unique() * 65536, torch.arange(65536.0).double())


@pytest.mark.parametrize("place", range(4))
def test_the_noise_is_uniform_in_each_class_of_pixels_and_of_images(place: int) -> None:
    """Four pixels share one random word, so each of the four must be uniform by itself.

    Both tests together fail for one seed in 1 250, and the seed is fixed.
    """
    u = noise(400, 1000)
    for part in (u[:, place::4], u[place::4]):
        assert stats.kstest(part.flatten(), "uniform").pvalue > 1e-4


def test_the_noise_of_any_two_images_and_of_any_two_pixels_is_independent() -> None:
    u = noise(400, 400)
    for table in (u, u.T):
        correlation = torch.corrcoef(table).fill_diagonal_(0)
        # 79 800 pairs at six standard errors: fails for one seed in 6 000, and the seed is fixed.
        assert float(correlation.abs().max()) < 6 / 400**0.5
