"""Residual convolutional networks (He et al. 2016): blocks at half and at a quarter of the images' height and width.

All convolutions but the last work at these sizes, where they cost a fraction of what they would at full size. Height
and width change by convolutions with stride 2, and back by pixel shuffles (Shi et al. 2016), whose backward pass is
deterministic on every device. There is no normalisation, so that p(x | z) of an image does not depend on the others in
its batch: blocks start as the identity instead (Zhang et al. 2019, "Fixup").
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.config import Model
from pipeline.data.image_format import ImageFormat
from pipeline.model.activations import ACTIVATIONS


class Block(nn.Module):
    """h + conv(φ(conv(φ(h)))), the identity at first."""

    def __init__(self, channels: int, activation: str) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, h: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n channels height width"]:
        return h + self.second(self.activation(self.first(self.activation(h))))


def blocks(channels: int, settings: Model) -> list[nn.Module]:
    return [Block(channels, settings.activation) for _ in range(settings.depth)]


class Encoder(nn.Module):
    """From x and the label to `outputs` numbers. The label is a plane for each class, of ones or zeros."""

    def __init__(self, settings: Model, images: ImageFormat, classes: int, outputs: int) -> None:
        super().__init__()
        self.shape = images.height, images.width
        self.channels = images.channels
        self.parts = images.pixels, classes
        width, activation = settings.width, ACTIVATIONS[settings.activation]
        self.convolutions = nn.Sequential(
            nn.Conv2d(images.channels + classes, width, 5, stride=2, padding=2),
            *blocks(width, settings),
            activation(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            *blocks(2 * width, settings),
            activation(),
        )
        rows, columns = quarter(images)
        self.output = nn.Linear(2 * width * rows * columns, outputs)

    def forward(self, inputs: Float[Tensor, "n inputs"]) -> Float[Tensor, "n outputs"]:
        x, label = inputs.split(self.parts, 1)
        planes = label[:, :, None, None].expand(-1, -1, *self.shape)
        h = self.convolutions(torch.cat([x.unflatten(1, (self.channels, *self.shape)), planes], 1))
        return self.output(h.permute(0, 2, 3, 1).flatten(1))


class Decoder(nn.Module):
    """From z and the label to `features` numbers per pixel, in colour per pixel and channel."""

    def __init__(self, settings: Model, images: ImageFormat, classes: int, features: int) -> None:
        super().__init__()
        width, activation = settings.width, ACTIVATIONS[settings.activation]
        full = max(width // 2, 1)  # channels at full size
        self.shape = *quarter(images), 2 * width
        self.input = nn.Linear(settings.latent + classes, math.prod(self.shape))
        self.convolutions = nn.Sequential(
            *blocks(2 * width, settings),
            activation(),
            Enlarge(2 * width, width, half(images)),
            *blocks(width, settings),
            activation(),
            Enlarge(width, full, (images.height, images.width)),
            activation(),
            nn.Conv2d(full, features * images.channels, 3, padding=1),
        )

    def forward(self, inputs: Float[Tensor, "n inputs"]) -> Float[Tensor, "n parameters"]:
        h = self.input(inputs).unflatten(1, self.shape).permute(0, 3, 1, 2)
        return self.convolutions(h).flatten(1)


class Enlarge(nn.Module):
    """A convolution to four times as many channels, which become four pixels, cut to `size`.

    A pixel's channels stay side by side, as they are in memory (channels last). PyTorch's `pixel_shuffle` orders the
    channels differently, and takes three times as long for such a tensor.
    """

    def __init__(self, inputs: int, outputs: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.layer = nn.Conv2d(inputs, 4 * outputs, 3, padding=1)
        self.outputs, self.size = outputs, size

    def forward(self, h: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n outputs rows columns"]:
        rows, columns = self.size
        h = self.layer(h).permute(0, 2, 3, 1)  # n height width 4·outputs
        pixels = h.unflatten(3, (2, 2, self.outputs))  # n height width 2 2 outputs
        enlarged = pixels.transpose(2, 3).flatten(3, 4).flatten(1, 2)  # n 2·height 2·width outputs
        return enlarged.permute(0, 3, 1, 2)[:, :, :rows, :columns]


def half(images: ImageFormat) -> tuple[int, int]:
    """Half the height and width, rounded up."""
    return (images.height + 1) // 2, (images.width + 1) // 2


def quarter(images: ImageFormat) -> tuple[int, int]:
    """A quarter of the height and width, rounded up."""
    return (images.height + 3) // 4, (images.width + 3) // 4
