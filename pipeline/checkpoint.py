"""A trained model in one file: its weights, and all that is needed to build and to identify it."""

import json
from pathlib import Path

from pydantic import ValidationError
from torch import Tensor, nn

from pipeline import tensors
from pipeline.config import Model, Section
from pipeline.errors import UserError


class Description(Section):
    """What a model is: its architecture, and the data that it was trained on."""

    model: Model
    height: int
    width: int
    levels: int
    dataset: str
    data_sha256: str
    epoch: int


def save(path: Path, weights: dict[str, Tensor], description: Description) -> None:
    """Write weights and description atomically, as safetensors."""
    tensors.save(path, weights, description.model_dump())


def load(path: Path) -> tuple[dict[str, Tensor], Description]:
    """Read weights and description.

    Raises:
        UserError: when the file is missing, damaged or not a model of this project.
    """
    weights, description = tensors.load(path)
    try:
        return weights, Description.model_validate_json(json.dumps(description))
    except ValidationError as error:
        problem = error.errors()[0]
        raise UserError(
            f"{path} is not a model of this project ({problem['loc']}: {problem['msg']}); "
            "delete it and run `dvc repro` to make it again"
        ) from None


def restore(module: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Put the weights into the module and set it to evaluation.

    Raises:
        UserError: when they do not fit.
    """
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{path}: the weights do not fit the model it describes: {error}") from None
    module.eval()
