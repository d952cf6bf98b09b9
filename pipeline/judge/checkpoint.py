"""A trained judge in one file: its weights, and a description to build it from."""

import json
from pathlib import Path

import torch
from pydantic import ValidationError

from pipeline.config import Section
from pipeline.data.dataset import Dataset
from pipeline.errors import UserError
from pipeline.judge.classifier import Judge
from pipeline.storage.files import unusable
from pipeline.storage.tensors import load_tensors, save_tensors


class Description(Section):
    """Size and number of classes of the images that a judge was trained on, and their data set."""

    height: int
    width: int
    classes: int
    dataset: str


def save_judge(path: Path, judge: Judge, dataset: str) -> None:
    """Write weights and description atomically, as a safetensors file.

    Args:
        dataset: name of the data set.
    """
    description = Description(height=judge.height, width=judge.width, classes=judge.classes, dataset=dataset)
    save_tensors(path, judge.state_dict(), description.model_dump())


def load_judge(path: Path, dataset: Dataset, device: torch.device) -> Judge:
    """Build the judge that a file describes, on `device` and in evaluation mode.

    Args:
        dataset: the data set whose images it is to judge.

    Raises:
        UserError: if the file is missing, damaged, not a judge of this project, or the judge of another data set.
    """
    weights, content = load_tensors(path)
    try:
        description = Description.model_validate_json(json.dumps(content))
        if (description.dataset, description.height, description.width) != (dataset.name, *dataset.shape):
            raise UserError(
                f"{path}: this judge was trained on {description.dataset} of {description.height} x "
                f"{description.width} pixels, not on {dataset.name}; run `dvc repro` to train one"
            )
        judge = Judge(description.height, description.width, description.classes)
        judge.load_state_dict(weights)
    except (ValidationError, RuntimeError) as error:
        raise unusable(path, f"is not a judge of this project ({str(error).splitlines()[0]})") from None
    return judge.eval().to(device)
