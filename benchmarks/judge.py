"""`python -m benchmarks.judge`: what the numbers of samples say of images that are known to be good or bad.

The part of a model's samples is taken by real test images, by other training images, and by images that a model should
not draw: noise, blank images, one digit again and again, one class only, blurred digits, and copies of the training
images. Each fault should show in at least one number. Needs data/ and models/ of `dvc repro`. Ends with one JSON line.
"""

import argparse
import json
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d

from pipeline.code import ROOT
from pipeline.config import load_params
from pipeline.data.dataset import Dataset, load_dataset
from pipeline.evaluation import samples
from pipeline.judge.checkpoint import load_judge
from pipeline.judge.classifier import judge_images, to_grey
from pipeline.process.device import environment, set_up

NUMBERS = "recognised", "class_spread", "frechet", "precision", "density", "recall", "coverage", "memorised"


def kinds(dataset: Dataset, count: int, seed: int) -> dict[str, Float[Tensor, "images pixels"]]:
    """Images of each kind, with pixels in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    test = to_grey(dataset.test_images[:count].flatten(1), dataset.levels)
    train = to_grey(dataset.train_images[:count].flatten(1), dataset.levels)
    ones = test[dataset.test_labels[:count] == 1]
    blurred = avg_pool2d(test.unflatten(1, (1, *dataset.shape[-2:])), 5, stride=1, padding=2)
    return {
        "test images": test,
        "training images": train,
        "blurred test images": blurred.flatten(1),
        "test images of one class": ones.repeat(-(-count // len(ones)), 1)[:count],
        "one test image": test[:1].expand(count, -1),
        "blank": torch.zeros_like(test),
        "noise": torch.rand(test.shape, generator=generator),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "data/images.safetensors")
    parser.add_argument("--judge", type=Path, default=ROOT / "models/judge.safetensors")
    parser.add_argument("--images", type=int, default=10_000, help="of each kind")
    options = parser.parse_args()
    settings = load_params().sample.model_copy(update={"images": options.images})
    device = set_up("cpu", settings.seed)
    dataset = load_dataset(options.data)
    judge = load_judge(options.judge, dataset, device)
    if judge is None:
        parser.error(f"{options.judge}: these images have no judge, because they have no classes")
    real = samples.references(dataset, judge, settings)
    found = {}
    for name, images in kinds(dataset, options.images, settings.seed).items():
        verdicts, first = judge_images(judge, images), images[: samples.SEARCHED]
        drawn = samples.Drawn(None, first, clean=verdicts, noisy=verdicts)
        values = samples.measure(drawn, samples.nearest_training(first, dataset, device), real)
        found[name] = {number: round(values[number], 4) for number in NUMBERS}
        print(f"{name:>25}", *(f"{number} {value:.3f}" for number, value in found[name].items()), flush=True)
    print(json.dumps({"kinds": found, "images": options.images, "environment": environment(device)}))


if __name__ == "__main__":
    main()
