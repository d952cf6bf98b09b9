"""Importance sampling of log p(x): p(x) ≈ 1/K Σ p(x | z_k) p(z_k) / r(z_k | x), z_k ~ r, the proposal.

Pilot samples first refine the proposal and choose K for each image. The estimate uses fresh samples only, so 1/K Σ w
is unbiased for p(x) whatever the pilots showed.
"""

import sys
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from logpx.batching import chunk_size, noise_blocks, splits
from logpx.data import Data, count, device_of, select
from logpx.distributions import Rows
from logpx.model import Model, Moments, check, log_weights, prior_moments
from logpx.noise import BLOCK, LEVELS, Noise, Stream, draw
from logpx.proposals import Fit, Proposal, concatenate, propose
from logpx.weights import LEAST_FOR_TAIL, MINIMUM_ESS, Diagnosis, Weights, diagnose, khat_threshold, pareto_khat

PROPOSALS = ("prior", "encoder", "laplace", "mixture")
GROWTH = 4  # factor between the numbers of samples of two levels
SAFETY = 2.0  # factor on MINIMUM_ESS for pilots, whose effective sample size is an overestimate
MARGIN = 0.2  # subtracted from the limit of k̂ for pilots: more than one standard error of their k̂
AGREEMENT = 2.0  # standard errors between the estimates of two proposals, one of which confirms the other
OTHER_SEED = 1 << 62
GRADIENTS = (32, 64)  # samples whose gradients refine the proposal, by round
GRADIENTS_OF_HARD = (128,)  # the same, at each level after the first


@dataclass(frozen=True)
class Settings:
    """Settings of the estimator. Every one has a default.

    Attributes:
        samples: importance samples K per image, at least 32. Pilot samples are drawn in addition.
        budget: most samples of an image whose pilots show that K is too few; at most 4⁷ times `samples`.
        chunk: decoder evaluations held in memory at once, at least 128; 0 chooses what suits the machine. It changes
            results by rounding only.
        seed: the noise of image i depends on the seed and i only.
        proposal: prior, encoder, laplace or mixture.
        degrees_of_freedom: of Student's t tails for the fitted proposal; None for Gaussian tails.
        starts: points that the search for the posterior's mode starts from: the start that is given, the prior's mean,
            and draws of the prior.

    Raises:
        ValueError: for a value outside its range.
    """

    samples: int = 256
    budget: int = 4096
    chunk: int = 0
    seed: int = 0
    proposal: str = "mixture"
    degrees_of_freedom: float | None = None
    starts: int = 4

    def __post_init__(self) -> None:
        if self.samples < 32:
            raise ValueError(f"samples = {self.samples}: at least 32")
        if self.budget > self.samples * GROWTH ** (LEVELS - 1):
            raise ValueError(f"budget = {self.budget}: at most {GROWTH ** (LEVELS - 1)} times samples")
        if self.chunk and self.chunk < BLOCK:
            raise ValueError(f"chunk = {self.chunk}: at least {BLOCK}, or 0")
        if self.proposal not in PROPOSALS:
            raise ValueError(f"proposal = {self.proposal}: one of {', '.join(PROPOSALS)}")


class Estimate(NamedTuple):
    """Estimates of log p(x) in nats, with diagnostics and cost: one value per image, on the CPU."""

    log_px: Float[Tensor, " batch"]
    standard_error: Float[Tensor, " batch"]
    ess: Float[Tensor, " batch"]
    khat: Float[Tensor, " batch"]
    samples: Float[Tensor, " batch"]
    trusted: Bool[Tensor, " batch"]
    converged: Bool[Tensor, " batch"]  # whether the mode that the proposal rests on was found
    evaluations: Float[Tensor, " batch"]  # decoder evaluations; a tangent or a gradient counts as one

    def __str__(self) -> str:
        images = len(self.log_px)
        spread = float(self.log_px.std()) / images**0.5 if images > 1 else float(self.standard_error[0])
        return (
            f"log p(x) = {float(self.log_px.mean()):.2f} ± {spread:.2f} nats, mean of {images} images\n"
            f"trusted: {int(self.trusted.sum())} of {images} ({100 * float(self.trusted.double().mean()):.1f} %), "
            f"median standard error of an image {float(self.standard_error.median()):.3f} nats\n"
            f"cost: {float(self.evaluations.mean()):.0f} decoder evaluations per image"
        )


@dataclass(frozen=True)
class Block:
    """Images that are measured together.

    Attributes:
        x: the images, on the model's device.
        images: their indices in the data set, which their noise belongs to; on the same device.
        prior: the prior's mean and standard deviation, for each image or one row for all.
        start: where each image's search for the mode starts, besides the prior's mean; or None.
        encoder: mean and standard deviation of each image's q(z | x), or None.
    """

    model: Model
    x: Data
    images: Int[Tensor, " batch"]
    prior: Moments
    start: Float[Tensor, "batch latent"] | None
    encoder: Moments | None
    settings: Settings

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

    def noise(self, stream: int, block: int, samples: int) -> Noise:
        drawn = draw(self.settings.seed, self.images, stream, block, samples, self.latent)
        return drawn.to(self.prior.mean)


Start = Float[Tensor, "images latent"] | tuple[Tensor, Tensor] | None


def prepare(model: Model, x: Data, settings: Settings, *, latent: int, start: Start = None, first: int = 0) -> Block:
    """All images as one block; the arguments are those of `estimate`."""
    check(model, x, latent)
    if not settings.chunk:
        settings = replace(settings, chunk=chunk_size(model, x, latent))
    images = first + torch.arange(count(x), device=device_of(x))
    prior = prior_moments(model, x, latent, settings.seed)
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
    """Blocks of images that fit in memory."""
    return [whole[part] for part in splits(len(whole), whole.settings.chunk // whole.latent)]


def estimate(
    model: Model, x: Data, *, latent: int, start: Start = None, first: int = 0, progress: bool = False, **settings: Any
) -> Estimate:
    """Log p(x) of each image, in nats, with its error and a verdict.

    Args:
        x: images, on the model's device; one tensor or a tuple of aligned ones.
        latent: dimensions of z.
        start: where to look for the posterior's mode: the encoder's mean, or its mean and standard deviation. With both
            the encoder is a component of the proposal too. None starts from the prior only.
        first: index of the first of these images in their data set, which the noise belongs to.
        progress: show a progress bar.
        settings: see `Settings`.

    Raises:
        ValueError: for wrong shapes, settings out of range, or a model whose derivatives cannot be computed.

    >>> import logpx, torch
    >>> model = logpx.Decoder(torch.nn.Linear(2, 5), logpx.Gaussian(0.5))
    >>> found = logpx.estimate(model, torch.zeros(3, 5), latent=2)
    >>> bool(found.trusted.all())
    True
    """
    return estimate_whole(prepare(model, x, Settings(**settings), latent=latent, start=start, first=first), progress)


def estimate_whole(whole: Block, progress: bool = False) -> Estimate:
    """The same for images that are prepared."""
    parts = blocks(whole)
    found = []
    for number, part in enumerate(parts):
        if progress:
            print(f"\rlog p(x): {number} of {len(parts)} blocks", end="", file=sys.stderr, flush=True)
        found.append(estimate_block(part))
    if progress:
        print(f"\rlog p(x): {len(parts)} of {len(parts)} blocks", file=sys.stderr)
    return Estimate(*map(torch.cat, zip(*found, strict=True)))


@torch.no_grad()
def estimate_block(block: Block) -> Estimate:
    """Log p(x) of each image of a block."""
    fit = fit_proposal(block)
    diagnosis, evaluations = _measure(block, fit.proposal, level=0)
    evaluations += fit.evaluations.cpu()
    if block.settings.proposal != "mixture":
        diagnosis, spent = _confirmed(block, diagnosis)
        evaluations += spent
    return Estimate(*diagnosis, fit.converged.cpu(), evaluations)


def _confirmed(block: Block, diagnosis: Diagnosis) -> tuple[Diagnosis, Float[Tensor, " batch"]]:
    """Trust an estimate with another proposal than the mixture only if the mixture's estimate agrees.

    Weights show nothing of regions where the proposal has no samples: if it is narrower than the posterior, they can
    look harmless while most of p(x) is missed. Equal weights need no second estimate: the proposal is the posterior.

    Returns:
        The estimates, with fewer trusted ones, and the mixture's decoder evaluations.
    """
    trusted, evaluations = diagnosis.trusted.clone(), torch.zeros(len(block), dtype=torch.float64)
    rows = (trusted & (diagnosis.khat > -torch.inf)).nonzero().squeeze(1)
    if len(rows):
        some = block[rows.to(block.images.device)]
        # Another seed, so that the two estimates share no noise.
        settings = replace(block.settings, proposal="mixture", seed=block.settings.seed ^ OTHER_SEED)
        mixture = estimate_block(replace(some, settings=settings))
        error = torch.hypot(diagnosis.standard_error[rows], mixture.standard_error)
        near = (diagnosis.log_px[rows] - mixture.log_px).abs() <= AGREEMENT * error
        trusted[rows] = near & mixture.trusted
        evaluations[rows] = mixture.evaluations
    return diagnosis._replace(trusted=trusted), evaluations


@torch.no_grad()
def fit_proposal(block: Block) -> Fit:
    """Fit the proposal to each image of a block, and refine it."""
    settings = block.settings
    fit = propose(
        settings.proposal, block.model, block.x, block.prior, block.encoder, _starts(block), settings.degrees_of_freedom
    )
    if not fit.proposal.adaptable:
        return fit
    proposal = _refined(block, fit.proposal, level=0)
    return fit._replace(proposal=proposal, evaluations=fit.evaluations + 2 * sum(GRADIENTS))


def _starts(block: Block) -> list[Float[Tensor, "#batch latent"]]:
    """Where the search for the mode starts: the start that was given, the prior's mean, and draws of the prior."""
    mean, scale = block.prior
    known = [mean] if block.start is None else [block.start, mean]
    drawn = max(0, block.settings.starts - len(known))
    return known + list(mean + scale * block.noise(Stream.STARTS, 0, drawn).normal) if drawn else known


def pilot_samples(samples: int) -> int:
    """Pilot samples that are drawn before K = `samples` samples: half as many, but enough for k̂."""
    return max(LEAST_FOR_TAIL, samples // 2)


def _refined(block: Block, proposal: Proposal, level: int) -> Proposal:
    """Refine the proposal of each image by gradients at its own samples, in rounds."""
    for number, samples in enumerate(_rounds(level)):
        parts = []
        for rows in splits(len(block), block.settings.chunk // samples):
            part = block[rows]
            noise = part.noise(Stream.REFINEMENT.of(level, number), 0, samples // 2)
            parts.append(proposal[rows].refined(block.model, part.x, noise, hard=level > 0))
        proposal = concatenate(parts)
    return proposal


def _rounds(level: int) -> tuple[int, ...]:
    return GRADIENTS_OF_HARD if level else GRADIENTS


def _measure(block: Block, proposal: Proposal, level: int) -> tuple[Diagnosis, Float[Tensor, " batch"]]:
    """Measure the images whose pilots show that this level's K is enough, and the others at the next level.

    Returns:
        The estimates, and the decoder evaluations that each image took from this level on.
    """
    settings = block.settings
    samples = settings.samples * GROWTH**level
    pilots = pilot_samples(samples)
    log_w = sample_log_weights(block, proposal, Stream.PILOT.of(level), pilots)
    hard = torch.zeros(len(block), dtype=torch.bool)
    if samples * GROWTH <= settings.budget:
        hard = _needs_more(log_w, samples, adaptable=proposal.adaptable)

    order: list[Tensor] = []
    diagnoses: list[Diagnosis] = []
    evaluations = torch.full((len(block),), float(pilots), dtype=torch.float64)
    for rows, harder in ((~hard).nonzero().squeeze(1), False), (hard.nonzero().squeeze(1), True):
        if len(rows) == 0:
            continue
        on_device = rows.to(block.images.device)
        some, shaped = block[on_device], proposal[on_device]
        if harder:
            if shaped.adaptable:
                shaped = _refined(some, shaped, level + 1)
                evaluations[rows] += 2 * sum(_rounds(level + 1))
            diagnosis, spent = _measure(some, shaped, level + 1)
        else:
            diagnosis = diagnose(sample_log_weights(some, shaped, Stream.ESTIMATE.of(level), samples))
            spent = diagnosis.samples
        evaluations[rows] += spent
        order.append(rows)
        diagnoses.append(diagnosis)
    back = torch.cat(order).argsort()
    return Diagnosis(*(torch.cat(values)[back] for values in zip(*diagnoses, strict=True))), evaluations


def _needs_more(log_w: Float[Tensor, "pilots batch"], samples: int, *, adaptable: bool) -> Bool[Tensor, " batch"]:
    """Whether the pilots' weights show that `samples` samples are probably too few, but that more may be enough.

    If one sample has all the weight and the proposal cannot adapt, more samples will not help.
    """
    ess = Weights.of(log_w).effective_sample_size
    short = ess * (samples / len(log_w)) < SAFETY * MINIMUM_ESS
    short |= pareto_khat(log_w) > khat_threshold(samples) - MARGIN
    return short & ((ess >= 2) | adaptable)


@torch.inference_mode()
def sample_log_weights(block: Block, proposal: Proposal, stream: int, samples: int) -> Float[Tensor, "samples batch"]:
    """Log-weights of fresh samples of each image, in nats, float64 on the CPU, one chunk of evaluations at a time."""
    parts = []
    for rows in splits(len(block), block.settings.chunk // BLOCK):
        part, of_part = block[rows], proposal[rows]
        # A quarter of the chunk at once: decoded images are still in the cache when they are compared with x.
        at_once = max(1, block.settings.chunk // 4 // len(part))
        pieces = []
        for number, size in noise_blocks(samples):
            z = of_part.sample(part.noise(stream, number, size))
            pieces.append(log_weights(block.model, part.x, of_part, z, at_once).value.cpu().double())
        parts.append(torch.cat(pieces))
    return torch.cat(parts, 1)
