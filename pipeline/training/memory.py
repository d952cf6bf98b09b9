"""How much memory a training needs."""

import torch

from pipeline.config import Model
from pipeline.model.vae import VAE


def memory(settings: Model, pixels: int) -> int:
    """Bytes of a training's tensors that are as large as the weights.

    There are six: the weights, the best weights, two moments of the optimiser, and the gradients twice. The second
    gradients are the message between processes, or belong to a captured step for another batch size.
    """
    with torch.device("meta"):
        return 6 * sum(parameter.nbytes for parameter in VAE(settings, pixels).parameters())
