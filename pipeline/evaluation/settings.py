"""The VAE and sections of `params.yaml`, as `logpx` takes them."""

import torch
from torch import Tensor, nn

from logpx import annealing, block
from logpx.batching import chunk_size
from logpx.block import Block
from logpx.model import Decoder
from pipeline.config import Evaluate, Verify
from pipeline.model.vae import VAE


def joint(vae: VAE) -> Decoder:
    """p(z) and p(x | z): prior N(0, I), decoder and observation model."""
    return Decoder(nn.Sequential(vae.decoder.network, vae.decoder.link), vae.decoder.observation)


def prepare(vae: VAE, x: Tensor, settings: block.Settings) -> Block:
    """Images for the estimator, whose search starts at the encoder's posteriors; image i of `x` has the index i."""
    return block.prepare(joint(vae), x, settings, latent=vae.latent, start=vae.encode(x))


def estimator(evaluate: Evaluate, vae: VAE) -> block.Settings:
    """Settings of the estimator; `evaluate.chunk` = 0 chooses what suits the model and its device."""
    image = torch.zeros(1, vae.images.pixels).to(vae.prior.mean)
    return block.Settings(
        samples=evaluate.samples,
        budget=evaluate.budget,
        chunk=evaluate.chunk or chunk_size(joint(vae), image, vae.latent),
        seed=evaluate.seed,
        proposal=evaluate.proposal,
        degrees_of_freedom=evaluate.degrees_of_freedom,
    )


def annealer(verify: Verify) -> annealing.Settings:
    """Settings of annealed importance sampling."""
    return annealing.Settings(verify.chains, verify.temperatures, verify.leapfrog, verify.acceptance)
