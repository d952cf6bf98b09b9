"""A trained model in one file: its weights, and a description to build it from and to identify it by."""

import json
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from pipeline.config import Model, Section
from pipeline.data.image_format import Binarise, ImageFormat
from pipeline.errors import UserError
from pipeline.model.vae import VAE
from pipeline.storage.files import sha256, unusable
from pipeline.storage.tensors import load_tensors, save_tensors


class Description(Section):
    """Architecture and training data of a model: everything in its file except the weights.

    `shares` are those of the classes among the training images, if the model is conditional. `epoch` is the one whose
    weights are kept. `validation` and `seed` of the training say which images it held out.
    """

    model: Model
    height: int
    width: int
    grey_levels: int
    binarise: Binarise
    shares: tuple[float, ...]
    dataset: str
    data_sha256: str
    epoch: int
    validation: float
    seed: int
    channels: int = 1  # the file of a model of grey images does not name it

    @property
    def images(self) -> ImageFormat:
        return ImageFormat(self.height, self.width, self.grey_levels, self.binarise, self.channels)


class TrainedModel(NamedTuple):
    """A model read from its file: on a device and in evaluation mode.

    Attributes:
        sha256: digest of the file, which identifies the model.
    """

    vae: VAE
    description: Description
    sha256: str

    @property
    def data(self) -> tuple[str, str]:
        """Name and digest of the data set that it was trained on."""
        return self.description.dataset, self.description.data_sha256


def save_checkpoint(path: Path, weights: dict[str, Tensor], description: Description) -> None:
    """Write weights and description atomically, as a safetensors file."""
    save_tensors(path, weights, description.model_dump(exclude_defaults=True))


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], Description]:
    """Read weights and description.

    Raises:
        UserError: if the file is missing, damaged, or not a model of this project.
    """
    weights, description = load_tensors(path)
    try:
        return weights, Description.model_validate_json(json.dumps(description))
    except ValidationError as error:
        problem = error.errors()[0]
        raise unusable(path, f"is not a model of this project ({problem['loc']}: {problem['msg']})") from None


def load_weights(module: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Load the weights into the module and set it to evaluation mode.

    Args:
        path: the file that the weights come from, for the message.

    Raises:
        UserError: if names or shapes differ.
    """
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path}: the weights do not fit the model that it describes ({reason}); "
            "delete it and run `dvc repro` to make it again"
        ) from None
    module.eval()


def load_model(path: Path, device: torch.device) -> TrainedModel:
    """Build the model that a file describes, with its weights, on `device`.

    Raises:
        UserError: if the file is missing, damaged, or not a model of this project.
    """
    weights, description = load_checkpoint(path)
    vae = VAE(description.model, description.images, description.shares)
    load_weights(vae, weights, path)
    return TrainedModel(vae.to(device), description, sha256(path))
