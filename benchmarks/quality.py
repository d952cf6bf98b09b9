"""`python -m benchmarks.quality`: seconds of training until the validation ELBO reaches given values.

Contenders, with the same model, initial weights, training images, batch size, precision, peak learning rate and epochs:

- ours: this project's `fit`, with the preset's optimiser, learning rate schedule and clipping;
- usual: torchvision's MNIST, ToTensor, a shuffling DataLoader, Adam at a constant learning rate, `loss.item()` at each
  step, PyTorch's default memory layout and its matmul library as installed;
- pythae: its trainer, with Adam at a constant learning rate and the matmul library as installed. Only for models that
  its VAE has (Gaussian pixels with a fixed σ, prior N(0, I), no labels, float32), and only if it is installed:
  `uv pip install pythae`. Its images are dequantised once, not anew in each epoch.

They take turns, one epoch each, so that a change of the machine's speed affects all. After each epoch all compute the
validation ELBO of the same held-out images with the same noise. This time counts for all.

The levels come from ours: its best ELBO in the first 1/6, 1/3, 2/3 and all of its epochs. The best ELBO of each other
contender is one more level, since a constant learning rate may never reach our last one. A level is reached when the
ELBO is first at least as large. Its time is interpolated linearly between the ends of two epochs. The curve is concave,
so the time is late by a fraction of an epoch for a contender that does not define the level. A level that is reached in
the first epoch has the time of that epoch's end, so its ratio says least. A ratio is the other's seconds divided by
ours. With several seeds all values are medians, and a ratio is one of medians.

Then log p(x) of some test images is estimated with our model. Its time and decoder evaluations are divided by the
number of trusted images. A model with labels gets each image's own label: that is log p(x | y), a tenth of the work.

Run it on an idle machine. If other processes use its cores, the threads of a contender wait for each other, and the
one with more parallel work, which is ours, loses most.

The default list of presets takes about a quarter of an hour on two cores. `--presets good,best` takes an hour and a
half more. Ends with one JSON line.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import pythae_model
from benchmarks.race import Point, best, medians, race, time_of
from benchmarks.timing import as_installed
from benchmarks.usual import usual_epoch
from logpx.estimator import estimate_whole
from pipeline.code import ROOT
from pipeline.config import Params, Train
from pipeline.data.dataset import Dataset, load_dataset
from pipeline.evaluation.settings import estimator, prepare
from pipeline.model.vae import VAE
from pipeline.process.device import environment, set_up
from pipeline.training.fit import fit
from pipeline.training.trainer import Trainer, sum_terms
from tools import presets

FRACTIONS = {"1/6": 1 / 6, "1/3": 1 / 3, "2/3": 2 / 3, "all": 1.0}  # of our epochs


def levels(curves: Mapping[str, Sequence[Point]]) -> dict[str, float]:
    """The ELBOs whose times are compared; NaN for the best of a contender that finished no epoch."""
    ours = curves["ours"]
    found = {name: best(ours[: max(1, round(share * len(ours)))]) for name, share in FRACTIONS.items()}
    return found | {f"best of {name}": best(curve) for name, curve in curves.items() if name != "ours"}


def compare(curves: Mapping[str, Sequence[Point]]) -> dict[str, Any]:
    """Seconds of each contender until each level, and the whole training of each."""
    return {
        "levels": {
            name: {"elbo": level, "seconds": {who: time_of(level, curve) for who, curve in curves.items()}}
            for name, level in levels(curves).items()
        },
        "trainings": {
            who: {"epochs": len(curve), "seconds": curve[-1].seconds if curve else math.nan, "elbo": best(curve)}
            for who, curve in curves.items()
        },
    }


def ours(vae: VAE, images: Tensor, labels: Tensor, settings: Train) -> Iterator[float]:
    """Validation ELBO after each epoch of this project's training."""
    for epoch in fit(vae, images, settings, labels=labels):
        yield epoch.validation_elbo


def usual(vae: VAE, images: Tensor, labels: Tensor, shared: Trainer) -> Iterator[float]:
    """Validation ELBO after each epoch of the usual loop."""
    epoch = usual_epoch(vae, images, labels, shared.settings)
    for _ in range(shared.settings.epochs):
        epoch()
        yield validate(vae, shared)


def pythae(vae: VAE, images: Tensor, shared: Trainer) -> Iterator[float]:
    """Validation ELBO after each epoch of pythae's trainer."""
    for _ in pythae_model.training(vae, images, shared.settings):
        yield validate(vae, shared)


def installed(epochs: Iterator[float]) -> Iterator[float]:
    """The same with the matmul library that PyTorch chooses by default."""
    found: list[float | None] = []
    turn = as_installed(lambda: found.append(next(epochs, None)))
    while True:
        turn()
        if (elbo := found[-1]) is None:
            return
        yield elbo


def validate(vae: VAE, shared: Trainer) -> float:
    """The ELBO of the trainer's held-out images with its noise, for another model."""
    sums = sum_terms(vae, shared.held_out, shared.held_out_noise, shared.settings, shared.held_out_labels)
    reconstruction, kl, _ = (sums / len(shared.held_out)).tolist()
    return reconstruction - kl


def measure(params: Params, dataset: Dataset, test_images: int, device: torch.device) -> dict[str, Any]:
    """The race with one seed, and the cost of log p(x) with our model."""
    settings, shares = params.train, dataset.class_shares() if params.model.condition == "label" else ()

    def build() -> VAE:
        torch.manual_seed(settings.seed)
        return VAE(params.model, dataset.format(params.data.binarise), shares).to(device)

    images, labels = dataset.train_images.flatten(1).to(device), dataset.train_labels.long().to(device)
    shared = Trainer(build(), images, settings, labels=labels)  # splits the images and draws the noise as `fit` does
    index, own = shared.train_index, build()
    contenders = {
        "ours": ours(own, images, labels, settings),
        "usual": installed(usual(build(), images[index], labels[index], shared)),
    }
    if pythae_model.usable(params):
        contenders["pythae"] = installed(pythae(build(), images[index], shared))
    return compare(race(contenders)) | {"trusted": trusted(own, dataset, params, test_images, device)}


def trusted(vae: VAE, dataset: Dataset, params: Params, count: int, device: torch.device) -> dict[str, float]:
    """Seconds and decoder evaluations of log p(x), or log p(x | y), per trusted image; NaN if none is trusted."""
    settings = estimator(params.evaluate, vae)
    x = vae.images.read_fixed(dataset.test_images, settings.seed)[:count].to(device)
    y = dataset.test_labels[:count].long().to(device)
    estimate_whole(prepare(vae, x[:1], y[:1], settings))  # the first call loads code
    start = time.perf_counter()
    found = estimate_whole(prepare(vae, x, y, settings))
    seconds, good = time.perf_counter() - start, int(found.trusted.sum())
    spent = {"seconds": seconds, "evaluations": float(found.evaluations.sum())}
    return {"images": len(x), "trusted": good} | {name: n / good if good else math.nan for name, n in spent.items()}


def read(name: str, epochs: int | None) -> Params:
    """Parameters of a preset, with another number of epochs if it is given; `default` is params.yaml as it is."""
    changes = {} if epochs is None else {"train": {"epochs": epochs}}
    return presets.parameters(None if name == "default" else name, changes)


def with_ratios(found: dict[str, Any]) -> dict[str, Any]:
    """Add each contender's seconds divided by ours at each level; None if one of the two never reached it."""
    for level in found["levels"].values():
        own = level["seconds"]["ours"]
        level["ratio"] = {
            who: round(seconds / own, 3) if seconds and own else None
            for who, seconds in level["seconds"].items()
            if who != "ours"
        }
    return found


def table(found: dict[str, Any]) -> str:
    """The results of a preset for people."""
    trainings = found["trainings"]
    lines = ["".join([f"{'level':>16} {'ELBO':>9}", *(f"{f'{who}, s':>28}" for who in trainings)])]
    for name, level in found["levels"].items():
        words = [f"{name:>16} {level['elbo'] if level['elbo'] is not None else math.nan:>9.2f}"]
        for who, seconds in level["seconds"].items():
            ratio = level["ratio"].get(who)
            text = f"not within {trainings[who]['epochs']:.0f} epochs" if seconds is None else f"{seconds:.1f}"
            words.append(f"{text + (f' ({ratio:.2f} x ours)' if ratio else ''):>28}")
        lines.append("".join(words))
    for who, training in trainings.items():
        done = f"{training['epochs']:.0f} epochs"
        if training["seconds"] is not None:
            done += f" in {training['seconds']:.1f} s, best {training['elbo']:.2f}"
        lines.append(f"{who}: {done}{', then not finite' * (training['epochs'] < trainings['ours']['epochs'])}")
    cost = found["trusted"]
    if cost["seconds"] is not None:
        each = f"{cost['seconds']:.4f} s and {cost['evaluations']:.0f} decoder evaluations per trusted image"
        lines.append(f"log p(x): {each}, {cost['trusted']:.0f} of {cost['images']:.0f} trusted")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "data/images.safetensors")
    parser.add_argument("--presets", default="default,logistic,digits_on_request", help="names, with commas between")
    parser.add_argument("--epochs", type=int, help="in place of the preset's")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each contender")
    parser.add_argument("--test-images", type=int, default=200)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or auto")
    options = parser.parse_args()
    if min(options.seeds, options.test_images) < 1:
        parser.error("--seeds and --test-images are at least 1")
    if unknown := sorted({*options.presets.split(",")} - {"default", *presets.names()}):
        parser.error(f"no preset is called {', '.join(unknown)}; choose from default, {', '.join(presets.names())}")
    settings = {name: read(name, options.epochs) for name in options.presets.split(",")}
    if others := [name for name, params in settings.items() if params.train.objective != "elbo"]:
        parser.error(f"train.objective = elbo is needed, which {', '.join(others)} does not have")
    device, dataset, found = set_up(options.device, 0), load_dataset(options.data), {}
    for name, params in settings.items():
        print(f"{name}: epochs {params.train.epochs}, seeds {options.seeds}; nats per image, seconds", flush=True)
        runs = []
        for seed in range(params.train.seed, params.train.seed + options.seeds):
            changed = params.model_copy(update={"train": params.train.model_copy(update={"seed": seed})})
            runs.append(measure(changed, dataset, options.test_images, device))
        found[name] = with_ratios(medians(runs))
        print(table(found[name]), flush=True)
        if pythae_model.has(params) and not pythae_model.usable(params):
            print("pythae: not installed; `uv pip install pythae` adds it to the comparison")
    print(json.dumps({"presets": found, "seeds": options.seeds, "environment": environment(device)}))


if __name__ == "__main__":
    main()
