"""How a model sees the images: their size, their grey levels, and the numbers x that stand for them."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Real, UInt8
from torch import Tensor

from pipeline.data.dequantise import dequantise

Binarise = Literal["none", "threshold", "dynamic"]


@dataclass(frozen=True)
class ImageFormat:
    """Size and grey levels of images, and whether they are made black and white. Files always keep the grey levels.

    A model receives x = (v + u) / levels with v in 0 .. levels − 1 and u ~ U[0, 1), so x is in [0, 1]. Binarised images
    have the levels 0 and 1: v is drawn anew at each reading with the grey level as probability of a 1 ("dynamic",
    Burda et al. 2016, section 5), or tells if the grey level is at least the middle one ("threshold").

    In colour v has a value for each pixel and channel, and all of this holds for each of them.

    Attributes:
        grey_levels: of the images in the file; in colour, of each channel.
        channels: 1 for grey images, 3 for red, green and blue.
    """

    height: int
    width: int
    grey_levels: int
    binarise: Binarise = "none"
    channels: int = 1

    @property
    def pixels(self) -> int:
        """Numbers per image: one for each pixel, or in colour one for each pixel and channel."""
        return self.height * self.width * self.channels

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an image as a tensor: (height, width), or (3, height, width) in colour."""
        size = self.height, self.width
        return size if self.channels == 1 else (self.channels, *size)

    @property
    def levels(self) -> int:
        """Levels that v has: 2 of binarised images."""
        return self.grey_levels if self.binarise == "none" else 2

    def read(
        self, images: UInt8[Tensor, "*batch pixels"], generator: torch.Generator
    ) -> Float[Tensor, "*batch pixels"]:
        """x of images, with all randomness from the generator, which is on the images' device."""
        return dequantise(self._values(images, generator), self.levels, generator)

    def read_fixed(self, images: UInt8[Tensor, "images *shape"], seed: int) -> Float[Tensor, "images pixels"]:
        """x of images to measure, flat. The seed determines u; v is the same for every seed.

        Randomness is drawn on the CPU, so that it is the same for every device.
        """
        return dequantise(self.values_fixed(images), self.levels, torch.Generator().manual_seed(seed))

    def read_clean(self, images: UInt8[Tensor, "images *shape"]) -> Float[Tensor, "images pixels"]:
        """(v + ½) / levels of images to show, flat, with the same v as `read_fixed`."""
        return (self.values_fixed(images) + 0.5) / self.levels

    def values_fixed(self, images: UInt8[Tensor, "images *shape"]) -> UInt8[Tensor, "images pixels"]:
        """v of images to measure, flat: always the same."""
        return self._values(images.flatten(1), torch.Generator().manual_seed(0))

    def bits_per_dim(self, nats: float) -> float:
        """Bits per pixel that a code based on the model needs for v, given log p(x) in nats per image.

        A density p(x) on [0, 1]^pixels gives v the probability ∫ p(x) du / levels^pixels over its cell, so that
        −log₂ P(v) = pixels · log₂ levels − log₂ p(x), or less, if p(x) varies in the cell (Theis et al. 2016, section
        3.1). Divided by pixels it does not depend on the images' size. The uniform density has log₂ levels bits per
        pixel. The nats of binarised images are log P(v) itself.
        """
        uniform = math.log2(self.levels) if self.binarise == "none" else 0.0
        return uniform - nats / (self.pixels * math.log(2))

    def _values(
        self, images: UInt8[Tensor, "*batch pixels"], generator: torch.Generator
    ) -> UInt8[Tensor, "*batch pixels"]:
        """v of each pixel."""
        if self.binarise == "none":
            return images
        if self.binarise == "threshold":
            return (images >= (self.grey_levels + 1) // 2).to(torch.uint8)
        u = torch.rand(images.shape, generator=generator, device=images.device)
        return (u * (self.grey_levels - 1) < images).to(torch.uint8)


def as_pictures(x: Real[np.ndarray, "*grid pixels"], shape: tuple[int, ...]) -> Real[np.ndarray, "*grid_and_shape"]:
    """Flat images as figures show them: (*grid, height, width), or (*grid, height, width, 3) in colour.

    Args:
        shape: of an image as a tensor, (height, width) or (3, height, width).
    """
    images = x.reshape(*x.shape[:-1], *shape)
    return images if len(shape) == 2 else np.moveaxis(images, -3, -1)
