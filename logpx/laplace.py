"""Laplace's approximation of the posterior: its mode, and the curvature there.

For an observation model with Fisher information F in its parameter f(z), the generalised Gauss-Newton matrix of the
log-joint log p(x | z) + log p(z) is I + JᵀFJ, J = ∂f/∂z (Martens 2020). For N(f(z), σ²I) that is I + JᵀJ/σ². It, or
another positive definite surrogate of the Hessian, leads to the mode. There the precision is the exact Hessian: where f
bends, the surrogate is too narrow in some directions and too wide in others. Eigenvalues of the Hessian, relative to
the surrogate, are raised to at least `FLOOR`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from logpx.curvature import Derivatives, derivatives
from logpx.data import Data, count, device_of, repeat, select
from logpx.distributions import cholesky
from logpx.model import Model, log_joint

# A mode counts as found when the Newton decrement gᵀH⁻¹g / 2, the nats that a further step would gain, is below this:
# less than one posterior standard deviation in one direction. Refinement corrects the rest.
TOLERANCE = 0.2
GAUSS_NEWTON_STEPS, NEWTON_STEPS = 6, 3
FLOOR = 0.3
GROUP = 32


class Laplace(NamedTuple):
    """N(mode, precision⁻¹) for each image, with the precision's Cholesky factor."""

    mode: Float[Tensor, "batch latent"]
    cholesky: Float[Tensor, "batch latent latent"]
    converged: Bool[Tensor, " batch"]
    evaluations: Int[Tensor, " batch"]  # decoder evaluations; a tangent or a gradient counts as one


class SearchState(NamedTuple):
    """Current points of the mode search of a batch of images, and the curvature there."""

    z: Float[Tensor, "batch latent"]
    value: Float[Tensor, " batch"]
    gradient: Float[Tensor, "batch latent"]
    surrogate: Float[Tensor, "batch latent latent"]
    hessian: Float[Tensor, "batch latent latent"]
    evaluations: Int[Tensor, " batch"]

    def select(self, rows: Tensor) -> "SearchState":
        """A copy of some images' state."""
        return SearchState(*(part[rows] for part in self))


@torch.no_grad()
def fit(model: Model, x: Data, starts: Sequence[Float[Tensor, "#batch latent"]]) -> Laplace:
    """Find the mode of log p(x | z) + log p(z) of all images together.

    First damped Gauss-Newton from every start; the best end of each image is kept. (For an image unlike the training
    images the encoder's mean can lie in the basin of a far lower mode.) Then Newton steps with the bounded Hessian, for
    images where f bends too much for Gauss-Newton. A step that does not raise the log-joint is rejected and the damping
    raised (Levenberg-Marquardt). Converged images leave the batch. Images that do not converge keep their best point,
    and `converged` is False.

    Args:
        starts: one z per image, or one z for all.
    """
    images = count(x)
    compute = derivatives(model, starts[0].shape[-1])
    all_starts = SearchState(*map(torch.cat, zip(*(begin(compute, x, z) for z in starts), strict=True)))
    ends = levenberg_marquardt(compute, repeat(x, len(starts)), all_starts, GAUSS_NEWTON_STEPS, newton=False)
    best = ends.value.nan_to_num(-torch.inf).view(len(starts), images).argmax(0)
    rows = best * images + torch.arange(images, device=best.device)
    spent = ends.evaluations.view(len(starts), images).sum(0)
    before = ends.evaluations[rows]
    state = levenberg_marquardt(compute, x, ends.select(rows), NEWTON_STEPS, newton=True)
    precision = _bounded(state.hessian, state.surrogate)
    # One more full Newton step, which needs no new derivatives and is exact where f is linear.
    polished = state.z + _solve(precision, state.gradient).to(state.z)
    better = log_joint(model, x, polished) > state.value
    mode = torch.where(better[:, None], polished, state.z)
    converged = _decrement(state.gradient, precision) < TOLERANCE
    return Laplace(mode, cholesky(precision), converged, spent + state.evaluations - before + 1)


def begin(compute: Derivatives, x: Data, z: Float[Tensor, "#batch latent"]) -> SearchState:
    """The search's state at its start: one z for each image, or one for all, whose tangents are computed once."""
    cost = compute.cost if len(z) == count(x) else compute.shared_cost
    evaluations = torch.tensor([cost], device=z.device)
    found = z, *compute.at(x, z), evaluations
    return SearchState(*(part.expand(count(x), *part.shape[1:]).clone() for part in found))


def levenberg_marquardt(compute: Derivatives, x: Data, start: SearchState, steps: int, *, newton: bool) -> SearchState:
    """Damped Gauss-Newton steps, or Newton steps, for the images that have not converged."""
    state = SearchState(*(part.clone() for part in start))
    z, value, gradient, surrogate, hessian, evaluations = state
    damping = torch.full_like(value, 1e-3)
    for _ in range(steps):
        active = (_decrement(gradient, surrogate) >= TOLERANCE).nonzero().squeeze(1)
        if len(active) == 0:
            break
        # Whole groups, with some images twice: oneDNN prepares a kernel for each new size, which costs memory.
        active = active[torch.arange(-(-len(active) // GROUP) * GROUP, device=device_of(x)) % len(active)]
        matrix = surrogate[active]
        if newton:
            matrix = _bounded(hessian[active], matrix)
        ridge = torch.diag_embed(damping[active, None] * matrix.diagonal(dim1=-2, dim2=-1))
        proposed = z[active] + _solve(matrix + ridge, gradient[active]).to(z)
        found = compute.at(select(x, active), proposed)
        evaluations[active] += compute.cost
        better = found.value > value[active]
        damping[active] *= torch.where(better, 0.2, 10.0).to(damping)
        moved = active[better]
        z[moved] = proposed[better]
        for part, new in zip((value, gradient, surrogate, hessian), found, strict=True):
            part[moved] = new[better]
    return state


def _solve(
    matrix: Float[Tensor, "batch latent latent"], vector: Float[Tensor, "batch latent"]
) -> Float[Tensor, "batch latent"]:
    return torch.cholesky_solve(vector[..., None], cholesky(matrix))[..., 0]


def _decrement(
    gradient: Float[Tensor, "batch latent"], matrix: Float[Tensor, "batch latent latent"]
) -> Float[Tensor, " batch"]:
    return 0.5 * (gradient * _solve(matrix, gradient)).sum(-1)


def _bounded(
    hessian: Float[Tensor, "batch latent latent"], surrogate: Float[Tensor, "batch latent latent"]
) -> Float[Tensor, "batch latent latent"]:
    """The Hessian with its eigenvalues, relative to the surrogate, raised to at least `FLOOR`."""
    factor = cholesky(surrogate)
    half = torch.linalg.solve_triangular(factor, hessian, upper=False)
    relative = torch.linalg.solve_triangular(factor, half.mT, upper=False)
    relative = relative.nan_to_num(0, 0, 0)  # if float32 overflows, only the floor is left
    eigenvalues, vectors = torch.linalg.eigh(0.5 * (relative + relative.mT))
    rotated = factor @ vectors
    return (rotated * eigenvalues.clamp(min=FLOOR)[:, None]) @ rotated.mT
