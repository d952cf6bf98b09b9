"""Fully connected networks."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from pipeline.config import Model
from pipeline.data.image_format import ImageFormat
from pipeline.model.activations import ACTIVATIONS


def encoder(settings: Model, images: ImageFormat, classes: int, outputs: int) -> nn.Sequential:
    """From x and the label to `outputs` numbers."""
    return layers([images.pixels + classes, *settings.encoder, outputs], settings.activation)


def decoder(settings: Model, images: ImageFormat, classes: int, features: int) -> nn.Sequential:
    """From z and the label to `features` numbers per pixel, in colour per pixel and channel."""
    return layers([settings.latent + classes, *settings.decoder, features * images.pixels], settings.activation)


def layers(sizes: Sequence[int], activation: str) -> nn.Sequential:
    """Linear layers from each size to the next, with the activation between layers but not after the last."""
    parts: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        if i > 0:
            parts.append(ACTIVATIONS[activation]())
        parts.append(nn.Linear(inputs, outputs))
    return nn.Sequential(*parts)
