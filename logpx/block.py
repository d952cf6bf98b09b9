"""A block of images that are measured together: the model, the images, their noise, and the estimator's settings."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from logpx.batching import chunk_size, splits
from logpx.data import Data, count, device_of, select
from logpx.distributions import Rows
from logpx.model import Model, Moments, check, prior_moments
from logpx.noise import BLOCK, LEVELS, Noise, draw

PROPOSALS = ("prior", "encoder", "laplace", "mixture")
GROWTH = 4  # factor between the numbers of samples of two levels


@dataclass(frozen=True)
class Settings:
    """Settings of the estimator. Every one has a default.

    Attributes:
        samples: importance samples K per image, at least 32. With fewer than 50 every image gets more, if the budget
            allows: half of them are too few for a verdict.
        budget: most samples of an image whose weights show that K is too few; at most 4⁷ times `samples`.
        chunk: decoder evaluations held in memory at once, at least 128; 0 chooses what suits the machine. It changes
            results by rounding only.
        seed: the noise of image i depends on the seed and i only.
        proposal: prior, encoder, laplace or mixture.
        degrees_of_freedom: of Student's t tails for the fitted proposal; None for Gaussian tails.
        starts: searches for the posterior's modes per image, at least 1: from the start that is given, or else from the
            likeliest of some draws of the prior, and along paths from points near the prior's mean. If they find
            several modes, more searches follow.
        rescue: whether an image that is not trusted is measured again with more effort: see `logpx.rescue`. It needs a
            budget of at least 1024, and all attempts one of 4096.

    Raises:
        ValueError: for a value outside its range.
    """

    samples: int = 256
    budget: int = 4096
    chunk: int = 0
    seed: int = 0
    proposal: str = "mixture"
    degrees_of_freedom: float | None = None
    starts: int = 2
    rescue: bool = True

    def __post_init__(self) -> None:
        if self.samples < 32:
            raise ValueError(f"samples = {self.samples}: at least 32")
        if self.budget > self.samples * GROWTH ** (LEVELS - 1):
            raise ValueError(f"budget = {self.budget}: at most {GROWTH ** (LEVELS - 1)} times samples")
        if self.chunk and self.chunk < BLOCK:
            raise ValueError(f"chunk = {self.chunk}: at least {BLOCK}, or 0")
        if self.proposal not in PROPOSALS:
            raise ValueError(f"proposal = {self.proposal}: one of {', '.join(PROPOSALS)}")
        if self.starts < 1:
            raise ValueError(f"starts = {self.starts}: at least 1")


@dataclass(frozen=True)
class Block:
    """Images that are measured together.

    Attributes:
        x: the images, on the model's device.
        images: their indices in the data set, which their noise belongs to; on the same device.
        prior: the prior's mean and standard deviation, for each image or one row for all.
        start: where each image's search for the mode starts, besides points near the prior's mean; or None.
        encoder: mean and standard deviation of each image's q(z | x), or None.
        log_weights: receives the log-weights of each image's estimate, by the image's index; None keeps none.
    """

    model: Model
    x: Data
    images: Int[Tensor, " batch"]
    prior: Moments
    start: Float[Tensor, "batch latent"] | None
    encoder: Moments | None
    settings: Settings
    log_weights: dict[int, Tensor] | None = None

    @property
    def latent(self) -> int:
        return self.prior.mean.shape[-1]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: Rows) -> "Block":
        prior = self.prior if len(self.prior.mean) == 1 else Moments(*(moment[rows] for moment in self.prior))
        start = None if self.start is None else self.start[rows]
        encoder = self.encoder and Moments(*(moment[rows] for moment in self.encoder))
        return replace(
            self, x=select(self.x, rows), images=self.images[rows], prior=prior, start=start, encoder=encoder
        )

    def keep(self, log_w: Float[Tensor, "samples batch"]) -> None:
        """Keep the log-weights of an estimate, if `log_weights` is given. A later estimate replaces an earlier one."""
        if self.log_weights is not None:
            self.log_weights.update(zip(self.images.tolist(), log_w.unbind(1), strict=True))

    def noise(self, stream: int, block: int, samples: int) -> Noise:
        drawn = draw(self.settings.seed, self.images, stream, block, samples, self.latent)
        return drawn.to(self.prior.mean)


Start = Float[Tensor, "images latent"] | tuple[Tensor, Tensor] | None


def prepare(
    model: Model,
    x: Data,
    settings: Settings,
    *,
    latent: int,
    start: Start = None,
    first: int = 0,
    prior: Moments | None = None,
) -> Block:
    """All images as one block; the arguments are those of `logpx.estimate`.

    Args:
        prior: the prior's mean and standard deviation, if they are known: for each image, or one row for all.
    """
    check(model, x, latent)
    if not settings.chunk:
        settings = replace(settings, chunk=chunk_size(model, x, latent))
    images = first + torch.arange(count(x), device=device_of(x))
    prior = prior or prior_moments(model, x, latent, settings.seed)
    parts = () if start is None else (start,) if isinstance(start, Tensor) else start
    for part in parts:
        if part.shape != (count(x), latent):
            raise ValueError(f"start has the shape {tuple(part.shape)}; ({count(x)}, {latent}) is needed")
    parts = [part.detach() for part in parts]
    encoder = Moments(*parts) if len(parts) == 2 else None
    if encoder is None and settings.proposal == "encoder":
        raise ValueError("proposal = encoder needs start = (mean, standard deviation) of the encoder")
    return Block(model, x, images, prior, parts[0] if parts else None, encoder, settings)


def blocks(whole: Block) -> list[Block]:
    """Blocks of images that fit in memory: one tangent per latent coordinate of each image is at most a chunk."""
    return [whole[part] for part in splits(len(whole), whole.settings.chunk // whole.latent)]
