"""The benchmark of convolutions runs, on small images, and compares networks of the same size."""

import json
import sys

import pytest
import torch

from benchmarks import convolutions
from pipeline.data.dataset import Dataset
from pipeline.model import conv
from tests.support import model_settings


@pytest.mark.slow
def test_the_benchmark_measures_training_and_evaluation(
    data_file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", data_file, "--rounds", "1", "--images", "256", "--test-images", "2"]
    monkeypatch.setattr(sys, "argv", ["convolutions", *words])
    convolutions.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(found["measuring"]) == {"estimator", "fit and estimate", "plain calls", "convolutions"}
    assert all(value > 0 for kind in ("training", "measuring", "ratios") for value in found[kind].values())


def test_the_convolutions_alone_have_the_shapes_of_the_network(tiny: Dataset) -> None:
    settings = model_settings(network="conv", width=4, depth=1, latent=3)
    encoder = conv.Encoder(settings, tiny.format(), 0, 6)
    found = convolutions.convolutions(encoder, torch.rand(7, 30), torch.float32, True)
    layers = [layer for layer in encoder.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert [each.layer.weight.shape for each in found] == [layer.weight.shape for layer in layers]
    assert [each.first for each in found] == [True] + [False] * (len(layers) - 1)
    assert found[0].x.shape == (7, 1, 6, 5)
    for each in found:
        each.both()
