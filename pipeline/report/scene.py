"""What the pictures are drawn from: the trained model, the test images and all that was measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from zlib import crc32

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from logpx.observations.cells import grey_levels
from pipeline.config import Render
from pipeline.data.image_format import ImageFormat
from pipeline.model.vae import VAE


@dataclass(frozen=True)
class Scene:
    """The trained model, the test images and all that was measured.

    Attributes:
        x: test images as the model sees them, without noise: (v + ½) / levels, on the model's device.
        labels: their classes.
        shape: height and width of an image.
        history: a row per epoch of training.
        table: a row per measured test image: its log p(x) and the diagnostics of the estimate.
        verified: some test images, measured by second methods.
        curves: estimates against decoder evaluations.
        probes: log p(x) of images that are not like the data.
        examples: an image of each kind of probe, pixels in [0, 1].
        settings: the section `render` of the parameters.
    """

    vae: VAE
    x: Float[Tensor, "images pixels"]
    labels: Integer[np.ndarray, " images"]
    shape: tuple[int, int]
    history: pd.DataFrame
    table: pd.DataFrame
    verified: pd.DataFrame
    curves: pd.DataFrame
    probes: pd.DataFrame
    examples: Mapping[str, Float[np.ndarray, "height width"]]
    settings: Render

    @cached_property
    def means(self) -> Float[Tensor, "images latent"]:
        """Posterior means μ(x) of the test images."""
        return self.vae.encode(self.x)[0]

    def random(self, picture: str) -> np.random.Generator:
        """The random numbers of a picture. Each picture has its own generator, so a new picture changes no other."""
        return np.random.default_rng([self.settings.seed, crc32(picture.encode())])

    def choose(self, picture: str, count: int) -> Tensor:
        """Indices of `count` different test images, chosen at random; of all of them if they are fewer."""
        chosen = self.random(picture).permutation(len(self.x))[:count]
        return torch.from_numpy(chosen).to(self.x.device)

    def prior_samples(self, side: int) -> Float[Tensor, "{side} {side} latent"]:
        """A square of samples of N(0, I). Every picture of samples begins with the same ones."""
        noise = self.random("samples").standard_normal((side, side, self.vae.latent), dtype=np.float32)
        return torch.from_numpy(noise)

    def images(self, pixels: Float[Tensor, "*grid pixels"]) -> Float[np.ndarray, "*grid height width"]:
        """Vectors of pixels as images."""
        return pixels.cpu().numpy().reshape(*pixels.shape[:-1], *self.shape)

    def originals(self, chosen: Integer[Tensor, " chosen"]) -> Float[np.ndarray, "chosen height width"]:
        """Test images to show. Binarised ones are black and white: their x is at the middles of two cells."""
        x = self.x[chosen.to(self.x.device)]
        return self.images(x if self.vae.images.binarise == "none" else (x >= 0.5).to(x))

    def decode(self, z: Float[Tensor, "*grid latent"]) -> Float[np.ndarray, "*grid height width"]:
        """f(z), the means of p(x | z), as images."""
        return self.images(self.vae.decoder(z.to(self.x)).mean)

    def draw_pixels(self, picture: str, z: Float[Tensor, "*grid latent"]) -> Float[np.ndarray, "*grid height width"]:
        """x ~ p(x | z) as images, with the picture's random numbers. They are drawn on the CPU, for every device alike.

        An observation model of grey levels draws a level v; the middle of its cell is shown, without noise.
        """
        generator = torch.Generator().manual_seed(int(self.random(picture).integers(2**63)))
        p = self.vae.decoder(z.to(self.x))
        x = p.observation.sample(p.parameters.cpu(), generator=generator)
        if p.observation.discrete:
            levels = self.vae.images.levels
            v = grey_levels(x, levels).to(x)
            x = v if self.vae.images.binarise != "none" else (v + 0.5) / levels
        return self.images(x)


def as_seen(
    examples: Mapping[str, Float[np.ndarray, "height width"]], images: ImageFormat
) -> dict[str, Float[np.ndarray, "height width"]]:
    """Grey images with pixels in [0, 1] as the model sees them: black and white for a model of binarised images."""

    def seen(image: Float[np.ndarray, "height width"]) -> Float[np.ndarray, "height width"]:
        grey = torch.from_numpy((image * (images.grey_levels - 1)).round()).to(torch.uint8)
        return images.values_fixed(grey[None]).numpy().reshape(image.shape) / (images.levels - 1)

    return {name: seen(image) for name, image in examples.items()}
