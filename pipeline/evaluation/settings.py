"""The VAE and sections of `params.yaml`, as `logpx` takes them."""

import torch
from torch import Tensor, nn

from logpx import annealing, importance
from logpx.batching import chunk_size
from logpx.importance import Block
from logpx.model import Decoder
from pipeline.config import Evaluate, Verify
from pipeline.model.vae import VAE


def joint(vae: VAE) -> Decoder:
    """p(z) and p(x | z): prior N(0, I), decoder and observation model."""
    return Decoder(nn.Sequential(vae.decoder.network, vae.decoder.link), vae.decoder.observation)


@torch.no_grad()
def posteriors(vae: VAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of q(z | x) of each image."""
    q = vae.encoder(x)
    return q.mean, q.stddev


def prepare(vae: VAE, x: Tensor, settings: importance.Settings) -> Block:
    """Images for the estimator, whose search starts at the encoder's posteriors; image i of `x` has the index i."""
    return importance.prepare(joint(vae), x, settings, latent=vae.latent, start=posteriors(vae, x))


def estimator(evaluate: Evaluate, vae: VAE) -> importance.Settings:
    """Settings of the estimator; `evaluate.chunk` = 0 chooses what suits the model and its device."""
    image = torch.zeros(1, vae.pixels).to(vae.prior.mean)
    return importance.Settings(
        samples=evaluate.samples,
        budget=evaluate.budget,
        chunk=evaluate.chunk or chunk_size(joint(vae), image, vae.latent),
        seed=evaluate.seed,
        proposal=evaluate.proposal,
        degrees_of_freedom=evaluate.degrees_of_freedom,
        starts=2,
    )


def annealer(verify: Verify) -> annealing.Settings:
    """Settings of annealed importance sampling."""
    return annealing.Settings(verify.chains, verify.temperatures, verify.leapfrog, verify.acceptance)
