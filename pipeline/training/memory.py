"""How much memory a training needs."""

from collections.abc import Sequence

import torch

from pipeline.config import Model
from pipeline.data.image_format import ImageFormat
from pipeline.model.vae import VAE


def memory(settings: Model, images: ImageFormat, shares: Sequence[float], rollbacks: int) -> int:
    """The most bytes of a training's tensors that are as large as the weights.

    There are six at the end of an epoch: the weights, the best weights, those that replace them, two moments of the
    optimiser, and the gradients. With rollbacks there are four more, the weights, best weights and moments at the
    epoch's start. Several processes exchange a message within a step, when no best weights are replaced.
    """
    with torch.device("meta"):
        weights = sum(parameter.nbytes for parameter in VAE(settings, images, shares).parameters())
    return weights * (10 if rollbacks else 6)
