"""Laplace's approximation of the posterior: its mode, and the curvature there.

For an observation model whose log-density has the score s = ∂ log p(x | m)/∂m and the Fisher information F in its
mean m = f(z), the log-joint log p(x | z) + log p(z) has the gradient Jᵀs − z and the generalised Gauss-Newton
matrix I + JᵀFJ, J = ∂f/∂z (Martens 2020). For N(f(z), σ²I) that is I + JᵀJ/σ². It leads to the mode. There the
precision is the exact Hessian: where f bends, Gauss-Newton alone is too narrow in some directions and too wide in
others. A Hessian that is not safely positive is bounded below by `FLOOR` times Gauss-Newton.
"""

import warnings
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.func import jacrev, jvp, vmap

from pipeline.vae import VAE

# Newton decrement gᵀH⁻¹g / 2, the nats that a further step would gain, below which a mode counts as found:
# less than one posterior standard deviation in one direction. Pilot samples mend the rest.
TOLERANCE = 0.2
GAUSS_NEWTON_STEPS, NEWTON_STEPS = 6, 3
FLOOR = 0.3


class Laplace(NamedTuple):
    """N(mode, precision⁻¹) for each image, with the precision's Cholesky factor."""

    mode: Float[Tensor, "batch latent"]
    cholesky: Float[Tensor, "batch latent latent"]
    converged: Bool[Tensor, " batch"]


@torch.no_grad()
def fit(vae: VAE, x: Float[Tensor, "batch pixels"], start: Float[Tensor, "batch latent"]) -> Laplace:
    """Find the mode of log p(x | z) + log p(z) from `start` for all images together.

    Damped Gauss-Newton first, then Newton steps with the bounded Hessian for the images where f bends too much for
    it. A step that does not raise the log-joint is refused and the damping raised (Levenberg-Marquardt). Images
    that have converged leave the batch. Those that have not at the end keep their best point, and say so.
    """
    z, value = start.clone(), _log_joint(vae, x, start)
    gradient, matrix = _gauss_newton(vae, x, z)
    damping = torch.full_like(value, 1e-3)
    for iteration in range(GAUSS_NEWTON_STEPS + NEWTON_STEPS):
        active = (_decrement(gradient, matrix) >= TOLERANCE).nonzero().squeeze(1)
        if len(active) == 0:
            break
        if iteration == GAUSS_NEWTON_STEPS:
            damping.fill_(1e-3)
        step_matrix = matrix[active]
        if iteration >= GAUSS_NEWTON_STEPS:
            step_matrix = _bounded(_hessian(vae, x[active], z[active]), step_matrix)
        ridge = torch.diag_embed(damping[active, None] * step_matrix.diagonal(dim1=-2, dim2=-1))
        proposed = z[active] + _solve(step_matrix + ridge, gradient[active]).to(z)
        proposed_value = _log_joint(vae, x[active], proposed)
        better = proposed_value > value[active]
        damping[active] *= torch.where(better, 0.2, 10.0).to(damping)
        moved = active[better]
        if len(moved):
            z[moved], value[moved] = proposed[better], proposed_value[better]
            gradient[moved], matrix[moved] = _gauss_newton(vae, x[moved], z[moved])
    precision = _bounded(_hessian(vae, x, z), matrix)
    # One full Newton step more, which costs no new derivatives and is exact where f is linear.
    polished = z + _solve(precision, gradient).to(z)
    better = _log_joint(vae, x, polished) > value
    mode = torch.where(better[:, None], polished, z)
    return Laplace(mode, torch.linalg.cholesky(precision), _decrement(gradient, precision) < TOLERANCE)


def _log_joint(
    vae: VAE, x: Float[Tensor, "*batch pixels"], z: Float[Tensor, "*batch latent"]
) -> Float[Tensor, "*batch"]:
    return vae.decoder(z).log_prob(x) + vae.prior.log_prob(z)


def _solve(
    matrix: Float[Tensor, "batch latent latent"], vector: Float[Tensor, "batch latent"]
) -> Float[Tensor, "batch latent"]:
    return torch.cholesky_solve(vector[..., None], torch.linalg.cholesky(matrix))[..., 0]


def _decrement(
    gradient: Float[Tensor, "batch latent"], matrix: Float[Tensor, "batch latent latent"]
) -> Float[Tensor, " batch"]:
    return 0.5 * (gradient * _solve(matrix, gradient)).sum(-1)


def _gauss_newton(
    vae: VAE, x: Float[Tensor, "batch pixels"], z: Float[Tensor, "batch latent"]
) -> tuple[Float[Tensor, "batch latent"], Float[Tensor, "batch latent latent"]]:
    """Gradient of the log-joint and its generalised Gauss-Newton matrix, in float64."""
    # One tangent for each latent coordinate, pushed through the decoder for all images together: (latent, batch, ...).
    basis = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)[:, None].expand(-1, len(z), -1)
    with warnings.catch_warnings():
        # Torch's own rules for forward derivatives are scripts, which it deprecates.
        warnings.filterwarnings("ignore", message=".*torch.jit", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
        tangents = vmap(lambda tangent: jvp(vae.decoder.mean, (z,), (tangent,))[1])(basis).transpose(0, 1)
    p = vae.decoder(z)
    gradient = (tangents @ p.score(x)[..., None])[..., 0] - z
    matrix = (tangents * p.fisher[:, None]) @ tangents.mT
    return gradient.double(), matrix.double() + torch.eye(z.shape[-1], dtype=torch.float64, device=z.device)


def _hessian(
    vae: VAE, x: Float[Tensor, "batch pixels"], z: Float[Tensor, "batch latent"]
) -> Float[Tensor, "batch latent latent"]:
    """−∂² log p(x, z) / ∂z², in float64."""
    return -vmap(jacrev(jacrev(lambda z, x: _log_joint(vae, x, z))))(z, x).double()


def _bounded(
    hessian: Float[Tensor, "batch latent latent"], gauss_newton: Float[Tensor, "batch latent latent"]
) -> Float[Tensor, "batch latent latent"]:
    """The Hessian with its eigenvalues relative to Gauss-Newton raised to `FLOOR` where they are less."""
    factor = torch.linalg.cholesky(gauss_newton)
    half = torch.linalg.solve_triangular(factor, hessian, upper=False)
    relative = torch.linalg.solve_triangular(factor, half.mT, upper=False)
    eigenvalues, vectors = torch.linalg.eigh(0.5 * (relative + relative.mT))
    rotated = factor @ vectors
    return (rotated * eigenvalues.clamp(min=FLOOR)[:, None]) @ rotated.mT
