"""The best ELBO that a diagonal Gaussian can reach for each image.

log p(x) − ELBO = KL[q(z | x) ‖ p(z | x)] has two parts (Cremer, Li & Duvenaud 2018): the approximation gap, which no
diagonal Gaussian can close, and the amortisation gap, by which the encoder falls short of the best one.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.bounds import kl_to_prior, reparameterise
from pipeline.likelihood import noise
from pipeline.vae import VAE, diagonal_gaussian

# Streams of an image's noise: one for the optimiser, one for the ELBO of what it found.
OPTIMISER, RESULT = 80, 81

LEARNING_RATE = 0.1  # at first, in standard deviations of the encoder's posterior; it falls to zero as a cosine
RESULT_SAMPLES = 128


def best_elbo(
    vae: VAE, x: Float[Tensor, "images pixels"], *, samples: int, steps: int, seed: int, chunk: int
) -> Float[Tensor, " images"]:
    """The ELBO of the best diagonal Gaussian for each image, nats, float64 on the CPU.

    Adam on the mean and the logarithm of the standard deviation of each image, from the encoder's. The ELBO is then
    estimated with fresh noise, so that what the optimiser made of its own noise does not count.

    Args:
        samples: z an image at each of `steps` steps, in pairs ±ε.
    """
    blocks = noise.ranges(len(x), chunk // RESULT_SAMPLES)
    return torch.cat([_of_block(vae, x[block.start : block.stop], block, samples, steps, seed) for block in blocks])


def _of_block(
    vae: VAE, x: Float[Tensor, "batch pixels"], images: range, samples: int, steps: int, seed: int
) -> Float[Tensor, " batch"]:
    numbers = torch.tensor(images, device=x.device)
    with torch.no_grad():
        q = vae.encoder(x)
    # In units of the encoder's standard deviations, so that one learning rate suits every coordinate.
    move, log_scale = (torch.zeros_like(q.mean).requires_grad_() for _ in range(2))
    optimiser = torch.optim.Adam([move, log_scale], lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: 0.5 * (1 + math.cos(math.pi * i / steps)))

    def elbo(epsilon: Float[Tensor, "samples batch latent"]) -> Float[Tensor, " batch"]:
        now = diagonal_gaussian(q.mean + q.stddev * move, q.stddev * log_scale.exp())
        return vae.decoder(reparameterise(now, epsilon)).log_prob(x).mean(0) - kl_to_prior(vae, now)

    for step in range(steps):
        half = noise.draw(seed, numbers, OPTIMISER, step, max(1, samples // 2), vae.latent).normal.to(x)
        # A sum over images: each image's optimum is its own.
        loss = -elbo(torch.cat([half, -half])).sum()
        move.grad, log_scale.grad = torch.autograd.grad(loss, [move, log_scale])
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        return elbo(noise.draw(seed, numbers, RESULT, 0, RESULT_SAMPLES, vae.latent).normal.to(x)).cpu().double()
