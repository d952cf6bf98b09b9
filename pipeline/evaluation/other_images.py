"""Log p(x) of images that are unlike the data, and baselines with closed forms beside the model."""

from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor

from logpx.block import Settings
from pipeline.config import Compare, Model
from pipeline.data.dataset import Dataset
from pipeline.data.image_format import ImageFormat
from pipeline.data.probes import PROBES, Digits
from pipeline.data.sources import get_dataset, image_shape
from pipeline.errors import UserError
from pipeline.evaluation.baselines import baselines as fit_baselines
from pipeline.evaluation.every_label import estimates, sum_over_labels
from pipeline.evaluation.summary import Metrics, mean_and_error, rounded
from pipeline.model.vae import VAE


def images_of_each_kind(dataset: Dataset, settings: Compare) -> dict[str, tuple[Tensor, Tensor]]:
    """Images and classes of each kind of probe, and test images of another data set if one is named.

    Raises:
        UserError: if the other data set is the same one, or has images of another size.
    """
    if settings.other != "none" and (settings.other == dataset.name or image_shape(settings.other) != dataset.shape):
        *channels, height, width = dataset.shape
        raise UserError(
            f"compare.other = {settings.other}: another data set with {'colour ' if channels else ''}images of "
            f"{height} x {width} pixels is needed beside {dataset.name}; or none"
        )
    first = slice(settings.images)
    generator = torch.Generator().manual_seed(settings.seed)
    digits = Digits(dataset.test_images[first], dataset.test_labels[first], dataset.levels, generator)
    kinds = {name: (make(digits), digits.labels) for name, make in PROBES.items()}
    if settings.other != "none":
        other = get_dataset(settings.other)
        images = rescaled(other.test_images[first], other.levels, dataset.levels)
        kinds[settings.other] = images, other.test_labels[first]
    return kinds


def rescaled(images: Tensor, levels: int, to: int) -> Tensor:
    """Images with `levels` grey levels as images with `to` levels: black stays black, and white stays white.

    Dequantised, they have as much noise as the images that the model was trained on. So log p(x) is the density of the
    same kind of x, and the number of grey levels alone makes no image more or less likely.
    """
    return (images.double() * (to - 1) / (levels - 1)).round().to(torch.uint8)


def measure(vae: VAE, kind: str, images: Tensor, labels: Tensor, compare: Compare, settings: Settings) -> pd.DataFrame:
    """Log p(x) of one kind of images, with the number of samples of `compare`.

    For a conditional model it is the sum over all labels: these images have none that it knows.
    """
    x = vae.images.read_fixed(images, compare.seed).to(vae.prior.zero.device)
    fewer = replace(settings, samples=compare.samples, budget=compare.samples, seed=compare.seed)
    estimate = estimates(vae)
    found = sum_over_labels(vae, estimate, x, fewer) if vae.classes else estimate(kind, x, None, fewer)
    return pd.DataFrame({"kind": kind, "label": labels.numpy(), "log_px": found["log_px"], "trusted": found["trusted"]})


def baselines(dataset: Dataset, model: Model, seen: ImageFormat, images: int, seed: int) -> Metrics:
    """Mean log-density of the first test images under each baseline, nats, with its standard error over images.

    Args:
        seen: how the model sees the images.
        seed: of the dequantisation, the evaluation's, so that the same x are measured.
    """
    fixed = model.sigma if model.observation == "gaussian" and isinstance(model.sigma, float) else None
    train = seen.values_fixed(dataset.train_images)
    x = seen.read_fixed(dataset.test_images, seed)[:images]
    values: Metrics = {}
    for name, density in fit_baselines(train, seen.levels, seen.binarise != "none", fixed, model.latent).items():
        values |= mean_and_error(name, density.log_prob(x).numpy())
    return rounded(values)
