"""Images that the model draws, and numbers that say how much they are like the data.

Each number of samples stands beside the same number of test images, `_real`, and of training images, `_train`. All are
compared with the same reference: other training images.

Images whose labels do not tell them apart have no judge. Then the verdicts are empty, and only distances to training
images are measured.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from logpx.observations.cells import grey_levels
from logpx.observations.distribution import ImageDistribution
from pipeline.config import Sample
from pipeline.data.dataset import Dataset
from pipeline.data.image_format import ImageFormat, as_pictures
from pipeline.evaluation.sample_metrics import (
    Nearest,
    frechet_and_error,
    nearest,
    neighbourhoods,
    total_variation,
)
from pipeline.evaluation.summary import Metrics, mean_and_error, rounded
from pipeline.judge.classifier import Judge, Verdicts, judge_images, to_grey
from pipeline.model.vae import VAE

DRAWN_AT_ONCE = 250  # images; some observation models have hundreds of parameters per pixel
COMPARED = 5_000  # images of each set whose neighbours are searched: the cost is quadratic
SEARCHED = 2_000  # images whose nearest training image is searched, among all training images
SHOWN = 200  # images that are kept
ROWS, COLUMNS = 10, 10  # of the picture
NO_VERDICTS = Verdicts(torch.zeros(0, dtype=torch.long), torch.zeros(0), torch.zeros(0, 0))
NEAREST = 0.01  # share of the test images that are nearer to a training image than the distance of `memorised`


@dataclass(frozen=True)
class Drawn:
    """Images that the model drew, and what the judge says about them; on the CPU.

    Attributes:
        labels: the class asked for, of a conditional model.
        images: the first ones, pixels in [0, 1]: the means of p(x | z).
        clean: verdicts on the means.
        noisy: verdicts on x ~ p(x | z), for the same z.
    """

    labels: Int[Tensor, " drawn"] | None
    images: Float[Tensor, "first pixels"]
    clean: Verdicts
    noisy: Verdicts


def draw(vae: VAE, judge: Judge | None, settings: Sample) -> Drawn:
    """Draw images and judge them. All randomness is drawn on the CPU, so that it is the same for every device."""
    if judge is None:  # then no image but the first ones is measured
        settings = settings.model_copy(update={"images": min(settings.images, SEARCHED)})
    generator = torch.Generator().manual_seed(settings.seed)
    asked = vae.labels_in_turn(settings.images)
    labels, images, clean, noisy = None if asked is None else asked.cpu(), [], [], []
    for part in _ranges(settings.images):
        mean, sample = _generate(vae, len(part), None if labels is None else labels[part.start : part.stop], generator)
        clean.append(_verdicts(judge, mean))
        noisy.append(_verdicts(judge, sample))
        if part.start < SEARCHED:
            images.append(mean.cpu())
    return Drawn(labels, torch.cat(images)[:SEARCHED], Verdicts.join(clean), Verdicts.join(noisy))


def _verdicts(judge: Judge | None, grey: Float[Tensor, "images pixels"]) -> Verdicts:
    return judge_images(judge, grey) if judge else NO_VERDICTS


@torch.inference_mode()
def _generate(
    vae: VAE, count: int, labels: Int[Tensor, " {count}"] | None, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The mean of p(x | z), and x ~ p(x | z), as grey images."""
    device = vae.prior.zero.device
    noise = torch.randn(count, vae.latent, generator=generator).to(device)
    p = vae.generate(noise, None if labels is None else labels.to(device))
    x = p.observation.sample(p.parameters.cpu(), generator=generator)
    return grey_mean(p, vae.images), grey_sample(x, vae.images, discrete=p.observation.discrete)


def grey_mean(p: ImageDistribution, images: ImageFormat) -> Float[Tensor, "images pixels"]:
    """The mean of p(x | z) as the judge sees images: that of v / (levels − 1), for x = (v + ½) / levels.

    Of binarised images it is P(v = 1).
    """
    return p.mean.clamp(0, 1) if images.binarise != "none" else _grey(p.mean, images.levels)


def grey_sample(
    x: Float[Tensor, "images pixels"], images: ImageFormat, *, discrete: bool
) -> Float[Tensor, "images pixels"]:
    """Drawn x as the judge sees images: v / (levels − 1) for the level v that a discrete observation model drew."""
    levels = images.levels
    return grey_levels(x, levels).to(x) / (levels - 1) if discrete else _grey(x, levels)


def _grey(x: Float[Tensor, "images pixels"], levels: int) -> Float[Tensor, "images pixels"]:
    """(levels x − ½) / (levels − 1), in [0, 1]: v / (levels − 1) of x = (v + ½) / levels."""
    return ((x * levels - 0.5) / (levels - 1)).clamp(0, 1)


def _ranges(count: int) -> Iterator[range]:
    for start in range(0, count, DRAWN_AT_ONCE):
        yield range(start, min(start + DRAWN_AT_ONCE, count))


@dataclass(frozen=True)
class References:
    """Real images that drawn ones are compared with, as the judge sees them.

    Attributes:
        test: verdicts on test images.
        test_labels: their classes.
        train: verdicts on training images, which take the part of samples: they show the natural values.
        train_labels: their classes.
        reference: features of other training images, with which all sets are compared.
        shares: the share of each class among all training images.
        nearest: the training images nearest to the first test images.
        compared: number of images of each set, the same for all, since distances of sets depend on their sizes.
    """

    test: Verdicts
    test_labels: Int[Tensor, " test"]
    train: Verdicts
    train_labels: Int[Tensor, " train"]
    reference: Float[Tensor, "reference features"]
    shares: tuple[float, ...]
    nearest: Nearest
    compared: int


def references(dataset: Dataset, judge: Judge | None, settings: Sample) -> References:
    """Test images and two disjoint random sets of training images, up to `settings.images` of each, judged."""
    test, half = dataset.test_images[: settings.images].flatten(1), len(dataset.train_images) // 2
    generator = torch.Generator().manual_seed(settings.seed)
    order = torch.randperm(len(dataset.train_images), generator=generator)
    train, other = (part[: settings.images] for part in (order[:half], order[half:]))
    verdicts = [
        _verdicts(judge, to_grey(images, dataset.levels))
        for images in (test, dataset.train_images[train].flatten(1), dataset.train_images[other].flatten(1))
    ]
    device = judge.scale.device if judge else torch.device("cpu")
    found = nearest_training(to_grey(test[:SEARCHED], dataset.levels), dataset, device)
    return References(
        verdicts[0], dataset.test_labels[: settings.images].long(), verdicts[1], dataset.train_labels[train].long(),
        verdicts[2].features, dataset.class_shares(), found, min(len(test), len(train), settings.images),
    )  # fmt: skip


def nearest_training(grey: Float[Tensor, "images pixels"], dataset: Dataset, device: torch.device) -> Nearest:
    """The nearest training image of each image with pixels in [0, 1]; searched on `device`."""
    return nearest(grey.to(device), dataset.train_images.flatten(1), dataset.levels)


def measure(drawn: Drawn, found: Nearest, real: References) -> Metrics:
    """All numbers of drawn images and, with `_real` and `_train`, of test and training images; with errors as `_se`.

    Errors are over the images of a set; the reference counts as fixed.

    recognised: share of which the judge is sure. class_spread: total variation distance of their classes' shares from
    the data's. asked_for: share whose class is the label asked for; of real images, the judge's accuracy. memorised:
    share nearer to a training image than all but 1 % of the test images are. distance: median distance to the nearest
    training image. For the others see `sample_metrics`.

    Args:
        found: the training images nearest to `drawn.images`.
    """
    judged = len(drawn.clean.classes) > 0
    values = _of_judge(drawn, real) if judged else {"images": len(drawn.images), "images_real": len(real.test_labels)}
    limit = real.nearest.distance.quantile(NEAREST)
    for end, distance in (("", found.distance), ("_real", real.nearest.distance)):
        values |= mean_and_error(f"memorised{end}", (distance < limit).double().numpy())
        values[f"distance{end}"] = float(distance.median())
    return rounded(values)


def _of_judge(drawn: Drawn, real: References) -> Metrics:
    """All numbers that follow from the judge's verdicts."""
    values: Metrics = {"images": len(drawn.clean.classes), "images_real": len(real.test.classes)}
    sets = {
        "": (drawn.clean, drawn.labels),
        "_real": (real.test, real.test_labels),
        "_train": (real.train, real.train_labels),
    }
    for end, (verdicts, labels) in sets.items():
        values |= of_verdicts(end, verdicts, None if drawn.labels is None else labels, real)
    values |= mean_and_error("noisy_recognised", drawn.noisy.recognised.double().numpy())
    first = slice(real.compared)
    return values | with_error("noisy_frechet", frechet_and_error(drawn.noisy.features[first], real.reference[first]))


def of_verdicts(end: str, verdicts: Verdicts, asked: Int[Tensor, " images"] | None, real: References) -> Metrics:
    """The numbers of a set of images that follow from the judge's verdicts; `end` is appended to their names.

    Args:
        asked: the class that each image should have, or None.
    """
    values = mean_and_error(f"recognised{end}", verdicts.recognised.double().numpy())
    values |= with_error(f"class_spread{end}", total_variation(verdicts.classes, real.shares))
    if asked is not None:
        values |= mean_and_error(f"asked_for{end}", (verdicts.classes == asked).double().numpy())
    features, reference = verdicts.features[: real.compared], real.reference[: real.compared]
    values |= with_error(f"frechet{end}", frechet_and_error(features, reference))
    inside = neighbourhoods(features[:COMPARED], reference[:COMPARED])
    for name, shares in inside._asdict().items():
        values |= mean_and_error(f"{name}{end}", shares)
    return values


def with_error(name: str, value_and_error: tuple[float, float]) -> Metrics:
    """A value, and its standard error as `NAME_se`."""
    return dict(zip((name, f"{name}_se"), value_and_error, strict=True))


def shown(drawn: Drawn, found: Nearest) -> dict[str, Tensor]:
    """The first drawn images as bytes, the class asked for, the judge's verdicts, and the nearest training images.

    Args:
        found: the training images nearest to `drawn.images`.
    """
    first = slice(SHOWN)
    tensors = {
        "images": (drawn.images[first] * 255).round().to(torch.uint8),
        "nearest": found.image[first],
        "distance": found.distance[first],
    }
    if len(drawn.clean.classes):
        tensors |= {"judged": drawn.clean.classes[first], "confidence": drawn.clean.confidence[first]}
    return tensors if drawn.labels is None else tensors | {"labels": drawn.labels[first]}


def picture(drawn: Drawn, shape: tuple[int, ...]) -> tuple[Float[np.ndarray, "images *shape"], list[str]]:
    """Drawn images for `ROWS` rows, and a label below each column: the class asked for, of a conditional model.

    Args:
        shape: of an image as a tensor.
    """
    classes = [] if drawn.labels is None else drawn.labels.unique().tolist()
    period, columns = len(classes) or COLUMNS, min(len(classes) or COLUMNS, COLUMNS)
    chosen = [image for image in range(len(drawn.images)) if image % period < columns][: ROWS * columns]
    return as_pictures(drawn.images[chosen].numpy(), shape), [str(label) for label in classes[:columns]]
