"""Prior Monte Carlo: p(x) ≈ 1/n Σ p(x | z_i), z_i ~ p(z)."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from logpx.batching import noise_blocks
from logpx.model import Decoder, HasLogProb
from logpx.noise import SHARED, Stream, draw
from logpx.observations.gaussian import Gaussian
from logpx.weights import Weights


class PriorEstimates(NamedTuple):
    """Prior Monte Carlo per image: log p(x) in nats, effective sample size; float64 on the CPU."""

    log_px: Float[Tensor, " images"]
    ess: Float[Tensor, " images"]


@torch.inference_mode()
def prior_monte_carlo(
    model: Decoder, x: Float[Tensor, "images pixels"], *, latent: int, samples: int, seed: int, chunk: int
) -> PriorEstimates:
    """Unbiased for p(x), but useless in practice, since almost no z of the prior explains a given x.

    For the prior N(0, I). All images share the samples, so that each costs one decoder evaluation. With a Gaussian
    observation model of one σ, all log-densities are one matmul; any other takes each sample with each image.
    """
    weights = [Weights(len(part)) for part in x.split(chunk)]
    shared = torch.tensor([SHARED], device=x.device)
    for block, count in noise_blocks(samples):
        z = draw(seed, shared, Stream.ESTIMATE, block, count, latent).normal[:, 0].to(x)
        parameters = model.parameters(z)
        for part, part_weights in zip(x.split(chunk), weights, strict=True):
            part_weights.add(_pairwise(model.observation, part, parameters))
    return PriorEstimates(
        torch.cat([w.log_mean for w in weights]), torch.cat([w.effective_sample_size for w in weights])
    )


def _pairwise(
    observation: HasLogProb, x: Float[Tensor, "images pixels"], parameters: Float[Tensor, "samples parameters"]
) -> Float[Tensor, "samples images"]:
    """log p(x_j | z_i) of every image under every sample."""
    if isinstance(observation, Gaussian) and isinstance(observation.sigma, float):
        return observation.pairwise_log_prob(x, parameters)
    return torch.stack([observation.log_prob(image, parameters) for image in x], 1)
