"""The cost model of the scaling benchmark."""

import pytest
import torch

from benchmarks.scaling import IMAGES, line, multiply_adds
from pipeline.model.vae import VAE
from tools import presets


def test_the_costs_behind_exact_times_are_found() -> None:
    rows = [[1.0, size, samples] for size in (1.0, 4.0, 9.0) for samples in (64.0, 512.0)]
    found = [3 + 0.5 * size + 0.01 * samples for _, size, samples in rows]
    assert line(rows, found) == pytest.approx([3, 0.5, 0.01])


def test_no_cost_is_negative() -> None:
    assert line([[1, 1], [1, 2], [1, 4]], [3, 2, 1])[1] == 0


def test_multiply_adds_of_linear_layers_are_their_weights() -> None:
    vae = VAE(presets.parameters().model, IMAGES)
    expected = vae.latent * 512 + 512 * 512 + 512 * 784
    assert multiply_adds(lambda: vae.decoder(torch.randn(1, vae.latent))) == expected


def test_multiply_adds_of_a_convolution_count_each_pixel() -> None:
    layer = torch.nn.Conv2d(3, 5, 3, padding=1)
    assert multiply_adds(lambda: layer(torch.randn(1, 3, 8, 8))) == 3 * 5 * 9 * 64
