"""What a trained model can do: draw, reconstruct, encode and measure images.

    model = load()
    sevens = draw(model, 10, digit=7)  # the digit: of a model with `condition: label`
    print(measure(model, sevens))

Images are as in the model's data set: uint8 tensors (images, height, width) of grey levels, 0 to 255 for MNIST.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.scm import SCMError
from jaxtyping import Float, Integer, UInt8
from torch import Tensor

from logpx.block import Settings
from logpx.noise import BLOCK
from pipeline.data.image_format import ImageFormat
from pipeline.errors import UserError
from pipeline.evaluation.elbo import elbos
from pipeline.evaluation.every_label import estimates, sum_over_labels
from pipeline.evaluation.samples import grey_mean
from pipeline.model.checkpoint import TrainedModel, load_model
from pipeline.model.labels import Labels
from pipeline.model.vae import VAE
from pipeline.storage.files import main_repository

MODEL = "models/vae.safetensors"
AT_ONCE = 500  # images drawn or decoded at once

Images = UInt8[Tensor, "images *shape"]  # (images, 3, height, width) in colour


def load(model: str | Path = MODEL) -> TrainedModel:
    """Load a trained model.

    Args:
        model: the path of its file, or a revision of this repository: a DVC experiment, a branch, a commit.

    Raises:
        UserError: if there is neither.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if Path(model).is_file() or model == MODEL:
        return load_model(Path(model), device)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "vae.safetensors"
        try:
            Repo.get(str(main_repository()), MODEL, out=str(target), rev=str(model))
        except (DvcException, SCMError, OSError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(
                f"model {model} is neither a file nor a revision whose model is in DVC's cache ({reason}); "
                "`dvc exp show` lists the experiments"
            ) from None
        return load_model(target, device)


def draw(model: TrainedModel, count: int, digit: int | None = None, seed: int = 0) -> Images:
    """Draw images: the mean of p(x | z) for each z of the prior.

    Args:
        digit: the class of all images, if the model is conditional. None asks for one class after another.
        seed: of z.

    Raises:
        UserError: for a digit that the model does not know, or a model without labels.
    """
    vae = model.vae
    noise = torch.randn(count, vae.latent, generator=torch.Generator().manual_seed(seed)).to(vae.prior.zero)
    labels = vae.labels_in_turn(count) if digit is None else _labels(vae, [digit] * count, count)
    parts = []
    with torch.inference_mode():
        for some in torch.arange(count).split(AT_ONCE):
            parts.append(_shown(vae, vae.prior.from_noise(noise[some], _of(labels, some)), _of(labels, some)))
    return torch.cat(parts)


def reconstruct(model: TrainedModel, images: Images, labels: Sequence[int] | None = None) -> Images:
    """Encode images and decode the means: the mean of p(x | z) at z = μ(x).

    Args:
        labels: the class of each image, if the model is conditional.

    Raises:
        UserError: for images or labels that do not fit the model.
    """
    vae = model.vae
    mean, _ = encode(model, images, labels)
    y = _needed_labels(vae, labels, len(images))
    with torch.inference_mode():
        parts = torch.arange(len(images)).split(AT_ONCE)
        return torch.cat([_shown(vae, mean[some].to(vae.prior.zero), _of(y, some)) for some in parts])


def encode(
    model: TrainedModel, images: Images, labels: Sequence[int] | None = None
) -> tuple[Float[Tensor, "images latent"], Float[Tensor, "images latent"]]:
    """Mean and standard deviation of q(z | x), for x in the middle of each pixel's cell.

    Args:
        labels: the class of each image, if the model is conditional.

    Raises:
        UserError: for images or labels that do not fit the model.
    """
    vae = model.vae
    check_images(vae.images, images)
    x = vae.images.read_clean(images).to(vae.prior.zero)
    mean, deviation = vae.encode(x, _needed_labels(vae, labels, len(images)))
    return mean.cpu(), deviation.cpu()


def measure(model: TrainedModel, images: Images, seed: int = 1) -> pd.DataFrame:
    """Estimate log p(x) of each image: a row with

    log_px and log_px_se, the estimate and its standard error in nats; bits_per_dim; trusted, the verdict (see
    docs/method.md); and, of a conditional model, predicted: the likeliest class. log p(x) of such a model is the sum
    over all classes.

    Args:
        seed: of dequantisation and importance samples. The stage `evaluate` has 1, so its test images get its numbers.

    Raises:
        UserError: for images that do not fit the model.
    """
    vae = model.vae
    check_images(vae.images, images)
    x = vae.images.read_fixed(images, seed).to(vae.prior.zero)
    settings, estimate = Settings(seed=seed), estimates(vae)
    y = likeliest(vae, x, seed) if vae.classes else None
    found = estimate("", x, y, settings)
    columns = {"log_px": found["log_px"], "log_px_se": found["standard_error"], "trusted": found["trusted"]}
    if y is not None:
        columns = sum_over_labels(vae, estimate, x, settings, found, y)
    table = pd.DataFrame({name: values.numpy() for name, values in columns.items()})
    table.insert(2, "bits_per_dim", [vae.images.bits_per_dim(nats) for nats in table["log_px"]])
    return table


def likeliest(vae: VAE, x: Float[Tensor, "images pixels"], seed: int) -> Integer[Tensor, " images"]:
    """The label with the largest ELBO of each image: the one whose log p(x | y) deserves the most samples."""
    labels = torch.tensor(vae.labels(), device=x.device)
    bounds = [
        elbos(vae, x, label.expand(len(x)), samples=BLOCK, seed=seed, chunk=AT_ONCE * BLOCK).value for label in labels
    ]
    return labels[torch.stack(bounds).argmax(0).to(labels.device)]


def check_images(known: ImageFormat, images: Tensor) -> None:
    """Raise an error if images are not of the model's kind.

    Raises:
        UserError: it says what is wrong and what the model takes.
    """
    shape = ", ".join(map(str, known.shape))
    if images.dtype != torch.uint8 or images.shape[1:] != known.shape:
        raise UserError(
            f"images are {images.dtype} of shape {tuple(images.shape)}, not uint8 of shape (images, {shape})"
        )
    if not len(images):
        raise UserError("there are no images")
    if (largest := int(images.max())) >= known.grey_levels:
        raise UserError(f"images have levels up to {largest}; this model knows 0 to {known.grey_levels - 1}")


def _shown(vae: VAE, z: Float[Tensor, "images latent"], y: Labels) -> Images:
    """The mean of p(x | z, y) in grey levels."""
    grey = grey_mean(vae.decoder(z, y), vae.images) * (vae.images.grey_levels - 1)
    return grey.round().to(torch.uint8).view(-1, *vae.images.shape).cpu()


def _needed_labels(vae: VAE, labels: Sequence[int] | None, images: int) -> Labels:
    """Labels of images, for a model that needs them; None for any other."""
    if not vae.classes:
        return None
    if labels is None:
        raise UserError(f"this model is conditional and needs the label of each image: one of {vae.labels()}")
    return _labels(vae, labels, images)


def _labels(vae: VAE, labels: Sequence[int], images: int) -> Labels:
    if not vae.classes:
        raise UserError(
            "this model knows no labels, so no digit can be asked for; train one with model.condition=label"
        )
    if unknown := sorted(set(labels) - set(vae.labels())):
        raise UserError(f"label {unknown[0]}: this model knows {vae.labels()}")
    if len(labels) != images:
        raise UserError(f"{len(labels)} labels for {images} images: each image needs one")
    return torch.tensor(labels, device=vae.prior.zero.device)


def _of(labels: Labels, some: Tensor) -> Labels:
    return None if labels is None else labels[some.to(labels.device)]
