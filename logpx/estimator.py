"""Log p(x) of each image, with its error and a verdict: adaptive importance sampling, and annealing where it fails."""

import sys
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from logpx.batching import splits
from logpx.block import Block, Settings, Start, blocks, prepare
from logpx.data import Data
from logpx.importance import Fit, fit_proposal, measure
from logpx.model import Model
from logpx.rescue import CHAINS, allowed, rescue
from logpx.weights import Diagnosis

AGREEMENT = 2.0  # standard errors between the estimates of two proposals, one of which confirms the other
OTHER_SEED = 1 << 62


class Estimate(NamedTuple):
    """Estimates of log p(x) in nats, with diagnostics and cost: one value per image, on the CPU."""

    log_px: Float[Tensor, " batch"]
    standard_error: Float[Tensor, " batch"]
    ess: Float[Tensor, " batch"]
    khat: Float[Tensor, " batch"]
    samples: Float[Tensor, " batch"]
    trusted: Bool[Tensor, " batch"]
    converged: Bool[Tensor, " batch"]  # whether the mode that the proposal rests on was found
    rescued: Bool[Tensor, " batch"]  # whether it is the result of a second attempt
    evaluations: Float[Tensor, " batch"]  # decoder evaluations; a tangent or a gradient counts as one

    def replaced(self, rows: Int[Tensor, " rows"], by: "Estimate") -> "Estimate":
        """With some images measured again; their evaluations add up."""
        by = by._replace(evaluations=by.evaluations + self.evaluations[rows])
        return Estimate(*(old.index_copy(0, rows, new) for old, new in zip(self, by, strict=True)))

    def __str__(self) -> str:
        images = len(self.log_px)
        spread = float(self.log_px.std()) / images**0.5 if images > 1 else float(self.standard_error[0])
        return (
            f"log p(x) = {float(self.log_px.mean()):.2f} ± {spread:.2f} nats, mean of {images} images\n"
            f"trusted: {int(self.trusted.sum())} of {images} ({100 * float(self.trusted.double().mean()):.1f} %), "
            f"median standard error of an image {float(self.standard_error.median()):.3f} nats\n"
            f"cost: {float(self.evaluations.mean()):.0f} decoder evaluations per image"
        )


def estimate(
    model: Model, x: Data, *, latent: int, start: Start = None, first: int = 0, progress: bool = False, **settings: Any
) -> Estimate:
    """Log p(x) of each image, in nats, with its error and a verdict.

    Args:
        x: images, on the model's device; one tensor or a tuple of aligned ones.
        latent: dimensions of z.
        start: where to look for the posterior's mode: the encoder's mean, or its mean and standard deviation. With both
            the encoder is a component of the proposal too. None starts at the likeliest of some draws of the prior.
        first: index of the first of these images in their data set, which the noise belongs to.
        progress: show a progress bar.
        settings: see `logpx.block.Settings`.

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
    estimate = Estimate(*map(torch.cat, zip(*found, strict=True)))
    for rows in failed(whole, estimate.trusted):
        estimate = estimate.replaced(rows, estimate_again(whole[rows.to(whole.images.device)]))
    return estimate


@torch.no_grad()
def estimate_block(block: Block) -> Estimate:
    """Log p(x) of each image of a block, by one attempt."""
    fit = fit_proposal(block)
    diagnosis, evaluations = measure(block, fit.proposal)
    evaluations += fit.evaluations.cpu()
    if block.settings.proposal != "mixture":
        diagnosis, spent = _confirmed(block, diagnosis)
        evaluations += spent
    return _judged(diagnosis, fit, evaluations, rescued=False)


def failed(whole: Block, trusted: Bool[Tensor, " batch"]) -> list[Int[Tensor, " rows"]]:
    """The images to measure again, in blocks: all that are not trusted, if the settings allow a rescue.

    A rescue is a long sequence of small steps. It costs little more for many images than for one, so those of all
    blocks are rescued together.
    """
    settings = whole.settings
    if settings.proposal != "mixture" or not settings.rescue or not allowed(whole):
        return []
    rows = (~trusted).nonzero().squeeze(1)
    return [rows[part] for part in splits(len(rows), settings.chunk // CHAINS)]


@torch.no_grad()
def estimate_again(block: Block) -> Estimate:
    """Log p(x) of images that are not trusted, with more effort."""
    fit = fit_proposal(block)
    diagnosis, evaluations = rescue(block, fit.proposal)
    return _judged(diagnosis, fit, evaluations + fit.evaluations.cpu(), rescued=True)


def _judged(diagnosis: Diagnosis, fit: Fit, evaluations: Float[Tensor, " batch"], *, rescued: bool) -> Estimate:
    diagnosis = diagnosis._replace(trusted=diagnosis.trusted & fit.complete.cpu())
    return Estimate(*diagnosis, fit.converged.cpu(), torch.full_like(diagnosis.trusted, rescued), evaluations)


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
        mixture = estimate_whole(replace(some, settings=settings, log_weights=None))
        error = torch.hypot(diagnosis.standard_error[rows], mixture.standard_error)
        near = (diagnosis.log_px[rows] - mixture.log_px).abs() <= AGREEMENT * error
        trusted[rows] = near & mixture.trusted
        evaluations[rows] = mixture.evaluations
    return diagnosis._replace(trusted=trusted), evaluations
