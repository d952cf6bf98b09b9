"""The benchmark of time to quality: times of levels, turns, contenders that learn, and its output."""

import itertools
import json
import math
import sys
from collections.abc import Iterator
from importlib.util import find_spec

import pytest
import torch

from benchmarks import pythae_model, quality, race
from benchmarks.race import Point
from pipeline.config import Params
from pipeline.data.dataset import Dataset
from pipeline.model.objectives import draw
from pipeline.model.vae import VAE
from pipeline.training.trainer import Trainer
from tests.support import model_settings, training

CURVE = [Point(2.0, 100.0), Point(4.0, 90.0), Point(7.0, 130.0), Point(8.0, 120.0)]


@pytest.mark.parametrize(
    ("level", "seconds"),
    [
        (50.0, 2.0),  # nothing is known before the end of the first epoch
        (100.0, 2.0),
        (110.0, 5.5),  # halfway from 90 to 130
        (130.0, 7.0),
        (130.1, None),
        (math.nan, None),
    ],
)
def test_the_time_of_a_level(level: float, seconds: float | None) -> None:
    assert race.time_of(level, CURVE) == seconds
    assert race.time_of(level, []) is None


def test_seconds_are_cumulated_for_each_contender_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, order = [0.0], []

    def contender(name: str, seconds: float, elbos: list[float]) -> Iterator[float]:
        for elbo in elbos:
            clock[0] += seconds
            order.append(name)
            yield elbo

    monkeypatch.setattr(race.time, "perf_counter", lambda: clock[0])
    contenders = {"ours": contender("ours", 1, [1, 2, 3]), "usual": contender("usual", 10, [1, math.nan, 3])}
    curves = race.race(contenders)
    assert curves == {"ours": [(1, 1), (2, 2), (3, 3)], "usual": [(10, 1)]}
    assert order == ["ours", "usual", "ours", "usual", "ours"]


def test_levels_are_the_best_so_far() -> None:
    ours = [Point(float(i), elbo) for i, elbo in enumerate([1.0, 5.0, 4.0, 6.0, 7.0, 8.0])]
    expected = {"1/6": 1.0, "1/3": 5.0, "2/3": 6.0, "all": 8.0, "best of usual": 130.0}
    assert quality.levels({"ours": ours, "usual": CURVE}) == expected
    assert math.isnan(quality.levels({"ours": ours, "usual": []})["best of usual"])


def test_medians_and_ratios() -> None:
    seeds = [
        quality.compare({"ours": [Point(2.0, first), Point(4.0, 9.0)], "usual": [Point(6.0, 3.0), Point(12.0, last)]})
        for first, last in ((3.0, 9.0), (3.0, 6.0), (3.0, 6.0))
    ]
    found = quality.with_ratios(race.medians(seeds))
    assert found["levels"]["1/6"] == {"elbo": 3.0, "seconds": {"ours": 2.0, "usual": 6.0}, "ratio": {"usual": 3.0}}
    assert found["levels"]["all"] == {"elbo": 9.0, "seconds": {"ours": 4.0, "usual": None}, "ratio": {"usual": None}}
    assert found["levels"]["best of usual"]["ratio"] == {"usual": 4.0}
    assert race.medians([1.0, None, math.nan]) is None
    assert "not within 2 epochs" in quality.table(found | {"trusted": {"seconds": None}})


@pytest.mark.parametrize("condition", ["none", "label"])
def test_both_contenders_learn_and_start_alike(tiny: Dataset, condition: str) -> None:
    settings = training(epochs=40, batch_size=16, learning_rate=0.01)
    model = model_settings(encoder=[16], decoder=[16], latent=2, condition=condition, sigma=0.2)
    shares = tiny.class_shares() if condition == "label" else ()
    images, labels = tiny.train_images.flatten(1), tiny.train_labels.long()

    def build() -> VAE:
        torch.manual_seed(0)
        return VAE(model, tiny.format(), shares)

    shared = Trainer(build(), images, settings, labels=labels)
    before = quality.validate(build(), shared)
    some = images[shared.train_index], labels[shared.train_index]
    ours = list(quality.ours(build(), images, labels, settings))
    usual = list(quality.installed(quality.usual(build(), *some, shared)))
    assert len(ours) == len(usual) == 40
    assert min(ours[-1], usual[-1]) > before + 10
    # A learning rate of 1e-9 changes nothing: then both validate the same model on the same images and noise.
    still = settings.model_copy(update={"learning_rate": 1e-9, "epochs": 1})
    shared.settings = still
    assert next(quality.ours(build(), images, labels, still)) == pytest.approx(before, abs=1e-3)
    assert next(quality.usual(build(), *some, shared)) == pytest.approx(before, abs=1e-3)


def test_the_benchmark_measures_presets(
    data_file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", data_file, "--epochs", "3", "--test-images", "2", "--seeds", "2"]
    monkeypatch.setattr(sys, "argv", ["quality", *words, "--presets", "default,label"])
    monkeypatch.setattr(pythae_model, "find_spec", lambda name: None)
    quality.main()
    *lines, last = capsys.readouterr().out.splitlines()
    assert sum("pythae: not installed" in line for line in lines) == 1  # its VAE has no labels
    for found in json.loads(last)["presets"].values():
        times = [level["seconds"]["ours"] for level in found["levels"].values()]
        assert all(a <= b for a, b in itertools.pairwise(times[:4]))
        assert times[3] <= found["trainings"]["ours"]["seconds"]
        assert found["trainings"]["usual"]["epochs"] == 3
        assert found["levels"]["best of usual"]["seconds"]["usual"] <= found["trainings"]["usual"]["seconds"]
        assert found["trusted"]["images"] == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--presets", "defautl"], "no preset is called defautl"),
        (["--presets", "iwae"], "train.objective = elbo is needed, which iwae does not have"),
        (["--seeds", "0"], "at least 1"),
    ],
)
def test_wrong_options_stop_before_any_work(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["quality", *words])
    with pytest.raises(SystemExit):
        quality.main()
    assert message in capsys.readouterr().err


def test_pythae_takes_part_only_with_models_that_it_has(params: Params) -> None:
    assert pythae_model.has(params)
    assert not pythae_model.has(quality.read("logistic", 1))
    assert not pythae_model.has(quality.read("label", 1))
    assert not pythae_model.has(quality.read("flow", 1))


@pytest.mark.skipif(not find_spec("pythae"), reason="pythae is not installed")
def test_pythaes_loss_is_the_negative_elbo_but_for_a_constant(tiny: Dataset) -> None:
    vae = VAE(model_settings(encoder=[16], decoder=[16], latent=2, sigma=0.2), tiny.format())
    x = torch.rand(7, 30)
    torch.manual_seed(3)
    loss = pythae_model.shared_model(vae)({"data": x / 0.2}).loss
    torch.manual_seed(3)
    elbo = draw(vae, x, torch.randn(1, 7, 2)).elbo.value.mean().detach()
    constant = vae.decoder.observation.ceiling(30)
    assert float(constant - loss.detach()) == pytest.approx(float(elbo), abs=1e-3)


@pytest.mark.skipif(not find_spec("pythae"), reason="pythae is not installed")
def test_pythaes_trainer_learns(tiny: Dataset) -> None:
    settings = training(epochs=40, batch_size=16, learning_rate=0.01)
    vae = VAE(model_settings(encoder=[16], decoder=[16], latent=2, sigma=0.2), tiny.format())
    images = tiny.train_images.flatten(1)
    shared = Trainer(vae, images, settings)
    elbos = list(quality.pythae(vae, images[shared.train_index], shared))
    assert len(elbos) == 40
    assert elbos[-1] > elbos[0] + 10
