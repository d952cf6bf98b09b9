"""The benchmark of the judge: each kind of bad images shows in a number, and good images in none."""

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import judge
from pipeline.config import Judge
from pipeline.data.dataset import save_dataset
from pipeline.data.sources import get_dataset
from pipeline.judge.checkpoint import save_judge
from pipeline.judge.training import train


def test_each_fault_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    dataset, data, trained = get_dataset("digits"), tmp_path / "images", tmp_path / "judge"
    save_dataset(data, dataset)
    settings = Judge(steps=300, batch_size=128, learning_rate=0.004, seed=0)
    save_judge(trained, train(dataset, settings, torch.device("cpu")), dataset)
    monkeypatch.setattr(sys, "argv", ["judge", "--data", str(data), "--judge", str(trained), "--images", "300"])
    judge.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["kinds"]
    good = found["test images"]
    assert good["recognised"] > 0.85
    assert good["coverage"] > 0.7
    assert good["memorised"] < 0.05
    assert found["training images"]["memorised"] == 1.0
    for kind in ("blurred test images", "test images of one class", "one test image", "blank", "noise"):
        assert found[kind]["frechet"] > 10 * good["frechet"], kind
        assert found[kind]["coverage"] < 0.5 * good["coverage"], kind
    assert found["one test image"]["class_spread"] > 0.8
