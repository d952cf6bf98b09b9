"""Adaptive importance sampling of log p(x) = log E_r[p(x, z) / r(z | x)].

Pilot samples of each image decide how many samples it gets. They are not part of the estimate, so that the choice
cannot bias it.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from logpx import modes, proposals
from logpx.batching import noise_blocks, splits
from logpx.block import GROWTH, Block
from logpx.model import log_weights
from logpx.noise import BLOCK, Stream
from logpx.proposals import Proposal, concatenate
from logpx.weights import LEAST_FOR_TAIL, MINIMUM_ESS, Diagnosis, Weights, diagnose, khat_threshold, pareto_khat

SAFETY = 2.0  # factor on MINIMUM_ESS for pilots, whose effective sample size is an overestimate
MARGIN = 0.1  # subtracted from the limit of k̂ for pilots, whose k̂ is less certain than that of more samples
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


def pilot_samples(samples: int) -> int:
    """Pilot samples that are drawn before K = `samples` samples: half as many, but enough for k̂."""
    return max(LEAST_FOR_TAIL, samples // 2)


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


def measure(block: Block, proposal: Proposal, level: int = 0) -> tuple[Diagnosis, Float[Tensor, " batch"]]:
    """Measure the images whose pilots show that this level's K is enough, and the others at the next level.

    Returns:
        The estimates, and the decoder evaluations that each image took from this level on.
    """
    settings = block.settings
    samples = settings.samples * GROWTH**level
    hard = torch.zeros(len(block), dtype=torch.bool)
    evaluations = torch.zeros(len(block), dtype=torch.float64)
    if samples * GROWTH <= settings.budget:
        pilots = pilot_samples(samples)
        log_w = sample_log_weights(block, proposal, Stream.PILOT.of(level), pilots)
        hard = _needs_more(log_w, samples, adaptable=proposal.adaptable)
        evaluations += pilots

    order: list[Tensor] = []
    diagnoses: list[Diagnosis] = []
    for rows, harder in ((~hard).nonzero().squeeze(1), False), (hard.nonzero().squeeze(1), True):
        if len(rows) == 0:
            continue
        on_device = rows.to(block.images.device)
        some, shaped = block[on_device], proposal[on_device]
        if harder:
            if shaped.adaptable:
                shaped = _refined(some, shaped, level + 1)
                evaluations[rows] += _gradient_evaluations(shaped, level + 1).cpu()
            diagnosis, spent = measure(some, shaped, level + 1)
        else:
            log_w = sample_log_weights(some, shaped, Stream.ESTIMATE.of(level), samples)
            some.keep(log_w)
            diagnosis = diagnose(log_w)
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
