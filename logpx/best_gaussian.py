"""The best ELBO that a diagonal Gaussian can reach for each image.

log p(x) − ELBO = KL[q(z | x) ‖ p(z | x)] has two parts (Cremer, Li & Duvenaud 2018): the approximation gap, which no
diagonal Gaussian can close, and the amortisation gap, by which the encoder falls short of the best one.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from logpx.batching import ranges
from logpx.distributions import diagonal_normal
from logpx.model import Model
from logpx.noise import Stream, draw

LEARNING_RATE = 0.1  # at first, in standard deviations of the encoder's posterior; it falls to zero as a cosine
RESULT_SAMPLES = 128


def best_elbo(
    model: Model, x: Float[Tensor, "images pixels"], *, samples: int, steps: int, seed: int, chunk: int
) -> Float[Tensor, " images"]:
    """The ELBO of the best diagonal Gaussian for each image, nats, float64 on the CPU.

    Adam optimises the mean and the log standard deviation of each image, starting from the encoder's. The ELBO is then
    estimated with fresh noise, so that overfitting to the optimiser's noise does not count.

    Args:
        samples: z per image at each of `steps` steps, in pairs ±ε.
    """
    blocks = ranges(len(x), chunk // RESULT_SAMPLES)
    return torch.cat([_of_block(model, x[block.start : block.stop], block, samples, steps, seed) for block in blocks])


def _of_block(
    model: Model, x: Float[Tensor, "batch pixels"], images: range, samples: int, steps: int, seed: int
) -> Float[Tensor, " batch"]:
    indices = torch.tensor(images, device=x.device)
    with torch.no_grad():
        q = model.encoder(x)
    # In units of the encoder's standard deviations, so that one learning rate suits every coordinate.
    move, log_scale = (torch.zeros_like(q.mean).requires_grad_() for _ in range(2))
    optimiser = torch.optim.Adam([move, log_scale], lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: 0.5 * (1 + math.cos(math.pi * i / steps)))

    def elbo(epsilon: Float[Tensor, "samples batch latent"]) -> Float[Tensor, " batch"]:
        now = diagonal_normal(q.mean + q.stddev * move, q.stddev * log_scale.exp())
        reconstruction = model.decoder(now.mean + now.stddev * epsilon).log_prob(x).mean(0)
        return reconstruction - _kl_to_prior(model, now)

    for step in range(steps):
        stream = Stream.BEST_GAUSSIAN_STEPS
        half = draw(seed, indices, stream, step, max(1, samples // 2), model.latent).normal.to(x)
        # A sum over images: each image's optimum is its own.
        loss = -elbo(torch.cat([half, -half])).sum()
        move.grad, log_scale.grad = torch.autograd.grad(loss, [move, log_scale])
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        result = draw(seed, indices, Stream.BEST_GAUSSIAN_RESULT, 0, RESULT_SAMPLES, model.latent).normal.to(x)
        return elbo(result).cpu().double()


def _kl_to_prior(model: Model, q: Independent) -> Float[Tensor, " batch"]:
    return kl_divergence(q.base_dist, model.prior.base_dist).sum(-1)
