"""The images to train on, and those held out for validation."""

import torch
from jaxtyping import Int
from torch import Tensor

from pipeline.errors import UserError


def split(images: int, validation: float, seed: int) -> tuple[Int[Tensor, " train"], Int[Tensor, " held_out"]]:
    """Indices of the images to train on and of those held out: a random split, fixed by the seed.

    Raises:
        UserError: if one of the two parts is empty.
    """
    held_out = round(images * validation)
    if not 0 < held_out < images:
        raise UserError(
            f"train.validation = {validation} of {images} images leaves one part of the split empty; "
            "choose another fraction"
        )
    order = torch.randperm(images, generator=torch.Generator().manual_seed(seed))
    return order[held_out:].sort().values, order[:held_out].sort().values
