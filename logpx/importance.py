"""Adaptive importance sampling of log p(x) = log E_r[p(x, z) / r(z | x)].

Each half of an image's samples decides whether the other half is enough. If a half's weights show that it is not, more
samples of a better proposal take its place. No sample decides about itself, so the choice cannot bias the estimate:
either half has the expectation p(x), whatever takes its place.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from logpx import modes, proposals
from logpx.batching import noise_blocks, splits
from logpx.block import GROWTH, Block
from logpx.model import log_weights
from logpx.noise import BLOCK, Stream
from logpx.proposals import Proposal, concatenate
from logpx.weights import MINIMUM_ESS, Diagnosis, Weights, diagnose, khat_threshold, pareto_khat

SAFETY = 2.0  # factor on MINIMUM_ESS for a half, whose effective sample size is an overestimate
MARGIN = 0.1  # subtracted from the limit of k̂ for a half, whose k̂ is less certain than that of all samples
GRADIENTS_OF_HARD = 128  # samples whose gradients refine the proposal at each level after the first


class Fit(NamedTuple):
    """A proposal fitted to a block of images, and its cost."""

    proposal: Proposal
    converged: Bool[Tensor, " batch"]  # whether the mode that the proposal rests on was found
    complete: Bool[Tensor, " batch"]  # whether the search found no more modes at its end
    evaluations: Float[Tensor, " batch"]  # decoder evaluations; a tangent or a gradient counts as one


@torch.no_grad()
def fit_proposal(block: Block) -> Fit:
    """The proposal that the settings name; a fitted one is refined."""
    name, encoder = block.settings.proposal, block.encoder
    if name in ("prior", "encoder"):
        found = torch.ones_like(block.images, dtype=torch.bool)
        nothing = torch.zeros_like(block.images, dtype=torch.float64)
        if name == "prior":
            return Fit(proposals.plain(proposals.of_prior(block.prior, len(block))), found, found, nothing)
        assert encoder is not None
        return Fit(proposals.plain(proposals.of_encoder(encoder)), found, found, nothing)
    found = modes.find(block)
    defensive = [proposals.of_prior(block.prior, len(block))]
    if encoder is not None:
        defensive.insert(0, proposals.of_encoder(encoder))
    degrees_of_freedom = block.settings.degrees_of_freedom
    fitted = proposals.from_modes(found, degrees_of_freedom, defensive if name == "mixture" else ())
    refined = _refined(block, fitted, level=0)
    evaluations = found.evaluations + _gradient_evaluations(refined, level=0)
    return Fit(refined, found.peaks[0].converged, found.complete, evaluations)


def _gradient_evaluations(proposal: Proposal, level: int) -> Float[Tensor, " batch"]:
    """Decoder evaluations of `_refined`, for each image: each of its fitted components has its own samples."""
    latent = proposal.components[0].mean.shape[-1]
    return 2 * sum(_rounds(level, latent)) * (proposal.shares[:, : proposal.fitted] > 0).sum(1).double()


def _refined(block: Block, proposal: Proposal, level: int) -> Proposal:
    """Refine the proposal of each image by gradients at its own samples, in rounds."""
    for number, samples in enumerate(_rounds(level, block.latent)):
        parts = []
        for rows in splits(len(block), block.settings.chunk // samples):
            part = block[rows]
            noise = part.noise(Stream.REFINEMENT.of(level, number), 0, samples // 2)
            parts.append(proposal[rows].refined(block.model, part.x, noise, hard=level > 0))
        proposal = concatenate(parts)
    return proposal


def _rounds(level: int, latent: int) -> tuple[int, ...]:
    """Samples whose gradients refine the proposal, by round: a regression needs more of them in more dimensions."""
    if level:
        return (GRADIENTS_OF_HARD,)
    first = min(max(16, latent + latent % 2), BLOCK)
    return first, 2 * first


class Sampled(NamedTuple):
    """Log-weights of some images of a block, all with equally many; their mean weight is the estimate of p(x)."""

    rows: Int[Tensor, " some"]
    log_w: Float[Tensor, "samples some"]


def measure(block: Block, proposal: Proposal) -> tuple[Diagnosis, Float[Tensor, " batch"]]:
    """The estimates of all images, and the decoder evaluations of their samples and refinements."""
    sampled, evaluations = _sampled(block, proposal, level=0)
    for rows, log_w in sampled:
        block[rows.to(block.images.device)].keep(log_w)
    diagnoses = [diagnose(log_w) for _, log_w in sampled]
    back = torch.cat([rows for rows, _ in sampled]).argsort()
    return Diagnosis(*(torch.cat(values)[back] for values in zip(*diagnoses, strict=True))), evaluations


def _sampled(block: Block, proposal: Proposal, level: int) -> tuple[list[Sampled], Float[Tensor, " batch"]]:
    """Log-weights of this level's samples, or of those of the next levels where these are not enough."""
    settings = block.settings
    samples = settings.samples * GROWTH**level
    log_w = sample_log_weights(block, proposal, Stream.ESTIMATE.of(level), samples)
    evaluations = torch.full((len(block),), float(samples), dtype=torch.float64)
    if samples * GROWTH > settings.budget:
        return [Sampled(torch.arange(len(block)), log_w)], evaluations

    first, second = halves = log_w.tensor_split(2)
    # The verdict on the second half decides about the first, and the other way round.
    replace_second, replace_first = (_too_few(half, samples, adaptable=proposal.adaptable) for half in halves)
    hard = replace_first | replace_second
    sampled = [Sampled(rows := (~hard).nonzero().squeeze(1), log_w[:, rows])]
    rows = hard.nonzero().squeeze(1)
    if len(rows):
        on_device = rows.to(block.images.device)
        some, shaped = block[on_device], proposal[on_device]
        if shaped.adaptable:
            shaped = _refined(some, shaped, level + 1)
            evaluations[rows] += _gradient_evaluations(shaped, level + 1).cpu()
        more, spent = _sampled(some, shaped, level + 1)
        evaluations[rows] += spent
        for place, new in more:
            each = rows[place]
            both, only_second = replace_first[each] & replace_second[each], replace_second[each] & ~replace_first[each]
            kept = torch.where(only_second, first[:, each], second[:, each])
            sampled.append(Sampled(each[both], new[:, both]))
            sampled.append(Sampled(each[~both], pooled(kept[:, ~both], new[:, ~both])))
    return [part for part in sampled if len(part.rows)], evaluations


def pooled(first: Float[Tensor, "first batch"], second: Float[Tensor, "second batch"]) -> Float[Tensor, "both batch"]:
    """Log-weights whose mean weight is the mean of the mean weights of two estimates.

    The two kinds of weights differ by a factor, which counts as spread: their standard error is a little too large.
    """
    both = len(first) + len(second)
    return torch.cat([part + math.log(both / (2 * len(part))) for part in (first, second)])


def _too_few(log_w: Float[Tensor, "half batch"], samples: int, *, adaptable: bool) -> Bool[Tensor, " batch"]:
    """Whether the weights of a half show that `samples` samples are probably too few, but that more may be enough.

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
