"""The variational autoencoder (Kingma & Welling 2014).

`vae.prior(y)` is p(z | y), `vae.decoder(z, y)` is p(x | z, y) and `vae.encoder(x, y)` is q(z | x, y). Each is a
distribution. Only a model with `condition: label` depends on the labels y (Sohn et al. 2015); any other ignores them.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from logpx.observations.distribution import ImageDistribution
from pipeline.config import Model
from pipeline.data.image_format import ImageFormat
from pipeline.errors import UserError
from pipeline.model.labels import Labels
from pipeline.model.networks import Decoder, Encoder
from pipeline.model.observations import OBSERVATIONS
from pipeline.model.prior import Prior

ENCODED_AT_ONCE = 1_000  # images; convolutions need much memory for each


class VAE(nn.Module):
    """Prior p(z | y), decoder p(x | z, y) and encoder q(z | x, y) = N(μ, diag s²).

    Args:
        settings: prior, condition, networks and observation model.
        images: their size and grey levels.
        shares: p(y), the share of each class among the training images. Only a conditional model needs them.

    Raises:
        UserError: if the model is conditional and there are fewer than two classes.
    """

    def __init__(self, settings: Model, images: ImageFormat, shares: Sequence[float] = ()) -> None:
        super().__init__()
        conditional = settings.condition == "label"
        if conditional and sum(share > 0 for share in shares) < 2:
            raise UserError(
                "model.condition = label: the training images have no labels of two or more classes; use none"
            )
        self.latent, self.images = settings.latent, images
        self.shares = tuple(shares) if conditional else ()
        self.classes = len(self.shares)  # 0 for a model that ignores labels
        observation = OBSERVATIONS[settings.observation](settings, images)
        self.encoder = Encoder(settings, images, self.classes, observation.discrete)
        self.decoder = Decoder(settings, images, self.classes, observation)
        self.prior = Prior(settings, self.classes)
        if settings.network == "conv":
            self.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "images pixels"], y: Labels = None) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(z | x, y), each (images, latent), of any number of images; no gradients."""
        images = x.split(ENCODED_AT_ONCE)
        labels = [None] * len(images) if y is None else y.split(ENCODED_AT_ONCE)
        parts = [self.encoder(part, label) for part, label in zip(images, labels, strict=True)]
        return torch.cat([q.mean for q in parts]), torch.cat([q.stddev for q in parts])

    def labels(self) -> list[int]:
        """The classes that the model was trained on; none of a model that ignores labels."""
        return [label for label, share in enumerate(self.shares) if share > 0]

    def labels_in_turn(self, count: int) -> Labels:
        """One class after another, `count` labels; None for a model that ignores labels."""
        labels = torch.tensor(self.labels(), device=self.prior.zero.device)
        return labels[torch.arange(count, device=labels.device) % len(labels)] if len(labels) else None

    def generate(self, noise: Float[Tensor, "*batch latent"], y: Labels = None) -> ImageDistribution:
        """p(x | z, y) at z = g(ε), a sample of the prior if ε ~ N(0, I)."""
        return self.decoder(self.prior.from_noise(noise, y), y)
