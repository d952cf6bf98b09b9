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
    """Size and number of classes of the images that a judge was trained on, and their data set.

    Without classes there is no judge. The file of a judge of grey images does not name the channels.
    """

    height: int
    width: int
    classes: int
    dataset: str
    channels: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an image as a tensor."""
        size = self.height, self.width
        return size if self.channels == 1 else (self.channels, *size)


def save_judge(path: Path, judge: Judge | None, dataset: Dataset) -> None:
    """Write weights and description atomically, as a safetensors file.

    Args:
        judge: None if the images have no labels that a judge could learn.
        dataset: the data set that it was trained on.
    """
    *channels, height, width = dataset.shape
    description = Description(
        height=height, width=width, classes=judge.classes if judge else 0, dataset=dataset.name,
        channels=channels[0] if channels else 1,
    )  # fmt: skip
    save_tensors(path, judge.state_dict() if judge else {}, description.model_dump(exclude_defaults=True))


def load_judge(path: Path, dataset: Dataset, device: torch.device) -> Judge | None:
    """Build the judge that a file describes, on `device` and in evaluation mode. None if there is none.

    Args:
        dataset: the data set whose images it is to judge.

    Raises:
        UserError: if the file is missing, damaged, not a judge of this project, or the judge of another data set.
    """
    weights, content = load_tensors(path)
    try:
        description = Description.model_validate_json(json.dumps(content))
        if (description.dataset, description.shape) != (dataset.name, dataset.shape):
            raise UserError(
                f"{path}: this judge was trained on {description.dataset} of {description.height} x "
                f"{description.width} pixels{' in colour' if description.channels > 1 else ''}, not on {dataset.name}; "
                "run `dvc repro` to train one"
            )
        if not description.classes:
            return None
        judge = Judge(description.height, description.width, description.classes, description.channels)
        judge.load_state_dict(weights)
    except (ValidationError, RuntimeError) as error:
        raise unusable(path, f"is not a judge of this project ({str(error).splitlines()[0]})") from None
    return judge.eval().to(device)
