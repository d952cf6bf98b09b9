"""Importance sampling of log p(x): p(x) ≈ 1/K Σ w_k, streamed so that memory does not grow with K."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import kl_divergence

from pipeline.bounds import log_weights, reparameterise
from pipeline.vae import VAE

# Samples of one image that are drawn together. Part of what the noise depends on, so not a parameter.
NOISE_BLOCK = 128

# The noise that belongs to no image: the prior's samples, which all images share.
SHARED = 2**64 - 1


class Weights:
    """Running sums of the weights of a batch of images, in float64 and scaled by the largest seen."""

    def __init__(self, batch: int) -> None:
        self.count = 0
        self._peak = torch.full((batch,), -torch.inf, dtype=torch.float64)
        self._sum = torch.zeros(batch, dtype=torch.float64)
        self._sum_of_squares = torch.zeros(batch, dtype=torch.float64)

    def add(self, log_w: Float[Tensor, "samples batch"]) -> None:
        log_w = log_w.cpu().double()
        peak = torch.maximum(self._peak, log_w.amax(0))
        shrink = (self._peak - peak).exp()
        w = (log_w - peak).exp()
        self._sum = self._sum * shrink + w.sum(0)
        self._sum_of_squares = self._sum_of_squares * shrink.square() + w.square().sum(0)
        self._peak = peak
        self.count += log_w.shape[0]

    @property
    def log_mean(self) -> Float[Tensor, " batch"]:
        """log 1/K Σ w, nats; in expectation at most log p(x) (Burda et al. 2016)."""
        return self._peak + (self._sum / self.count).log()

    @property
    def effective_sample_size(self) -> Float[Tensor, " batch"]:
        """(Σ w)² / Σ w², from 1 (one sample has all the weight) to K (Kong 1992)."""
        return self._sum.square() / self._sum_of_squares


class Estimates(NamedTuple):
    """Per image, in nats but for the effective sample size; float64 on the CPU."""

    reconstruction: Float[Tensor, " batch"]
    kl: Float[Tensor, " batch"]
    log_px: Float[Tensor, " batch"]
    ess: Float[Tensor, " batch"]

    @property
    def elbo(self) -> Float[Tensor, " batch"]:
        return self.reconstruction - self.kl


class PriorEstimates(NamedTuple):
    """Prior Monte Carlo per image: log p(x) in nats, effective sample size; float64 on the CPU."""

    log_px: Float[Tensor, " batch"]
    ess: Float[Tensor, " batch"]


def standard_normal(
    seed: int, images: Sequence[int], block: int, samples: int, latent: int
) -> Float[Tensor, "samples batch latent"]:
    """Noise ε ~ N(0, I) that depends on the seed, the image's index and the block's number alone.

    Philox (Salmon et al. 2011) is counter-based: (seed, image) is its key and the block a word of its
    counter, so that no batch, chunk or device changes the noise of an image.
    """
    noise = np.empty((len(images), samples, latent), dtype=np.float32)
    for row, image in zip(noise, images, strict=True):
        philox = np.random.Philox(key=np.array([seed, image], np.uint64), counter=np.array([0, 0, 0, block], np.uint64))
        np.random.Generator(philox).standard_normal(out=row, dtype=np.float32)
    return torch.from_numpy(noise).transpose(0, 1)


def noise_blocks(samples: int) -> Iterator[tuple[int, int]]:
    """The number and the size of each block that K samples are drawn in."""
    for block, start in enumerate(range(0, samples, NOISE_BLOCK)):
        yield block, min(NOISE_BLOCK, samples - start)


def image_blocks(images: int, chunk: int) -> list[range]:
    """Ranges of images whose noise blocks together are at most `chunk` decoder evaluations."""
    size = max(1, chunk // NOISE_BLOCK)
    return [range(start, min(start + size, images)) for start in range(0, images, size)]


def importance(
    vae: VAE, x: Float[Tensor, "images pixels"], *, samples: int, seed: int, chunk: int
) -> Iterator[Estimates]:
    """ELBO and log p(x) with the encoder as proposal, from the same samples, a block of images at a time.

    Args:
        x: dequantised images in [0, 1], on the model's device.
        samples: K, importance samples an image.
        seed: of the noise; that of image i depends on the seed and i alone.
        chunk: decoder evaluations held in memory at once.

    Yields:
        The estimates of each of `image_blocks(len(x), chunk)`, in order.
    """
    for images in image_blocks(len(x), chunk):
        yield _estimate(vae, x[images.start : images.stop], images, samples, seed)


@torch.inference_mode()
def _estimate(vae: VAE, x: Float[Tensor, "batch pixels"], images: range, samples: int, seed: int) -> Estimates:
    q = vae.encoder(x)
    weights = Weights(len(images))
    reconstruction = torch.zeros(len(images), dtype=torch.float64)
    for block, count in noise_blocks(samples):
        noise = standard_normal(seed, images, block, count, vae.latent).to(x)
        log_w = log_weights(vae, x, q, reparameterise(q, noise))
        weights.add(log_w.value)
        reconstruction += log_w.likelihood.cpu().double().sum(0)
    kl = kl_divergence(q, vae.prior).cpu().double()
    return Estimates(reconstruction / samples, kl, weights.log_mean, weights.effective_sample_size)


@torch.inference_mode()
def prior_monte_carlo(
    vae: VAE, x: Float[Tensor, "images pixels"], *, samples: int, seed: int, chunk: int
) -> PriorEstimates:
    """p(x) ≈ 1/n Σ p(x | z_i), z_i ~ p(z): unbiased, and hopeless, since almost no z explains a given x.

    All images share the samples, so each costs one decoder evaluation and a matrix product.
    """
    weights = [Weights(len(part)) for part in x.split(chunk)]
    for block, count in noise_blocks(samples):
        z = standard_normal(seed, [SHARED], block, count, vae.latent)[:, 0].to(x)
        p = vae.decoder(z)
        for part, part_weights in zip(x.split(chunk), weights, strict=True):
            part_weights.add(p.pairwise_log_prob(part))
    return PriorEstimates(
        torch.cat([w.log_mean for w in weights]), torch.cat([w.effective_sample_size for w in weights])
    )
