"""Importance sampling of log p(x): p(x) ≈ 1/K Σ p(x | z_k) p(z_k) / r(z_k | x), z_k ~ r, the proposal.

Pilot samples first shape the proposal and choose K for each image. The estimate is made of fresh samples alone, so
that the choice does no harm: 1/K Σ w is unbiased for p(x) whatever the pilots saw.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pipeline.bounds import Elbo, kl_to_prior, log_weights, reparameterise
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
MARGIN = 0.2  # and its k̂ is noisy: more than one standard error
CACHED = 2**21  # numbers of a layer's output that a CPU's cache holds
GRADIENTS = (32, 64)  # samples whose gradients shape the proposal, in rounds; the last round again at each level


class Estimate(NamedTuple):
    """Log p(x) of a batch of images with what speaks for it, and how it was come by."""

    diagnosis: Diagnosis
    converged: Bool[Tensor, " batch"]  # whether the mode that the proposal rests on was found
    evaluations: Float[Tensor, " batch"]  # of the decoder, a tangent or a gradient counted as one more


class PriorEstimates(NamedTuple):
    """Prior Monte Carlo per image: log p(x) in nats, effective sample size; float64 on the CPU."""

    log_px: Float[Tensor, " images"]
    ess: Float[Tensor, " images"]


class Block(NamedTuple):
    """Images that are measured together."""

    vae: VAE
    x: Float[Tensor, "batch pixels"]  # dequantised, on the model's device
    images: range  # their numbers in the data set, which their noise belongs to
    settings: Evaluate

    def noise(self, rows: Int[Tensor, " rows"], stream: int, block: int, samples: int) -> noise.Noise:
        """That of some of the images, on the model's device."""
        images = rows.to(self.x.device) + self.images.start
        return noise.draw(self.settings.seed, images, stream, block, samples, self.vae.latent).to(self.x)


def sized(settings: Evaluate, vae: VAE) -> Evaluate:
    """The settings with `chunk` as they have it or, where it is 0, as suits the model and its device.

    On a CPU the output of a chunk stays in the cache, where the functions between the matrix products find it. On a GPU
    the layers of a chunk with their derivatives take an eighth of the memory.
    """
    if settings.chunk:
        return settings
    widths = [layer.out_features for layer in vae.decoder.network if isinstance(layer, nn.Linear)]
    device = vae.zero.device
    if device.type == "cuda":
        floats = torch.cuda.get_device_properties(device).total_memory // 8 // 4
        chunk = floats // (4 * sum(widths))
    else:
        chunk = CACHED // max(widths)
    return settings.model_copy(update={"chunk": max(noise.BLOCK, chunk // noise.BLOCK * noise.BLOCK)})


def blocks(images: int, vae: VAE, chunk: int) -> list[range]:
    """Ranges of images for which one tangent a latent coordinate is at most `chunk` decoder evaluations."""
    return noise.ranges(images, chunk // vae.latent)


def log_px(vae: VAE, x: Float[Tensor, "images pixels"], settings: Evaluate, proposal: str) -> Estimate:
    """Log p(x) of each image with its diagnosis.

    Args:
        x: dequantised images in [0, 1], on the model's device.
        settings: `samples` K and `budget` an image, `chunk` decoder evaluations held in memory, `seed`; the noise
            of image i depends on the seed and i alone.
        proposal: name of the proposal.
    """
    every = blocks(len(x), vae, settings.chunk)
    parts = [log_px_of_block(Block(vae, x[i.start : i.stop], i, settings), proposal) for i in every]
    diagnoses, converged, evaluations = zip(*parts, strict=True)
    together = Diagnosis(*map(torch.cat, zip(*diagnoses, strict=True)))
    return Estimate(together, torch.cat(converged), torch.cat(evaluations))


def log_px_of_block(block: Block, proposal: str) -> Estimate:
    """`log_px` of the images of one block."""
    placed, levels, converged, evaluations = prepare(block, proposal)
    diagnosis = _estimates(block, placed, levels)
    return Estimate(diagnosis, converged.cpu(), evaluations + diagnosis.samples)


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
def prepare(block: Block, name: str) -> Prepared:
    """Fit the proposal to each image of a block, and let pilots choose K."""
    vae, x, _, settings = block
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
            proposal = _adapted(block, proposal, rows, level, rounds)
            evaluations[rows] += 2 * sum(rounds)
        pilot = max(2, samples // PILOTS)
        log_w = draw(block, proposal, rows, PILOT + level, pilot)
        evaluations[rows] += pilot
        if level + 1 < len(sizes):
            levels[rows[_escalate(log_w, samples, adaptable=proposal.adaptable)]] += 1
    return Prepared(proposal, levels, converged, evaluations)


def _escalate(log_w: Float[Tensor, "pilots rows"], samples: int, *, adaptable: bool) -> Bool[Tensor, " rows"]:
    """Whether the pilot's weights say that `samples` samples will likely not do, but that more may.

    Where one sample has all the weight and the proposal cannot adapt, more of the same will not help.
    """
    ess = Weights.of(log_w).effective_sample_size
    short = ess * (samples / len(log_w)) < SAFETY * MINIMUM_ESS
    short |= pareto_khat(log_w) > khat_threshold(samples) - MARGIN
    return short & ((ess >= 2) | adaptable)


def _adapted(
    block: Block, proposal: Proposal, rows: Int[Tensor, " rows"], level: int, rounds: Sequence[int]
) -> Proposal:
    """The proposal reshaped for some images of a block, by gradients at samples of its own."""
    for number, samples in enumerate(rounds):
        stream = ADAPTATION + len(GRADIENTS) * level + number
        for part in rows.split(max(1, block.settings.chunk // samples)):
            drawn = block.noise(part, stream, 0, samples // 2)
            proposal = proposal.adapted(block.vae, block.x, part.to(block.x.device), drawn, hard=level > 0)
    return proposal


@torch.inference_mode()
def _estimates(block: Block, proposal: Proposal, levels: Int[Tensor, " batch"]) -> Diagnosis:
    """The estimate of each image with the K of its level, from fresh samples."""
    order: list[Tensor] = []
    found: list[Diagnosis] = []
    for level, samples in enumerate(ladder(block.settings.samples, block.settings.budget)):
        rows = (levels == level).nonzero().squeeze(1)
        if len(rows):
            found.append(diagnose(draw(block, proposal, rows, ESTIMATE + level, samples)))
            order.append(rows)
    back = torch.cat(order).argsort()
    return Diagnosis(*(torch.cat(parts)[back] for parts in zip(*found, strict=True)))


@torch.inference_mode()
def draw(
    block: Block, proposal: Proposal, rows: Int[Tensor, " rows"], stream: int, samples: int
) -> Float[Tensor, "samples rows"]:
    """Log-weights in nats, float64 on the CPU, of some images of a block, a chunk of evaluations at a time."""
    parts = []
    for part in rows.split(max(1, block.settings.chunk // noise.BLOCK)):
        there = part.to(block.x.device)
        x, of_part = block.x[there], proposal[there]
        pieces = []
        for number, count in noise.blocks(samples):
            z = of_part.sample(block.noise(part, stream, number, count))
            # A quarter of the chunk at once: decoded images are still in the cache when they are compared with x.
            at_once = max(1, block.settings.chunk // 4 // len(part))
            pieces.append(log_weights(block.vae, x, of_part, z, at_once).value.cpu().double())
        parts.append(torch.cat(pieces))
    return torch.cat(parts, 1)


@torch.inference_mode()
def elbos(vae: VAE, x: Float[Tensor, "images pixels"], *, samples: int, seed: int, chunk: int, first: int = 0) -> Elbo:
    """The ELBO's terms of each image, the expectation by `samples` samples of q; float64 on the CPU.

    Args:
        first: number of the first of these images in the data set; the noise of an image belongs to its number.
    """
    parts = []
    for images in noise.ranges(len(x), chunk // noise.BLOCK):
        part = x[images.start : images.stop]
        numbers = first + torch.tensor(images, device=x.device)
        q = vae.encoder(part)
        total = torch.zeros(len(part), dtype=torch.float64)
        for block, count in noise.blocks(samples):
            drawn = noise.draw(seed, numbers, ELBO_STREAM, block, count, vae.latent).normal
            total += vae.decoder(reparameterise(q, drawn.to(x))).log_prob(part).cpu().double().sum(0)
        parts.append(Elbo(total / samples, kl_to_prior(vae, q).cpu().double()))
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
        shared = torch.tensor([noise.SHARED], device=x.device)
        z = noise.draw(seed, shared, ESTIMATE, block, count, vae.latent).normal[:, 0].to(x)
        p = vae.decoder(z)
        for part, part_weights in zip(x.split(chunk), weights, strict=True):
            part_weights.add(p.pairwise_log_prob(part))
    return PriorEstimates(
        torch.cat([w.log_mean for w in weights]), torch.cat([w.effective_sample_size for w in weights])
    )
