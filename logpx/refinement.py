"""Gaussian variational inference for each image: from Laplace's Gaussian at the mode to the best one.

The Gaussian q = N(m, Λ⁻¹) with the least KL[q ‖ p(z | x)] has E_q[∇ log p] = 0 and Λ = −E_q[∇² log p] (Opper &
Archambeau 2009): it averages the curvature over the posterior, while Laplace takes it at one point. Both expectations
come from a linear regression of gradients on samples. For a Gaussian posterior it is exact with any number of samples.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from logpx.data import Data
from logpx.distributions import Gaussian
from logpx.model import Model, log_joint_gradient

# Ridge of the regression, in samples per latent dimension: the result is pulled towards no change by as much as half a
# sample per dimension would. With few samples this limits noise; with many it vanishes.
RIDGE = 0.5
# One regression changes a precision by at most these factors.
NARROWEST, WIDEST = 3.0, 0.3


def refine(
    model: Model,
    x: Data,
    start: Gaussian,
    normal: Float[Tensor, "half batch latent"],
) -> Gaussian:
    """One round of refinement: a new mean and a new precision.

    In coordinates ε with z = m + L⁻ᵀε the gradient of a log-density N(m, (LLᵀ)⁻¹) is −ε. The excess of the true
    gradient, r = ∇_ε log p + ε, is regressed on ε: r ≈ a − Δε. The new precision is L(I + Δ)Lᵀ, and the new mean is
    the point where the regression's gradient vanishes.

    Args:
        normal: ε ~ N(0, I), used with both signs.
    """
    latent = start.mean.shape[-1]
    epsilon = torch.cat([normal, -normal])
    gradient = log_joint_gradient(model, x, start.mean + start.unwhiten(epsilon))[1]
    whitened = start.whiten_gradient(gradient)
    # Gradients that float32 makes non-finite carry no information.
    excess, epsilon = (whitened + epsilon).double().nan_to_num(0, 0, 0), epsilon.double()

    precision = regressed_precision(epsilon, excess, len(epsilon), WIDEST)
    move = torch.linalg.solve(precision, excess.mean(0)[..., None])[..., 0]
    # The step stays within the radius of the samples, because the regression does not extrapolate.
    move = move * (math.sqrt(latent) / move.norm(dim=-1, keepdim=True).clamp(min=math.sqrt(latent)))
    return start.reshaped(move, precision)


def regressed_precision(
    epsilon: Float[Tensor, "samples batch latent"],
    excess: Float[Tensor, "samples batch latent"],
    independent: int,
    widest: float,
) -> Float[Tensor, "batch latent latent"]:
    """I + Δ of the regression r ≈ a − Δε, with its eigenvalues bounded; float64.

    Args:
        epsilon: samples in coordinates in which the Gaussian is standard, float64 and with mean 0.
        excess: r, the excess of the gradient at each.
        independent: how many of the samples are independent, which the ridge is weighed against.
        widest: least eigenvalue.
    """
    latent = epsilon.shape[-1]
    eye = torch.eye(latent, dtype=torch.float64, device=epsilon.device)
    spread = torch.einsum("sbi,sbj->bij", epsilon, epsilon) / len(epsilon)
    ridge = RIDGE * latent / independent * eye
    slope = -torch.linalg.solve(spread + ridge, torch.einsum("sbi,sbj->bij", epsilon, excess) / len(epsilon))
    eigenvalues, vectors = torch.linalg.eigh(eye + 0.5 * (slope + slope.mT))
    return (vectors * eigenvalues.clamp(widest, NARROWEST)[:, None]) @ vectors.mT
