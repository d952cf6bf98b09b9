"""The VAE and sections of `params.yaml`, as `logpx` takes them."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from logpx import annealing, block
from logpx.batching import chunk_size
from logpx.block import Block
from logpx.data import Data
from logpx.model import PRIOR_SAMPLES, Decoder, Model, Moments
from pipeline.config import Evaluate, Verify
from pipeline.model.labels import Labels
from pipeline.model.vae import VAE


@dataclass(frozen=True)
class Conditional:
    """p(z | y) and p(x | z, y) of a model with classes, for data (x, y)."""

    vae: VAE

    def log_prior(self, z: Float[Tensor, "*samples batch latent"], data: Data) -> Float[Tensor, "*samples batch"]:
        return self.vae.prior(data[1]).log_prob(z)

    def log_likelihood(self, data: Data, z: Float[Tensor, "*samples batch latent"]) -> Float[Tensor, "*samples batch"]:
        return self.vae.decoder(z, data[1]).log_prob(data[0])

    def sample_prior(self, shape: tuple[int, ...], data: Data) -> Float[Tensor, "*samples batch latent"]:
        noise = torch.randn(*shape, len(data[1]), self.vae.latent).to(data[0])
        return self.vae.prior.from_noise(noise, data[1])


def joint(vae: VAE) -> Model:
    """p(z) and p(x | z), or p(z | y) and p(x | z, y) of a model with classes."""
    if vae.classes:
        return Conditional(vae)
    prior = None if vae.prior.flow is None else vae.prior()
    return Decoder(nn.Sequential(vae.decoder.network, vae.decoder.link), vae.decoder.observation, prior)


def data(vae: VAE, x: Float[Tensor, "images pixels"], y: Labels) -> Data:
    """What `joint(vae)` takes as data: images, or images and labels."""
    if not vae.classes:
        return x
    assert y is not None
    return x, y


def given_noise(vae: VAE, y: Labels) -> Decoder:
    """p(x | g(ε), y) with the prior N(0, I) of ε, for one label y of all images: another view of the same p(x | y)."""

    def decode(noise: Float[Tensor, "n latent"]) -> Float[Tensor, "n parameters"]:
        return vae.generate(noise, None if y is None else y.expand(len(noise))).parameters

    return Decoder(decode, vae.decoder.observation)


def prepare(vae: VAE, x: Float[Tensor, "images pixels"], y: Labels, settings: block.Settings) -> Block:
    """Images for the estimator, whose search starts at the encoder's posteriors; image i of `x` has the index i."""
    start, prior = vae.encode(x, y), moments(vae, y, settings.seed)
    return block.prepare(joint(vae), data(vae, x, y), settings, latent=vae.latent, start=start, prior=prior)


@torch.no_grad()
def moments(vae: VAE, y: Labels, seed: int) -> Moments:
    """Mean and standard deviation of p(z), or of p(z | y) of each image: of `PRIOR_SAMPLES` samples of a flow."""
    if vae.prior.flow is None:
        return Moments(vae.prior.zero[None], vae.prior.one[None])
    # Drawn on the CPU, so that every device has the same; every class has the same noise.
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(PRIOR_SAMPLES, 1, vae.latent, generator=generator).to(vae.prior.zero)
    # Standardised, so that a flow that is the identity has the moments of N(0, I).
    noise = (noise - noise.mean(0)) / noise.std(0)
    every = torch.arange(vae.classes, device=noise.device) if vae.classes else None
    z = vae.prior.from_noise(noise.expand(-1, max(vae.classes, 1), -1), every)
    mean, scale = z.mean(0), z.std(0)
    return Moments(mean[y], scale[y]) if vae.classes else Moments(mean, scale)


def estimator(evaluate: Evaluate, vae: VAE) -> block.Settings:
    """Settings of the estimator; `evaluate.chunk` = 0 chooses what suits the model and its device."""
    image = torch.zeros(1, vae.images.pixels).to(vae.prior.zero)
    one = data(vae, image, torch.zeros(1, dtype=torch.long, device=image.device))
    return block.Settings(
        samples=evaluate.samples,
        budget=evaluate.budget,
        chunk=evaluate.chunk or chunk_size(joint(vae), one, vae.latent),
        seed=evaluate.seed,
        proposal=evaluate.proposal,
        degrees_of_freedom=evaluate.degrees_of_freedom,
    )


def annealer(verify: Verify) -> annealing.Settings:
    """Settings of annealed importance sampling."""
    return annealing.Settings(verify.chains, verify.temperatures, verify.leapfrog, verify.acceptance)
