"""Laplace's approximation of the posterior: its mode, and the curvature there.

For an observation model whose log-density has the score s = ∂ log p(x | m)/∂m and the Fisher information F in its
mean m = f(z), the log-joint log p(x | z) + log p(z) has the gradient Jᵀs − z and the generalised Gauss-Newton
matrix I + JᵀFJ, J = ∂f/∂z (Martens 2020). For N(f(z), σ²I) that is I + JᵀJ/σ². It leads to the mode. There the
precision is the exact Hessian: where f bends, Gauss-Newton alone is too narrow in some directions and too wide in
others. A Hessian that is not safely positive is bounded below by `FLOOR` times Gauss-Newton.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.bounds import log_joint
from pipeline.likelihood.components import cholesky
from pipeline.likelihood.curvature import cost, curvature
from pipeline.vae import VAE

# Newton decrement gᵀH⁻¹g / 2, the nats that a further step would gain, below which a mode counts as found:
# less than one posterior standard deviation in one direction. Pilot samples mend the rest.
TOLERANCE = 0.2
GAUSS_NEWTON_STEPS, NEWTON_STEPS = 6, 3
FLOOR = 0.3
GROUP = 32


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
    gauss_newton: Float[Tensor, "batch latent latent"]
    hessian: Float[Tensor, "batch latent latent"]
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
    twice = x.repeat(2, 1)
    starts = begin(vae, x, start), begin(vae, x, torch.zeros_like(start[:1]))
    both = Climb(*map(torch.cat, zip(*starts, strict=True)))
    ascend(vae, twice, both, GAUSS_NEWTON_STEPS, newton=False)
    first = torch.arange(len(x), device=x.device)
    second = first + len(x)
    second_wins = both.value[second] > both.value[first]
    higher, lower = torch.where(second_wins, second, first), torch.where(second_wins, first, second)
    climb = both.of(higher)
    ascend(vae, x, climb, NEWTON_STEPS, newton=True)
    precision = _bounded(climb.hessian, climb.gauss_newton)
    # One full Newton step more, which costs no new derivatives and is exact where f is linear.
    polished = climb.z + _solve(precision, climb.gradient).to(x)
    better = log_joint(vae, x, polished) > climb.value
    mode = torch.where(better[:, None], polished, climb.z)
    converged = _decrement(climb.gradient, precision) < TOLERANCE
    return Laplace(mode, cholesky(precision), converged, climb.evaluations + both.evaluations[lower] + 1)


def begin(vae: VAE, x: Float[Tensor, "batch pixels"], z: Float[Tensor, "#batch latent"]) -> Climb:
    """The start of a search at z, one for each image or one for all, whose tangents are then made once."""
    found = z, *curvature(vae, x, z), torch.tensor([cost(vae) if len(z) == len(x) else 2], device=x.device)
    return Climb(*(part.expand(len(x), *part.shape[1:]).clone() for part in found))


def ascend(vae: VAE, x: Float[Tensor, "batch pixels"], climb: Climb, steps: int, *, newton: bool) -> None:
    """Damped Gauss-Newton steps, or Newton steps, for the images that have not converged."""
    z, value, gradient, gauss_newton, hessian, evaluations = climb
    damping = torch.full_like(value, 1e-3)
    for _ in range(steps):
        active = (_decrement(gradient, gauss_newton) >= TOLERANCE).nonzero().squeeze(1)
        if len(active) == 0:
            break
        # Whole groups, some images twice: products of ever new sizes would be prepared anew, at a cost in memory.
        active = active[torch.arange(-(-len(active) // GROUP) * GROUP, device=x.device) % len(active)]
        matrix = gauss_newton[active]
        if newton:
            matrix = _bounded(hessian[active], matrix)
        ridge = torch.diag_embed(damping[active, None] * matrix.diagonal(dim1=-2, dim2=-1))
        proposed = z[active] + _solve(matrix + ridge, gradient[active]).to(z)
        found = curvature(vae, x[active], proposed)
        evaluations[active] += cost(vae)
        better = found.value > value[active]
        damping[active] *= torch.where(better, 0.2, 10.0).to(damping)
        moved = active[better]
        z[moved] = proposed[better]
        for part, new in zip((value, gradient, gauss_newton, hessian), found, strict=True):
            part[moved] = new[better]


def _solve(
    matrix: Float[Tensor, "batch latent latent"], vector: Float[Tensor, "batch latent"]
) -> Float[Tensor, "batch latent"]:
    return torch.cholesky_solve(vector[..., None], cholesky(matrix))[..., 0]


def _decrement(
    gradient: Float[Tensor, "batch latent"], matrix: Float[Tensor, "batch latent latent"]
) -> Float[Tensor, " batch"]:
    return 0.5 * (gradient * _solve(matrix, gradient)).sum(-1)


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
