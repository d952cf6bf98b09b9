"""Dequantisation keeps the grey level of each pixel and adds uniform noise."""

import pytest
import torch

from pipeline.data.dequantise import dequantise, dequantised


@pytest.mark.parametrize("levels", [17, 256])
def test_pixels_keep_their_grey_level(levels: int) -> None:
    images = torch.arange(levels, dtype=torch.uint8).repeat(51, 1)  # also a number of pixels that 4 does not divide
    x = dequantise(images, levels, torch.Generator().manual_seed(3))
    assert x.dtype == torch.float32
    assert torch.equal((x.double() * levels).floor().to(torch.uint8), images)
    assert 0 <= float(x.min()) <= float(x.max()) <= 1


def test_the_noise_is_uniform_and_independent_of_the_neighbours() -> None:
    x = dequantise(torch.zeros(100, 1000, dtype=torch.uint8), 1, torch.Generator().manual_seed(3)).double()
    # 100 000 numbers at 4.5 standard errors each: together fail for one seed in 37 000, and the seed is fixed.
    assert abs(float(x.mean()) - 1 / 2) < 4.5 * (1 / 12 / x.numel()) ** 0.5
    assert abs(float(x.var()) - 1 / 12) < 4.5 * (1 / 180 / x.numel()) ** 0.5
    for step in (1, 2, 4):
        product = (x[:, step:] - 0.5) * (x[:, :-step] - 0.5)
        assert abs(float(product.mean())) < 4.5 / 12 / product.numel() ** 0.5


def test_the_noise_depends_on_the_seed_only() -> None:
    images = torch.arange(60, dtype=torch.uint8).view(2, 6, 5)
    x = dequantised(images, 256, seed=3)
    assert x.shape == (2, 30)
    assert torch.equal(x, dequantised(images, 256, seed=3))
    assert not torch.equal(x, dequantised(images, 256, seed=4))
    assert torch.equal(x, dequantise(images.flatten(1), 256, torch.Generator().manual_seed(3)))
