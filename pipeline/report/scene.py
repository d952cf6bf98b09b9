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

from pipeline.config import Render
from pipeline.model.vae import VAE


@dataclass(frozen=True)
class Scene:
    """The trained model, the test images and all that was measured.

    Attributes:
        x: test images in [0, 1], on the model's device.
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
        return self.vae.encoder(self.x).mean

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

    def decode(self, z: Float[Tensor, "*grid latent"]) -> Float[np.ndarray, "*grid height width"]:
        """Decoder means f(z) as images."""
        return self.images(self.vae.decoder(z.to(self.x)).mean)
