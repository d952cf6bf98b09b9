"""Records of measured models: reports/studies/models/NAME.json, and images of the model.

NAME.png has images of all kinds, NAME_samples.png the samples for the picture of all models.
"""

import re
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from pipeline.code import CODE_ROOTS, ROOT
from pipeline.config import Params, Section, load_params, read_yaml
from pipeline.data.dataset import Dataset, load_dataset
from pipeline.data.image_format import Binarise, as_pictures
from pipeline.errors import UserError
from pipeline.evaluation.samples import grey_sample
from pipeline.model.checkpoint import Description, TrainedModel, load_model
from pipeline.report import plotting
from pipeline.report.plotting import Figure
from pipeline.storage.files import read_metrics, sha256, write_text
from pipeline.tracking.provenance import git

# Files of a run that a record is made from, at the paths of dvc.yaml.
PARAMS, MODEL, DATA = "params.yaml", "models/vae.safetensors", "data/images.safetensors"
METRICS = {name: f"reports/metrics/{name}.json" for name in ("train", "evaluate", "verify", "compare", "sample")}
FILES = (PARAMS, MODEL, *METRICS.values())

# Sections of params.yaml that determine a model and its measurement.
SETTINGS = ("data", "model", "train", "evaluate", "verify", "compare", "sample")
# Baselines that do not depend on the model.
COMMON_BASELINES = ("uniform", "variances", "covariance", "histogram")
# Metrics that not every model has.
CONDITIONAL = ("log_px_given_label", "log_px_given_label_se", "accuracy", "accuracy_se")
JUDGED = (
    "recognised", "recognised_se", "recognised_real", "asked_for", "asked_for_se", "frechet", "frechet_se",
    "frechet_real",
)  # fmt: skip
# What determines the results of a run. If it differs from the commit, the revision ends in "-dirty".
CODE = (*CODE_ROOTS, "dvc.yaml", "params.yaml", "presets", "requirements.lock")
IMAGES = 12  # images in a row of the picture
SAMPLES = 10  # images in the model's row of the picture of all models


class Pictures(NamedTuple):
    """Images of a model: NAME.png, and the samples of NAME_samples.png, (images, height, width), in [0, 1]."""

    figure: Figure
    samples: NDArray[np.floating]


class Record(Section):
    """A model and its measurement. Nats are means per image.

    Attributes:
        revision: git commit of the code, followed by "-dirty" if the code differed from it; None if it is unknown.
        date: of the record, UTC.
        training_environment: processor and versions of the training.
        environment: the same of the measurement.
        settings: keys of params.yaml that differ from the default, by section.
        images: test images that were measured and have finite numbers.
        gap: inference gap, log p(x) − ELBO.
        reconstruction: E_q log p(x | z); its negative is the distortion.
        kl: KL[q(z | x) ‖ p(z)], the rate.
        trusted: share of the test images whose log p(x) is trusted.
        evaluations_mean: decoder evaluations per test image.
        training_images: number of training images, and of validation images, that were measured.
        train_seconds: None if the training was not timed, because its result came from a cache.
        epochs: passes over the training images.
        epoch: the one whose weights were kept.
        parameters: of encoder and decoder.
        ceiling: the largest log p(x | z) of any image under the observation model; None if there is no limit.
        baselines: nats of the same test images under densities without a network.
        histogram: nats of independent pixels with a histogram each.
        above_histogram: log_px − histogram.
        verified: images whose estimate was compared with annealing.
        difference: mean of the estimate minus the annealed one; `difference_se` is its error.
        log_px_given_label: log p(x | y), which ELBO and gap of a conditional model are about; None for any other model.
        accuracy: of a conditional model as a classifier, argmax p(y | x); None for any other model.
        recognised: share of the samples that the judge recognises; None in records of older code, as the next ones.
        recognised_real: the same of test images.
        asked_for: share of the samples that are of the class asked for; None if the model is not conditional.
        frechet: Fréchet distance of the samples in the judge's features.
        frechet_real: the same of test images.
    """

    name: str
    dataset: str
    binarise: Binarise
    revision: str | None
    date: str
    training_environment: list[str]
    environment: list[str]
    settings: dict[str, dict[str, Any]]
    images: int
    log_px: float
    log_px_se: float | None
    bits_per_dim: float
    elbo: float
    elbo_se: float | None
    gap: float
    reconstruction: float
    kl: float
    active_units: int | None
    latent: int
    trusted: float
    evaluations_mean: float
    training_images: int
    train_log_px: float
    train_log_px_se: float | None
    validation_log_px: float
    validation_log_px_se: float | None
    verified: int | None
    difference: float | None
    difference_se: float | None
    train_seconds: float | None
    epochs: int
    epoch: int
    parameters: int
    ceiling: float | None
    baselines: dict[str, float]
    histogram: float
    above_histogram: float
    model_sha256: str
    log_px_given_label: float | None = None
    log_px_given_label_se: float | None = None
    accuracy: float | None = None
    accuracy_se: float | None = None
    recognised: float | None = None
    recognised_se: float | None = None
    recognised_real: float | None = None
    asked_for: float | None = None
    asked_for_se: float | None = None
    frechet: float | None = None
    frechet_se: float | None = None
    frechet_real: float | None = None


def make(
    name: str, folder: Path, earlier: Record | None, train_seconds: float | None = None, revision: str | None = None
) -> tuple[Record, Pictures]:
    """The record and the pictures of the run in a folder, which holds `FILES`.

    Args:
        earlier: the last record of this name. If it is of the same weights, the time of their training is taken over.
        train_seconds: duration of the training, if it is known.
        revision: commit of the code that ran.

    Raises:
        UserError: if a file is missing or damaged, or if the files do not belong together.
    """
    params = load_params(folder / PARAMS)
    model = load_model(folder / MODEL, torch.device("cpu"))
    require_same_settings(folder, params, model.description)
    if train_seconds is None and earlier and earlier.model_sha256 == model.sha256:
        train_seconds = earlier.train_seconds
    metrics = {key: read_metrics(folder / path) for key, path in METRICS.items()}
    dataset = dataset_of(model.description, folder)
    try:
        found = _of_metrics(**metrics)
    except KeyError as error:
        raise UserError(
            f"the metrics in {folder / 'reports/metrics'} have no {error.args[0]}; run the stages again with this code"
        ) from None
    ceiling = model.vae.decoder.observation.ceiling(model.vae.images.pixels)
    record = Record(
        name=name,
        dataset=model.description.dataset,
        binarise=model.description.binarise,
        revision=revision,
        date=datetime.now(UTC).date().isoformat(),
        settings=changed_settings(read_yaml(ROOT / PARAMS), read_yaml(folder / PARAMS)),
        latent=model.vae.latent,
        train_seconds=train_seconds,
        epochs=params.train.epochs,
        epoch=model.description.epoch,
        parameters=sum(weights.numel() for weights in model.vae.parameters()),
        ceiling=ceiling if np.isfinite(ceiling) else None,
        model_sha256=model.sha256,
        **found,
    )
    return record, Pictures(picture(model, dataset), draw_samples(model, dataset.shape))


def _of_metrics(
    train: dict[str, Any], evaluate: dict[str, Any], verify: dict[str, Any], compare: dict[str, Any],
    sample: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """The fields of a record that are in the metrics. One image has no standard error: None."""
    test, baselines, verified = evaluate["test"], compare["compare"], verify["verify"]
    required = (
        "images", "log_px", "bits_per_dim", "elbo", "gap", "reconstruction", "kl", "trusted", "evaluations_mean",
    )  # fmt: skip
    trained, held_out = evaluate["train"], evaluate["validation"]
    return {
        "training_environment": train["environment"],
        "environment": evaluate["environment"],
        **{key: test[key] for key in required},
        **{key: test.get(key) for key in ("log_px_se", "elbo_se", "active_units", *CONDITIONAL)},
        **{key: sample["sample"].get(key) for key in JUDGED},
        "training_images": trained["images"],
        "train_log_px": trained["log_px"],
        "train_log_px_se": trained.get("log_px_se"),
        "validation_log_px": held_out["log_px"],
        "validation_log_px_se": held_out.get("log_px_se"),
        "verified": verified.get("images"),
        **{key: verified.get(key) for key in ("difference", "difference_se")},
        "baselines": {key: baselines[key] for key in COMMON_BASELINES if key in baselines},
        "histogram": baselines["histogram"],
        "above_histogram": round(test["log_px"] - baselines["histogram"], 4),
    }


def changed_settings(default: Mapping[str, Any], used: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Keys of a params.yaml that differ from the default and can change a result, by section."""
    changes = {
        section: {key: value for key, value in used[section].items() if default[section].get(key) != value}
        for section in SETTINGS
    }
    return {section: values for section, values in changes.items() if values}


def require_same_settings(folder: Path, params: Params, description: Description) -> None:
    """Raise an error if the model of a folder was not trained with the folder's parameters.

    Raises:
        UserError: as said.
    """
    pairs = {
        "model": (params.model, description.model),
        "data.name": (params.data.name, description.dataset),
        "data.binarise": (params.data.binarise, description.binarise),
        "train.validation": (params.train.validation, description.validation),
        "train.seed": (params.train.seed, description.seed),
    }
    if different := [key for key, (wanted, used) in pairs.items() if wanted != used]:
        raise UserError(
            f"{folder / MODEL} was trained with other settings than {folder / PARAMS} has ({', '.join(different)}); "
            "run the stages again, for example with `dvc repro`"
        )


def dataset_of(description: Description, folder: Path) -> Dataset:
    """The data set that a model was trained on: the file in the folder, or in the current one.

    Raises:
        UserError: if neither is that data set.
    """
    for path in (folder / DATA, Path(DATA)):
        if path.is_file() and sha256(path) == description.data_sha256:
            return load_dataset(path)
    raise UserError(
        f"{DATA} is not the data set {description.dataset} that the model was trained on; run `dvc repro download`, or "
        f"copy it to {folder / DATA}"
    )


@torch.inference_mode()
def picture(model: TrainedModel, dataset: Dataset) -> Figure:
    """Rows of images: test images, their reconstructions, means of the decoder at samples of the prior, and draws of
    all pixels there. A conditional model is asked for one class after another."""
    vae, images = model.vae, model.vae.images
    clean, labels = images.read_clean(dataset.test_images[:IMAGES]), dataset.test_labels[:IMAGES].long()
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(len(clean), vae.latent, generator=generator)
    asked = vae.labels_in_turn(len(noise))
    decoded = vae.generate(noise, asked)
    title = (
        "samples of the prior\nE[x | z], z ~ p(z)" if asked is None else "each class in turn\nE[x | z], z ~ p(z | y)"
    )
    rows = {
        "test images x": grey_sample(clean, images, discrete=True),
        "reconstructions\nE[x | z = μ(x)]": vae.decoder(vae.encoder(clean, labels).mean, labels).mean,
        title: decoded.mean,
        "the same, pixels drawn\nx ~ p(x | z)": grey_sample(decoded.sample(generator), images, discrete=True),
    }
    return plotting.grid(np.stack([as_images(x, dataset.shape) for x in rows.values()]), row_labels=list(rows))


@torch.inference_mode()
def draw_samples(model: TrainedModel, shape: tuple[int, ...]) -> NDArray[np.floating]:
    """Samples for the model's row in the picture of all models: means of the decoder, as images.

    Args:
        shape: of an image as a tensor.
    """
    noise = torch.randn(SAMPLES, model.vae.latent, generator=torch.Generator().manual_seed(1))
    return as_images(model.vae.generate(noise, model.vae.labels_in_turn(SAMPLES)).mean, shape)


def as_images(x: Float[Tensor, "n pixels"], shape: tuple[int, ...]) -> NDArray[np.floating]:
    """Rows of pixels as images (n, height, width), or (n, height, width, 3) in colour."""
    return as_pictures(x.numpy(), shape)


def revision_of(folder: Path) -> str | None:
    """The git commit of a folder, with "-dirty" if the code there differs from it; None if the folder has no code."""
    has_code = git("-C", str(folder), "ls-files", "dvc.yaml")
    commit = git("-C", str(folder), "rev-parse", "HEAD") if has_code else ""
    edited = git("-C", str(folder), "status", "--porcelain", "--", *CODE)
    return f"{commit}{'-dirty' if edited else ''}" if commit else None


def seconds_of_training(output: str) -> float | None:
    """What stage train printed of its duration; None if it did not run."""
    times = re.findall(r"^training took ([\d.]+) s$", output, re.MULTILINE)
    return float(times[-1]) if times else None


def write(record: Record, pictures: Pictures, folder: Path) -> None:
    """Write NAME.json, NAME.png and NAME_samples.png."""
    plotting.save(pictures.figure, folder / f"{record.name}.png")
    plotting.save(plotting.strip(pictures.samples), folder / f"{record.name}_samples.png")
    write_text(folder / f"{record.name}.json", record.model_dump_json(indent=2) + "\n")


def read(folder: Path, names: Iterable[str]) -> dict[str, Record]:
    """The records that exist, by name."""
    found = {name: read_one(folder / f"{name}.json") for name in names}
    return {name: record for name, record in found.items() if record}


def read_one(path: Path) -> Record | None:
    """A record. None if it does not exist, or, with a warning, if it is damaged or from another version of the code."""
    if not path.is_file():
        return None
    try:
        return Record.model_validate_json(path.read_bytes())
    except ValidationError as error:
        mistake = error.errors()[0]
        reason = f"{'.'.join(map(str, mistake['loc']))}: {mistake['msg']}"
        print(f"warning: {path} is no record of this version ({reason}): measure the model again", file=sys.stderr)
        return None
