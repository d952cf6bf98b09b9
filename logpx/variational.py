"""The best ELBO that a diagonal Gaussian can reach for each image.

log p(x) − ELBO = KL[q(z | x) ‖ p(z | x)] has two parts (Cremer, Li & Duvenaud 2018): the approximation gap, which no
diagonal Gaussian can close, and the amortisation gap, by which the encoder falls short of the best one.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Independent

from logpx.batching import chunk_size, splits
from logpx.data import Data, count, device_of, select
from logpx.distributions import diagonal_normal
from logpx.model import Decoder, Model, Moments, log_joint
from logpx.noise import Stream, draw

LEARNING_RATE = 0.1  # at first, in standard deviations of the encoder's posterior; it falls to zero as a cosine
RESULT_SAMPLES = 128


def best_gaussian(
    model: Model,
    x: Data,
    *,
    start: tuple[Tensor, Tensor],
    samples: int = 8,
    steps: int = 200,
    seed: int = 0,
    chunk: int = 0,
) -> Float[Tensor, " images"]:
    """The ELBO of the best diagonal Gaussian for each image, nats, float64 on the CPU.

    Adam optimises the mean and the log standard deviation of each image, starting from the encoder's. The ELBO is then
    estimated with fresh noise, so that overfitting to the optimiser's noise does not count.

    Args:
        start: mean and standard deviation of q(z | x) of each image.
        samples: z per image at each of `steps` steps, in pairs ±ε.
        chunk: decoder evaluations held in memory at once; 0 chooses what suits the machine.
    """
    encoder = Moments(*(part.detach() for part in start))
    size = chunk or chunk_size(model, x, encoder.mean.shape[-1])
    indices = torch.arange(count(x), device=device_of(x))
    found = []
    for part in splits(count(x), size // RESULT_SAMPLES):
        q = Moments(*(moment[part] for moment in encoder))
        found.append(_of_block(model, select(x, part), indices[part], q, samples, steps, seed))
    return torch.cat(found)


def _of_block(
    model: Model, x: Data, images: Int[Tensor, " batch"], q: Moments, samples: int, steps: int, seed: int
) -> Float[Tensor, " batch"]:
    latent = q.mean.shape[-1]
    # In units of the encoder's standard deviations, so that one learning rate suits every coordinate.
    move, log_scale = (torch.zeros_like(q.mean).requires_grad_() for _ in range(2))
    optimiser = torch.optim.Adam([move, log_scale], lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: 0.5 * (1 + math.cos(math.pi * i / steps)))

    def elbo(epsilon: Float[Tensor, "samples batch latent"]) -> Float[Tensor, " batch"]:
        now = diagonal_normal(q.mean + q.scale * move, q.scale * log_scale.exp())
        z = now.mean + now.stddev * epsilon
        if isinstance(model, Decoder) and model.prior is None and isinstance(x, Tensor):
            return model.log_likelihood(x, z).mean(0) - _kl_to_standard_normal(now)
        return log_joint(model, x, z).mean(0) + now.entropy()

    for step in range(steps):
        stream = Stream.BEST_GAUSSIAN_STEPS
        half = draw(seed, images, stream, step, max(1, samples // 2), latent).normal.to(q.mean)
        # A sum over images: each image's optimum is its own.
        loss = -elbo(torch.cat([half, -half])).sum()
        move.grad, log_scale.grad = torch.autograd.grad(loss, [move, log_scale])
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        result = draw(seed, images, Stream.BEST_GAUSSIAN_RESULT, 0, RESULT_SAMPLES, latent).normal.to(q.mean)
        return elbo(result).cpu().double()


def _kl_to_standard_normal(q: Independent) -> Float[Tensor, " batch"]:
    return 0.5 * (q.variance + q.mean.square() - 1 - q.variance.log()).sum(-1)
