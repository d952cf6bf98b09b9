"""What the pictures are drawn from: the trained model, the test images and all that was measured."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from zlib import crc32

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from logpx.observations.cells import grey_levels
from logpx.observations.distribution import ImageDistribution
from pipeline.config import Render
from pipeline.data.image_format import ImageFormat, as_pictures
from pipeline.model.vae import VAE
from pipeline.report.plotting import NotDrawnError

Judge = Callable[[ImageDistribution], Integer[Tensor, " images"]]

MOST_CLASSES = 12  # that a picture has columns for


@dataclass(frozen=True)
class Neighbours:
    """Some drawn images beside the training images that are nearest to them; pixels in [0, 1].

    Attributes:
        drawn: samples of the model.
        nearest: the training image nearest to each of them.
        distances: between the two, root mean square over the pixels.
    """

    drawn: Float[np.ndarray, "images height width *channels"]
    nearest: Float[np.ndarray, "images height width *channels"]
    distances: Float[np.ndarray, " images"]


@dataclass(frozen=True)
class Scene:
    """The trained model, the test images and all that was measured.

    Attributes:
        x: test images as the model sees them, without noise: (v + ½) / levels, on the model's device.
        labels: their classes.
        shape: of an image as a tensor: (height, width), or (3, height, width) in colour.
        history: a row per epoch of training.
        table: a row per measured test image: its log p(x) and the diagnostics of the estimate.
        verified: some test images, measured by second methods.
        curves: estimates against decoder evaluations.
        probes: log p(x) of images that are not like the data.
        examples: an image of each kind of probe, pixels in [0, 1].
        settings: the section `render` of the parameters.
        judge: a classifier: the class that it sees in the mean of each of some p(x | z). None if the labels do not tell
            images apart.
        neighbours: samples and their nearest training images.
    """

    vae: VAE
    x: Float[Tensor, "images pixels"]
    labels: Integer[np.ndarray, " images"]
    shape: tuple[int, ...]
    history: pd.DataFrame
    table: pd.DataFrame
    verified: pd.DataFrame
    curves: pd.DataFrame
    probes: pd.DataFrame
    examples: Mapping[str, Float[np.ndarray, "height width *channels"]]
    settings: Render
    judge: Judge | None
    neighbours: Neighbours

    @cached_property
    def y(self) -> Integer[Tensor, " images"]:
        """The labels as a tensor. Networks of a model that is not conditional ignore them."""
        return torch.from_numpy(self.labels).long().to(self.x.device)

    @cached_property
    def means(self) -> Float[Tensor, "images latent"]:
        """Posterior means μ(x) of the test images."""
        return self.vae.encode(self.x, self.y)[0]

    @property
    def labelled(self) -> bool:
        """Whether the labels tell images apart. If not, no picture shows them."""
        return self.judge is not None

    @property
    def symbol(self) -> str:
        """Of the noise that the prior makes z from: ε, or z itself if the prior is N(0, I)."""
        return "z" if self.vae.prior.flow is None else "ε"

    def noise(self, chosen: Integer[Tensor, " chosen"]) -> Float[Tensor, "chosen latent"]:
        """ε = g⁻¹(μ(x)) of test images: the noise that the prior makes their encodings from. For N(0, I) it is μ(x)."""
        return self.vae.prior.to_noise(self.means[chosen], self.y[chosen])

    def classes(self) -> Integer[Tensor, " classes"]:
        """Classes of a conditional model that have training images, the first `MOST_CLASSES` of them.

        Raises:
            NotDrawnError: if the model is not conditional.
        """
        if not self.vae.classes:
            raise NotDrawnError("the model is not conditional, so no class can be asked for (model.condition = label)")
        return torch.tensor(self.vae.labels()[:MOST_CLASSES], device=self.x.device)

    def random(self, picture: str) -> np.random.Generator:
        """The random numbers of a picture. Each picture has its own generator, so a new picture changes no other."""
        return np.random.default_rng([self.settings.seed, crc32(picture.encode())])

    def choose(self, picture: str, count: int) -> Tensor:
        """Indices of `count` different test images, chosen at random; of all of them if they are fewer."""
        chosen = self.random(picture).permutation(len(self.x))[:count]
        return torch.from_numpy(chosen).to(self.x.device)

    def prior_samples(self, side: int) -> Float[Tensor, "{side} {side} latent"]:
        """A square of samples ε of N(0, I). Every picture of samples begins with the same ones."""
        noise = self.random("samples").standard_normal((side, side, self.vae.latent), dtype=np.float32)
        return torch.from_numpy(noise)

    def labels_in_turn(self, *shape: int) -> Integer[Tensor, "..."] | None:
        """Labels to ask for: one class after another, row by row. None for a model that is not conditional."""
        labels = self.vae.labels_in_turn(math.prod(shape))
        return None if labels is None else labels.reshape(shape)

    def images(self, pixels: Float[Tensor, "*grid pixels"]) -> Float[np.ndarray, "*grid_and_shape"]:
        """Vectors of pixels as images."""
        return as_pictures(pixels.cpu().numpy(), self.shape)

    def originals(self, chosen: Integer[Tensor, " chosen"]) -> Float[np.ndarray, "chosen height width *channels"]:
        """Test images to show. Binarised ones are black and white: their x is at the middles of two cells."""
        x = self.x[chosen.to(self.x.device)]
        return self.images(x if self.vae.images.binarise == "none" else (x >= 0.5).to(x))

    def decode(
        self, z: Float[Tensor, "*grid latent"], y: Integer[Tensor, "..."] | None
    ) -> Float[np.ndarray, "*grid_and_shape"]:
        """f(z), the means of p(x | z, y), as images.

        Args:
            y: labels; they are expanded to the grid.
        """
        z = z.to(self.x)
        return self.images(self.vae.decoder(z, _expanded(y, z)).mean)

    def generate(
        self, noise: Float[Tensor, "*grid latent"], y: Integer[Tensor, "..."] | None
    ) -> Float[np.ndarray, "*grid_and_shape"]:
        """f(z) at z = g(ε), a sample of the prior p(z | y) if ε ~ N(0, I)."""
        noise = noise.to(self.x)
        return self.images(self.vae.generate(noise, _expanded(y, noise)).mean)

    def reconstruct(self, chosen: Integer[Tensor, " chosen"]) -> Float[np.ndarray, "chosen height width *channels"]:
        """f(μ(x)) of test images."""
        return self.decode(self.means[chosen], self.y[chosen])

    def draw_pixels(
        self, picture: str, z: Float[Tensor, "*grid latent"], y: Integer[Tensor, "..."] | None
    ) -> Float[np.ndarray, "*grid_and_shape"]:
        """x ~ p(x | z) as images, with the picture's random numbers. They are drawn on the CPU, for every device alike.

        An observation model of grey levels draws a level v; the middle of its cell is shown, without noise.
        """
        generator = torch.Generator().manual_seed(int(self.random(picture).integers(2**63)))
        z = z.to(self.x)
        p = self.vae.decoder(z, _expanded(y, z))
        x = p.observation.sample(p.parameters.cpu(), generator=generator)
        if p.observation.discrete:
            levels = self.vae.images.levels
            v = grey_levels(x, levels).to(x)
            x = v if self.vae.images.binarise != "none" else (v + 0.5) / levels
        return self.images(x)


def _expanded(y: Integer[Tensor, "..."] | None, z: Float[Tensor, "*grid latent"]) -> Integer[Tensor, "*grid"] | None:
    """Labels of every point of a grid."""
    return None if y is None else y.to(z.device).expand(z.shape[:-1])


def as_seen(
    examples: Mapping[str, Float[np.ndarray, "*shape"]], images: ImageFormat
) -> dict[str, Float[np.ndarray, "height width *channels"]]:
    """Images with pixels in [0, 1] as the model sees them, to show: black and white for a model of binarised images."""

    def seen(image: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "height width *channels"]:
        grey = torch.from_numpy((image * (images.grey_levels - 1)).round()).to(torch.uint8)
        return as_pictures(images.values_fixed(grey[None])[0].numpy() / (images.levels - 1), image.shape)

    return {name: seen(image) for name, image in examples.items()}
