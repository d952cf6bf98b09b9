"""What the encoder does: the ELBO of each image, by sampling it, and how many coordinates of z it uses."""

import torch
from jaxtyping import Float
from torch import Tensor

from logpx import noise
from logpx.batching import noise_blocks, ranges
from logpx.noise import BLOCK, Stream
from pipeline.model.labels import Labels
from pipeline.model.objectives import Elbo, samples_of
from pipeline.model.vae import VAE

ACTIVE = 0.01  # least variance of a coordinate's posterior mean over the images


def active_units(vae: VAE, x: Float[Tensor, "images pixels"], y: Labels) -> int:
    """Coordinates of z that the encoder uses: those whose posterior mean varies over the images.

    Burda et al. 2016, section 4.
    """
    mean, _ = vae.encode(x, y)
    return int((mean.var(0, correction=0) > ACTIVE).sum())


@torch.inference_mode()
def elbos(
    vae: VAE, x: Float[Tensor, "images pixels"], y: Labels, *, samples: int, seed: int, chunk: int, first: int = 0
) -> Elbo:
    """The ELBO's terms of each image, with the expectation by `samples` samples of q; float64 on the CPU.

    Args:
        chunk: decoder evaluations held in memory at once.
        first: index of the first of these images in the data set; an image's noise belongs to its index.
    """
    parts = []
    for images in ranges(len(x), chunk // BLOCK):
        part, label = x[images.start : images.stop], None if y is None else y[images.start : images.stop]
        indices = first + torch.tensor(images, device=x.device)
        q = vae.encoder(part, label)
        total = torch.zeros(2, len(part), dtype=torch.float64)
        for block, count in noise_blocks(samples):
            drawn = noise.draw(seed, indices, Stream.ELBO, block, count, vae.latent).normal
            posterior = samples_of(vae, q, part, drawn.to(x), label)
            reconstruction = posterior.log_likelihood.cpu().double().sum(0)
            total += torch.stack([reconstruction, count * posterior.kl.cpu().double()])
        parts.append(Elbo(*(total / samples)))
    return Elbo(*(torch.cat(terms) for terms in zip(*parts, strict=True)))
