"""Training of the judge: a plain loop over batches of training images, moved a little."""

import itertools
import math
from collections.abc import Iterator

import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from pipeline.config import Judge as Settings
from pipeline.data.dataset import Dataset
from pipeline.errors import UserError
from pipeline.judge.classifier import Judge, judge_images, to_grey

PER_SHIFT = 28  # pixels of a side for each pixel that a training image moves at most, up or down and left or right
WARMUP = 0.1  # fraction of the steps in which the learning rate rises
SCALED_BY = 10_000  # training images from which the features get their scale


def train(dataset: Dataset, settings: Settings, device: torch.device) -> Judge:
    """Train a judge on the training images, on `device`; all randomness is drawn on the CPU from `settings.seed`.

    The loss is the sum of the networks' cross-entropies, so that each learns by itself. The optimiser is AdamW, with
    one cycle of the learning rate (Smith & Topin 2018).

    Raises:
        UserError: if the training images have fewer than two classes.
    """
    shares = dataset.class_shares()
    if sum(share > 0 for share in shares) < 2:
        raise UserError(
            f"data set {dataset.name}: all training images have one class, and the judge of samples tells classes "
            "apart; give the images labels of two or more classes"
        )
    generator = torch.Generator().manual_seed(settings.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        *channels, height, width = dataset.shape
        judge = Judge(height, width, len(shares), *channels).to(device)
    optimizer = torch.optim.AdamW(judge.parameters(), settings.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=settings.steps + 1, pct_start=WARMUP, cycle_momentum=False
    )
    labels = dataset.train_labels.long()
    for batch in _batches(len(labels), settings, generator):
        images = shifted(dataset.train_images[batch], generator).flatten(1)
        logits = judge.logits(to_grey(images, dataset.levels).to(device))
        loss = torch.stack([cross_entropy(member, labels[batch].to(device)) for member in logits]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    judge.eval()
    features = judge_images(judge, to_grey(dataset.train_images[:SCALED_BY].flatten(1), dataset.levels)).features
    judge.scale.fill_(float(features.var(0, correction=0).mean().sqrt()))
    return judge


def shifted(images: UInt8[Tensor, "images *shape"], generator: torch.Generator) -> UInt8[Tensor, "images *shape"]:
    """Each image moved by up to a pixel in both directions, at random; what moves in is black.

    Larger images move by more pixels, and images smaller than `PER_SHIFT` do not move.
    """
    height, width = images.shape[-2:]
    most = min(height, width) // PER_SHIFT
    windows = pad(images, [most] * 4).unfold(-2, height, 1).unfold(-2, width, 1)
    down, right = torch.randint(2 * most + 1, (2, len(images)), generator=generator)
    return windows[torch.arange(len(images)), ..., down, right, :, :]


def _batches(images: int, settings: Settings, generator: torch.Generator) -> Iterator[Int[Tensor, " batch"]]:
    """Indices of the images of each step: all images in a random order, again and again."""
    passes = (torch.randperm(images, generator=generator).split(settings.batch_size) for _ in itertools.count())
    return itertools.islice(itertools.chain.from_iterable(passes), settings.steps)


def measure(judge: Judge, dataset: Dataset) -> dict[str, int | float]:
    """Accuracy on the test images, and the share of them that the judge recognises, with their standard errors."""
    verdicts = judge_images(judge, to_grey(dataset.test_images.flatten(1), dataset.levels))
    values: dict[str, int | float] = {"images": len(verdicts.classes)}
    right = verdicts.classes == dataset.test_labels.long()
    for name, found in (("accuracy", right), ("recognised", verdicts.recognised)):
        share = float(found.double().mean())
        values[name] = round(share, 4)
        values[f"{name}_se"] = round(math.sqrt(share * (1 - share) / len(found)), 4)
    return values
