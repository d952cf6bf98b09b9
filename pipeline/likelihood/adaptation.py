"""Gaussian variational inference for each image: from Laplace's Gaussian at the mode to the best one of all.

The Gaussian q = N(m, Λ⁻¹) with the least KL[q ‖ p(z | x)] has E_q[∇ log p] = 0 and Λ = −E_q[∇² log p] (Opper &
Archambeau 2009): curvature averaged over the posterior, where Laplace has that of one point. Both expectations come
from a linear regression of gradients on samples, which is exact for a Gaussian posterior, however few samples.
"""

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.bounds import log_joint_gradient
from pipeline.likelihood.components import Gaussian, cholesky
from pipeline.vae import VAE

# The regression is pulled towards no change by as much as so many samples of unit weight would.
RIDGE = 0.5
# One round changes a precision at most so much, relative to the one before.
NARROWEST, WIDEST = 3.0, 0.3


def adapt(
    vae: VAE,
    x: Float[Tensor, "batch pixels"],
    start: Gaussian,
    normal: Float[Tensor, "half batch latent"],
) -> Gaussian:
    """One round of adaptation: a new mean and a new precision.

    In coordinates ε with z = m + L⁻ᵀε the gradient of a log-density N(m, (LLᵀ)⁻¹) is −ε. What the true gradient has
    beyond that, r = ∇_ε log p + ε, is regressed on ε: r ≈ a − Δε. The new precision is L(I + Δ)Lᵀ and the new
    mean is where the regression has no gradient.

    Args:
        normal: ε ~ N(0, I), used with both signs.
    """
    latent = start.mean.shape[-1]
    epsilon = torch.cat([normal, -normal])
    gradient = log_joint_gradient(vae, x, start.mean + start.unwhiten(epsilon))[1]
    whitened = start.whiten_gradient(gradient)
    # A gradient that is no number, where float32 fails, says nothing.
    excess, epsilon = (whitened + epsilon).double().nan_to_num(0, 0, 0), epsilon.double()

    eye = torch.eye(latent, dtype=torch.float64, device=x.device)
    spread = torch.einsum("sbi,sbj->bij", epsilon, epsilon) / len(epsilon)
    slope = -torch.linalg.solve(spread + RIDGE * eye, torch.einsum("sbi,sbj->bij", epsilon, excess) / len(epsilon))
    eigenvalues, vectors = torch.linalg.eigh(eye + 0.5 * (slope + slope.mT))
    precision = (vectors * eigenvalues.clamp(WIDEST, NARROWEST)[:, None]) @ vectors.mT
    move = torch.linalg.solve(precision, excess.mean(0)[..., None])[..., 0]
    # Not farther than where the samples were: beyond, the regression says nothing.
    move = move * (math.sqrt(latent) / move.norm(dim=-1, keepdim=True).clamp(min=math.sqrt(latent)))
    factor = start.cholesky.double()
    step = torch.linalg.solve_triangular(factor.mT, move[..., None], upper=True)[..., 0]
    adapted = cholesky(factor @ precision @ factor.mT)
    return replace(start, mean=start.mean + step.to(start.mean), cholesky=adapted.to(start.cholesky))
