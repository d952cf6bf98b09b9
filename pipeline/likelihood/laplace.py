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
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.func import jacrev, jvp, vmap

from pipeline.bounds import log_joint
from pipeline.likelihood.components import cholesky
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
    evaluations: Int[Tensor, " batch"]  # of the decoder, a tangent or a gradient counted as one more


class Climb(NamedTuple):
    """Where the search for the modes of a batch of images is: points that it changes in place."""

    z: Float[Tensor, "batch latent"]
    value: Float[Tensor, " batch"]
    gradient: Float[Tensor, "batch latent"]
    matrix: Float[Tensor, "batch latent latent"]  # Gauss-Newton's
    evaluations: Int[Tensor, " batch"]

    def of(self, rows: Tensor) -> "Climb":
        """That of some images, apart from this one."""
        return Climb(*(part[rows] for part in self))


@torch.no_grad()
def fit(vae: VAE, x: Float[Tensor, "batch pixels"], start: Float[Tensor, "batch latent"]) -> Laplace:
    """Find the mode of log p(x | z) + log p(z) for all images together.

    Damped Gauss-Newton, from `start` and from the prior's mean, since for an image unlike the training images the
    encoder's mean can lie in the valley of a far lower mode; the higher of the two ends counts. Then Newton steps
    with the bounded Hessian for the images where f bends too much for Gauss-Newton. A step that does not raise the
    log-joint is refused and the damping raised (Levenberg-Marquardt). Images that have converged leave the batch.
    Those that have not at the end keep their best point, and say so.
    """
    both = _begin(vae, x.repeat(2, 1), torch.cat([start, torch.zeros_like(start)]))
    _ascend(vae, x.repeat(2, 1), both, GAUSS_NEWTON_STEPS, newton=False)
    first = torch.arange(len(x), device=x.device)
    second = first + len(x)
    second_wins = both.value[second] > both.value[first]
    higher, lower = torch.where(second_wins, second, first), torch.where(second_wins, first, second)
    climb = both.of(higher)
    _ascend(vae, x, climb, NEWTON_STEPS, newton=True)
    precision = _bounded(_hessian(vae, x, climb.z), climb.matrix)
    # One full Newton step more, which costs no new derivatives and is exact where f is linear.
    polished = climb.z + _solve(precision, climb.gradient).to(x)
    better = log_joint(vae, x, polished) > climb.value
    mode = torch.where(better[:, None], polished, climb.z)
    converged = _decrement(climb.gradient, precision) < TOLERANCE
    evaluations = climb.evaluations + both.evaluations[lower] + _hessian_cost(vae) + 1
    return Laplace(mode, cholesky(precision), converged, evaluations)


def _begin(vae: VAE, x: Float[Tensor, "batch pixels"], z: Float[Tensor, "batch latent"]) -> Climb:
    evaluations = torch.full((len(x),), 1 + _jacobian_cost(vae), device=x.device)
    return Climb(z.clone(), log_joint(vae, x, z), *_gauss_newton(vae, x, z), evaluations)


def _ascend(vae: VAE, x: Float[Tensor, "batch pixels"], climb: Climb, steps: int, *, newton: bool) -> None:
    """Damped Gauss-Newton steps, or Newton steps, for the images that have not converged."""
    z, value, gradient, matrix, evaluations = climb
    damping = torch.full_like(value, 1e-3)
    for _ in range(steps):
        active = (_decrement(gradient, matrix) >= TOLERANCE).nonzero().squeeze(1)
        if len(active) == 0:
            break
        step_matrix = matrix[active]
        if newton:
            evaluations[active] += _hessian_cost(vae)
            step_matrix = _bounded(_hessian(vae, x[active], z[active]), step_matrix)
        ridge = torch.diag_embed(damping[active, None] * step_matrix.diagonal(dim1=-2, dim2=-1))
        proposed = z[active] + _solve(step_matrix + ridge, gradient[active]).to(z)
        proposed_value = log_joint(vae, x[active], proposed)
        evaluations[active] += 1
        better = proposed_value > value[active]
        damping[active] *= torch.where(better, 0.2, 10.0).to(damping)
        moved = active[better]
        if len(moved):
            evaluations[moved] += _jacobian_cost(vae)
            z[moved], value[moved] = proposed[better], proposed_value[better]
            gradient[moved], matrix[moved] = _gauss_newton(vae, x[moved], z[moved])


def _jacobian_cost(vae: VAE) -> int:
    """Decoder evaluations, a tangent counted as one: all tangents and the value."""
    return vae.latent + 1


def _hessian_cost(vae: VAE) -> int:
    """Decoder evaluations: for each coordinate a reverse pass through a reverse pass."""
    return 2 * (vae.latent + 1)


def _solve(
    matrix: Float[Tensor, "batch latent latent"], vector: Float[Tensor, "batch latent"]
) -> Float[Tensor, "batch latent"]:
    return torch.cholesky_solve(vector[..., None], cholesky(matrix))[..., 0]


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
    return -vmap(jacrev(jacrev(lambda z, x: log_joint(vae, x, z))))(z, x).double()


def _bounded(
    hessian: Float[Tensor, "batch latent latent"], gauss_newton: Float[Tensor, "batch latent latent"]
) -> Float[Tensor, "batch latent latent"]:
    """The Hessian with its eigenvalues relative to Gauss-Newton raised to `FLOOR` where they are less."""
    factor = cholesky(gauss_newton)
    half = torch.linalg.solve_triangular(factor, hessian, upper=False)
    relative = torch.linalg.solve_triangular(factor, half.mT, upper=False)
    relative = relative.nan_to_num(0, 0, 0)  # where float32 fails; the floor is then all there is
    eigenvalues, vectors = torch.linalg.eigh(0.5 * (relative + relative.mT))
    rotated = factor @ vectors
    return (rotated * eigenvalues.clamp(min=FLOOR)[:, None]) @ rotated.mT
