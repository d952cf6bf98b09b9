"""Importance sampling of log p(x): p(x) ≈ 1/K Σ p(x | z_k) p(z_k) / r(z_k | x), z_k ~ r, the proposal.

Pilot samples first place the proposal and choose K for each image. The estimate is made of fresh samples alone, so
that the choice does no harm: 1/K Σ w is unbiased for p(x) whatever the pilots saw.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.distributions import kl_divergence

from pipeline.bounds import Elbo, log_weights, reparameterise
from pipeline.config import Evaluate
from pipeline.likelihood import noise
from pipeline.likelihood.proposals import Proposal, propose
from pipeline.likelihood.weights import MINIMUM_ESS, Diagnosis, Weights, diagnose
from pipeline.vae import VAE

# Streams of an image's noise: pilots and estimates of every level have one of their own.
ELBO_STREAM, ESTIMATE, PILOT = 0, 1, 33

GROWTH = 2  # of the number of samples, from a pilot to its estimate and from a level to the next
SAFETY = 2.0  # a pilot's effective sample size is optimistic


class PriorEstimates(NamedTuple):
    """Prior Monte Carlo per image: log p(x) in nats, effective sample size; float64 on the CPU."""

    log_px: Float[Tensor, " images"]
    ess: Float[Tensor, " images"]


def blocks(images: int, vae: VAE, chunk: int) -> list[range]:
    """Ranges of images for which one tangent a latent coordinate is at most `chunk` decoder evaluations."""
    size = max(1, chunk // vae.latent)
    return [range(start, min(start + size, images)) for start in range(0, images, size)]


def log_px(
    vae: VAE, x: Float[Tensor, "images pixels"], settings: Evaluate, proposal: str
) -> Iterator[tuple[Diagnosis, Bool[Tensor, " block"]]]:
    """Log p(x) of each image with its diagnosis, and whether the mode that the proposal rests on was found.

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
        start, converged = propose(proposal, vae, block_x)
        placed, levels = _pilots(vae, block_x, start, images, settings)
        yield _estimates(vae, block_x, placed, levels, images, settings), converged.cpu()


def ladder(samples: int, budget: int) -> list[int]:
    """Samples of the estimate at each level: K, and GROWTH times more each time, within the budget."""
    sizes = [samples]
    while sizes[-1] * GROWTH <= budget:
        sizes.append(sizes[-1] * GROWTH)
    return sizes


@torch.inference_mode()
def _pilots(
    vae: VAE, x: Float[Tensor, "batch pixels"], proposal: Proposal, images: range, settings: Evaluate
) -> tuple[Proposal, Int[Tensor, " batch"]]:
    """Move each image's proposal to where its pilot weights are, and find the level whose K will be enough."""
    levels = torch.zeros(len(x), dtype=torch.long)
    sizes = ladder(settings.samples, settings.budget)
    for level, samples in enumerate(sizes):
        rows = (levels == level).nonzero().squeeze(1)
        if len(rows) == 0:
            break
        pilot = max(2, samples // GROWTH)
        log_w, z = _draw(vae, x, proposal, rows, images, PILOT + level, pilot, settings)
        # The root of the weights: half the variance of their logarithm, for a mean that few samples can give.
        share = (0.5 * log_w).softmax(0).to(z)
        proposal = proposal.moved(rows.to(x.device), (share[..., None] * z).sum(0).to(x))
        weights = Weights(len(rows))
        weights.add(log_w)
        ess = weights.effective_sample_size
        short = ess * (samples / pilot) < SAFETY * MINIMUM_ESS
        # Where one sample has all the weight and the proposal cannot move, more of the same will not help.
        hopeful = (ess >= 2) | proposal.movable
        if level + 1 < len(sizes):
            levels[rows[short & hopeful]] += 1
    return proposal, levels


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
            log_w, _ = _draw(vae, x, proposal, rows, images, ESTIMATE + level, samples, settings)
            found.append(diagnose(log_w))
            order.append(rows)
    back = torch.cat(order).argsort()
    return Diagnosis(*(torch.cat(parts)[back] for parts in zip(*found, strict=True)))


def _draw(
    vae: VAE,
    x: Float[Tensor, "batch pixels"],
    proposal: Proposal,
    rows: Int[Tensor, " rows"],
    images: range,
    stream: int,
    samples: int,
    settings: Evaluate,
) -> tuple[Float[Tensor, "samples rows"], Float[Tensor, "samples rows latent"]]:
    """Log-weights in nats, float64, and samples z of some images of a batch, a chunk of evaluations at a time."""
    all_log_w, all_z = [], []
    for part in rows.split(max(1, settings.chunk // noise.BLOCK)):
        there = part.to(x.device)
        part_x, part_proposal, indices = x[there], proposal[there], [images[i] for i in part.tolist()]
        pieces = []
        for block, count in noise.blocks(samples):
            drawn = noise.draw(settings.seed, indices, stream, block, count, vae.latent)
            z = part_proposal.sample(noise.Noise(*(n.to(x) for n in drawn)))
            pieces.append((log_weights(vae, part_x, part_proposal, z).value.cpu().double(), z.cpu()))
        log_w, z = (torch.cat(piece) for piece in zip(*pieces, strict=True))
        all_log_w.append(log_w)
        all_z.append(z)
    return torch.cat(all_log_w, 1), torch.cat(all_z, 1)


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
