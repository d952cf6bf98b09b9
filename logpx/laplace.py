"""The search for a mode of the posterior, and the curvature there, which Laplace's approximation rests on.

For an observation model with Fisher information F in its parameter f(z), the generalised Gauss-Newton matrix of the
log-joint log p(x | z) + log p(z) is I + JᵀFJ, J = ∂f/∂z (Martens 2020). For N(f(z), σ²I) that is I + JᵀJ/σ². It, or
another positive definite surrogate of the Hessian, leads to the mode. There the precision is the exact Hessian: where f
bends, the surrogate is too narrow in some directions and too wide in others. Eigenvalues of the Hessian, relative to
the surrogate, are raised to at least `FLOOR`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from logpx.curvature import Derivatives
from logpx.data import Data, device_of, select
from logpx.distributions import cholesky
from logpx.model import Moments

# A mode counts as found when the Newton decrement gᵀH⁻¹g / 2, the nats that a further step would gain, is below this:
# less than one posterior standard deviation in one direction. Refinement corrects the rest.
TOLERANCE = 0.2
GAUSS_NEWTON_STEPS, NEWTON_STEPS = 10, 3
FLOOR = 0.3
GROUP = 32
LONGEST = 2.0  # step along a path, in standard deviations of the prior


class SearchState(NamedTuple):
    """Current points of the mode search of a batch of images, and the curvature there."""

    z: Float[Tensor, "batch latent"]
    value: Float[Tensor, " batch"]
    gradient: Float[Tensor, "batch latent"]
    surrogate: Float[Tensor, "batch latent latent"]
    hessian: Float[Tensor, "batch latent latent"]
    evaluations: Int[Tensor, " batch"]  # decoder evaluations; a tangent or a gradient counts as one

    @property
    def precision(self) -> Float[Tensor, "batch latent latent"]:
        """The Hessian with its eigenvalues, relative to the surrogate, raised to at least `FLOOR`."""
        return bounded(self.hessian, self.surrogate)


def begin(compute: Derivatives, x: Data, z: Float[Tensor, "batch latent"]) -> SearchState:
    """The search's state at its start."""
    evaluations = torch.full((len(z),), compute.cost, device=z.device)
    return SearchState(z, *compute.at(x, z), evaluations)


@torch.no_grad()
def follow_path(
    compute: Derivatives, x: Data, prior: Moments, z: Float[Tensor, "batch latent"], betas: Sequence[float]
) -> tuple[Float[Tensor, "batch latent"], int]:
    """Follow the mode of p(z) p(x | z)^β from the prior to the posterior, one Gauss-Newton step for each β.

    Far from the posterior its own gradient points to whatever mode is near. With a small β only what most of the
    posterior agrees on counts, so the path ends near its highest modes. The prior counts as a Gaussian here.

    Args:
        z: where the paths start, near the prior's mean.
        betas: inverse temperatures of the likelihood, rising.

    Returns:
        Where they end, and their decoder evaluations per image.
    """
    precision = prior.scale.double().square().reciprocal()
    matrix = torch.diag_embed(precision)
    for beta in betas:
        found = compute.at(x, z)
        pull = -precision * (z - prior.mean).double()
        gradient = pull + beta * (found.gradient - pull)
        step = solve(matrix + beta * (found.surrogate - matrix), gradient)
        length = (step / prior.scale).norm(dim=-1, keepdim=True)
        z = z + (step * (LONGEST / length.clamp(min=LONGEST))).nan_to_num(0, 0, 0).to(z)
    return z, len(betas) * compute.cost


def levenberg_marquardt(
    compute: Derivatives,
    x: Data,
    start: SearchState,
    steps: int,
    *,
    newton: bool,
    leave: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> SearchState:
    """Damped Gauss-Newton steps, or Newton steps, for the images that have not converged.

    A step that does not raise the log-joint is rejected and the damping raised. Converged images leave the batch.
    Images that do not converge keep their best point.

    Args:
        leave: of some images' rows and the points that they are about to move to, which of them leave the search.
    """
    state = SearchState(*(part.clone() for part in start))
    z, value, gradient, surrogate, hessian, evaluations = state
    damping = torch.full_like(value, 1e-3)
    going = torch.ones_like(value, dtype=torch.bool)
    group = min(GROUP, len(z))
    for _ in range(steps):
        active = (going & (decrement(gradient, surrogate) >= TOLERANCE)).nonzero().squeeze(1)
        if len(active) == 0:
            break
        matrix = surrogate[active]
        if newton:
            matrix = bounded(hessian[active], matrix)
        ridge = torch.diag_embed(damping[active, None] * matrix.diagonal(dim1=-2, dim2=-1))
        proposed = z[active] + solve(matrix + ridge, gradient[active]).to(z)
        if leave is not None:
            stay = ~leave(active, proposed)
            going[active] = stay
            active, proposed = active[stay], proposed[stay]
            if len(active) == 0:
                break
        # Whole groups, with some images twice: oneDNN prepares a kernel for each new size, which costs memory.
        padded = torch.arange(-(-len(active) // group) * group, device=device_of(x)) % len(active)
        active, proposed = active[padded], proposed[padded]
        found = compute.at(select(x, active), proposed)
        evaluations[active] += compute.cost
        better = found.value > value[active]
        damping[active] *= torch.where(better, 0.2, 10.0).to(damping)
        moved = active[better]
        z[moved] = proposed[better]
        for part, new in zip((value, gradient, surrogate, hessian), found, strict=True):
            part[moved] = new[better]
    return state


def solve(
    matrix: Float[Tensor, "batch latent latent"], vector: Float[Tensor, "batch latent"]
) -> Float[Tensor, "batch latent"]:
    return torch.cholesky_solve(vector[..., None], cholesky(matrix))[..., 0]


def decrement(
    gradient: Float[Tensor, "batch latent"], matrix: Float[Tensor, "batch latent latent"]
) -> Float[Tensor, " batch"]:
    """gᵀH⁻¹g / 2: the nats that a full Newton step is expected to gain."""
    return 0.5 * (gradient * solve(matrix, gradient)).sum(-1)


def bounded(
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
