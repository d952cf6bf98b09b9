"""Importance sampling of log p(x): p(x) ≈ 1/K Σ p(x | z_k) p(z_k) / r(z_k | x), z_k ~ r, the proposal.

Pilot samples first shape the proposal and choose K for each image. The estimate is made of fresh samples alone, so
that the choice does no harm: 1/K Σ w is unbiased for p(x) whatever the pilots saw.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.distributions import kl_divergence

from pipeline.bounds import Elbo, log_weights, reparameterise
from pipeline.config import Evaluate
from pipeline.likelihood import noise
from pipeline.likelihood.proposals import Proposal, propose
from pipeline.likelihood.weights import MINIMUM_ESS, Diagnosis, Weights, diagnose, khat_threshold, pareto_khat
from pipeline.vae import VAE

# Streams of an image's noise: every use at every level has one of its own.
ELBO_STREAM, ESTIMATE, PILOT, ADAPTATION = 0, 1, 33, 65

GROWTH = 4  # of the number of samples from a level to the next
PILOTS = 2  # an estimate has so many times its pilot's samples
SAFETY = 2.0  # a pilot's effective sample size is optimistic
MARGIN = 0.15  # and its k̂ is noisy: about one standard error
GRADIENTS = (64, 128)  # samples whose gradients shape the proposal, in rounds; the last round again at each level


class Estimate(NamedTuple):
    """Log p(x) of a batch of images with what speaks for it, and how it was come by."""

    diagnosis: Diagnosis
    converged: Bool[Tensor, " batch"]  # whether the mode that the proposal rests on was found
    evaluations: Float[Tensor, " batch"]  # of the decoder, a tangent or a gradient counted as one more


def concatenate(parts: Sequence[Estimate]) -> Estimate:
    """The estimates of several batches as those of one."""
    diagnoses, converged, evaluations = zip(*parts, strict=True)
    together = Diagnosis(*map(torch.cat, zip(*diagnoses, strict=True)))
    return Estimate(together, torch.cat(converged), torch.cat(evaluations))


class PriorEstimates(NamedTuple):
    """Prior Monte Carlo per image: log p(x) in nats, effective sample size; float64 on the CPU."""

    log_px: Float[Tensor, " images"]
    ess: Float[Tensor, " images"]


def blocks(images: int, vae: VAE, chunk: int) -> list[range]:
    """Ranges of images for which one tangent a latent coordinate is at most `chunk` decoder evaluations."""
    size = max(1, chunk // vae.latent)
    return [range(start, min(start + size, images)) for start in range(0, images, size)]


def log_px(vae: VAE, x: Float[Tensor, "images pixels"], settings: Evaluate, proposal: str) -> Iterator[Estimate]:
    """Log p(x) of each image with its diagnosis.

    Args:
        x: dequantised images in [0, 1], on the model's device.
        settings: `samples` K and `budget` an image, `chunk` decoder evaluations held in memory, `seed`; the noise
            of image i depends on the seed and i alone.
        proposal: name of the proposal.

    Yields:
        The results of each of `blocks(len(x), vae, settings.chunk)`, in order.
    """
    for images in blocks(len(x), vae, settings.chunk):
        block_x = x[images.start : images.stop]
        placed, levels, converged, evaluations = prepare(vae, block_x, images, settings, proposal)
        diagnosis = _estimates(vae, block_x, placed, levels, images, settings)
        yield Estimate(diagnosis, converged.cpu(), evaluations + diagnosis.samples)


def ladder(samples: int, budget: int) -> list[int]:
    """Samples of the estimate at each level: K, and GROWTH times more each time, within the budget."""
    sizes = [samples]
    while sizes[-1] * GROWTH <= budget:
        sizes.append(sizes[-1] * GROWTH)
    return sizes


class Prepared(NamedTuple):
    """A proposal shaped by pilots, the level whose K will be enough, and what that took."""

    proposal: Proposal
    levels: Int[Tensor, " batch"]
    converged: Bool[Tensor, " batch"]
    evaluations: Float[Tensor, " batch"]


@torch.no_grad()
def prepare(vae: VAE, x: Float[Tensor, "batch pixels"], images: range, settings: Evaluate, name: str) -> Prepared:
    """Fit the proposal to each image of a block, and let pilots choose K."""
    proposal, converged, fitted = propose(name, vae, x, settings.degrees_of_freedom)
    evaluations = fitted.cpu().double()
    levels = torch.zeros(len(x), dtype=torch.long)
    sizes = ladder(settings.samples, settings.budget)
    for level, samples in enumerate(sizes):
        rows = (levels == level).nonzero().squeeze(1)
        if len(rows) == 0:
            break
        if proposal.adaptable:
            rounds = GRADIENTS if level == 0 else (GRADIENTS[-1] * 2,)
            proposal = _adapted(vae, x, proposal, rows, images, level, rounds, settings)
            evaluations[rows] += 2 * sum(rounds)
        pilot = max(2, samples // PILOTS)
        log_w = draw(vae, x, proposal, rows, images, PILOT + level, pilot, settings)
        evaluations[rows] += pilot
        if level + 1 < len(sizes):
            levels[rows[_short(log_w, samples) & _hopeful(log_w, proposal)]] += 1
    return Prepared(proposal, levels, converged, evaluations)


def _short(log_w: Float[Tensor, "samples rows"], samples: int) -> Bool[Tensor, " rows"]:
    """Whether an estimate of `samples` samples is likely not to be trusted, by the weights of its pilot."""
    weights = Weights(log_w.shape[1])
    weights.add(log_w)
    ess = weights.effective_sample_size * (samples / len(log_w))
    return (ess < SAFETY * MINIMUM_ESS) | (pareto_khat(log_w) > khat_threshold(samples) - MARGIN)


def _hopeful(log_w: Float[Tensor, "samples rows"], proposal: Proposal) -> Bool[Tensor, " rows"]:
    """Where one sample has all the weight and the proposal cannot adapt, more of the same will not help."""
    weights = Weights(log_w.shape[1])
    weights.add(log_w)
    return (weights.effective_sample_size >= 2) | proposal.adaptable


def _adapted(
    vae: VAE,
    x: Float[Tensor, "batch pixels"],
    proposal: Proposal,
    rows: Int[Tensor, " rows"],
    images: range,
    level: int,
    rounds: Sequence[int],
    settings: Evaluate,
) -> Proposal:
    """The proposal reshaped for some images of a batch, by gradients at samples of its own."""
    for number, samples in enumerate(rounds):
        stream = ADAPTATION + len(GRADIENTS) * level + number
        for part in rows.split(max(1, settings.chunk // samples)):
            drawn = noise.draw(settings.seed, [images[i] for i in part.tolist()], stream, 0, samples // 2, vae.latent)
            proposal = proposal.adapted(vae, x, part.to(x.device), noise.Noise(*(n.to(x) for n in drawn)))
    return proposal


@torch.inference_mode()
def _estimates(
    vae: VAE,
    x: Float[Tensor, "batch pixels"],
    proposal: Proposal,
    levels: Int[Tensor, " batch"],
    images: range,
    settings: Evaluate,
) -> Diagnosis:
    """The estimate of each image with the K of its level, from fresh samples."""
    order: list[Tensor] = []
    found: list[Diagnosis] = []
    for level, samples in enumerate(ladder(settings.samples, settings.budget)):
        rows = (levels == level).nonzero().squeeze(1)
        if len(rows):
            log_w = draw(vae, x, proposal, rows, images, ESTIMATE + level, samples, settings)
            found.append(diagnose(log_w))
            order.append(rows)
    back = torch.cat(order).argsort()
    return Diagnosis(*(torch.cat(parts)[back] for parts in zip(*found, strict=True)))


@torch.inference_mode()
def draw(
    vae: VAE,
    x: Float[Tensor, "batch pixels"],
    proposal: Proposal,
    rows: Int[Tensor, " rows"],
    images: range,
    stream: int,
    samples: int,
    settings: Evaluate,
) -> Float[Tensor, "samples rows"]:
    """Log-weights in nats, float64 on the CPU, of some images of a batch, a chunk of evaluations at a time."""
    parts = []
    for part in rows.split(max(1, settings.chunk // noise.BLOCK)):
        there = part.to(x.device)
        part_x, part_proposal, indices = x[there], proposal[there], [images[i] for i in part.tolist()]
        pieces = []
        for block, count in noise.blocks(samples):
            drawn = noise.draw(settings.seed, indices, stream, block, count, vae.latent)
            z = part_proposal.sample(noise.Noise(*(n.to(x) for n in drawn)))
            pieces.append(log_weights(vae, part_x, part_proposal, z).value.cpu().double())
        parts.append(torch.cat(pieces))
    return torch.cat(parts, 1)


@torch.inference_mode()
def elbos(vae: VAE, x: Float[Tensor, "images pixels"], *, samples: int, seed: int, chunk: int) -> Elbo:
    """The ELBO's terms of each image, the expectation by `samples` samples of q; float64 on the CPU."""
    parts = []
    for start in range(0, len(x), max(1, chunk // noise.BLOCK)):
        part = x[start : start + max(1, chunk // noise.BLOCK)]
        q = vae.encoder(part)
        total = torch.zeros(len(part), dtype=torch.float64)
        for block, count in noise.blocks(samples):
            drawn = noise.draw(seed, range(start, start + len(part)), ELBO_STREAM, block, count, vae.latent).normal
            total += vae.decoder(reparameterise(q, drawn.to(x))).log_prob(part).cpu().double().sum(0)
        parts.append(Elbo(total / samples, kl_divergence(q, vae.prior).cpu().double()))
    return Elbo(*(torch.cat(terms) for terms in zip(*parts, strict=True)))


@torch.inference_mode()
def prior_monte_carlo(
    vae: VAE, x: Float[Tensor, "images pixels"], *, samples: int, seed: int, chunk: int
) -> PriorEstimates:
    """p(x) ≈ 1/n Σ p(x | z_i), z_i ~ p(z): unbiased, and hopeless, since almost no z explains a given x.

    All images share the samples, so each costs one decoder evaluation and a matrix product.
    """
    weights = [Weights(len(part)) for part in x.split(chunk)]
    for block, count in noise.blocks(samples):
        z = noise.draw(seed, [noise.SHARED], ESTIMATE, block, count, vae.latent).normal[:, 0].to(x)
        p = vae.decoder(z)
        for part, part_weights in zip(x.split(chunk), weights, strict=True):
            part_weights.add(p.pairwise_log_prob(part))
    return PriorEstimates(
        torch.cat([w.log_mean for w in weights]), torch.cat([w.effective_sample_size for w in weights])
    )
