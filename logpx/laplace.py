"""The search for a mode of the posterior, and the curvature there, which Laplace's approximation rests on.

For an observation model with Fisher information F in its parameter f(z), the generalised Gauss-Newton matrix of the
log-joint log p(x | z) + log p(z) is I + JᵀFJ, J = ∂f/∂z (Martens 2020). For N(f(z), σ²I) that is I + JᵀJ/σ². It, or
another positive definite surrogate of the Hessian, is the first metric of a quasi-Newton search. At the mode the
precision is the exact Hessian: where f bends, the surrogate is too narrow in some directions and too wide in others.
Eigenvalues of the Hessian, relative to the surrogate, are raised to at least `FLOOR`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from logpx.curvature import Derivatives
from logpx.data import Data, select
from logpx.distributions import cholesky
from logpx.model import Model, Moments, log_joint_gradient

# A mode counts as found when the Newton decrement gᵀH⁻¹g / 2, the nats that a further step would gain, is below this:
# less than one posterior standard deviation in one direction. Refinement corrects the rest.
TOLERANCE = 0.2
STEPS, NEWTON_STEPS = 16, 8
FLOOR = 0.3
GROUP = 32
LONGEST = 2.0  # step along a path, in standard deviations of the prior


class Climb(NamedTuple):
    """Where a search has led each image of a batch."""

    z: Float[Tensor, "batch latent"]
    value: Float[Tensor, " batch"]
    gradient: Float[Tensor, "batch latent"]
    metric: Float[Tensor, "batch latent latent"]  # estimate of the negative Hessian, positive definite
    left: Bool[Tensor, " batch"]  # whether it left the search
    evaluations: Int[Tensor, " batch"]  # decoder evaluations; a tangent or a gradient counts as one


@torch.no_grad()
def follow_path(
    compute: Derivatives, x: Data, prior: Moments, z: Float[Tensor, "batch latent"], betas: Sequence[float]
) -> tuple[Float[Tensor, "batch latent"], Float[Tensor, "batch latent latent"], int]:
    """Follow the mode of p(z) p(x | z)^β from the prior to the posterior, one Gauss-Newton step for each β.

    Far from the posterior its own gradient points to whatever mode is near. With a small β only what most of the
    posterior agrees on counts, so the path ends near its highest modes. The prior counts as a Gaussian here.

    Args:
        z: where the paths start, near the prior's mean.
        betas: inverse temperatures of the likelihood, rising.

    Returns:
        Where they end, the posterior's surrogate at the point before, and their decoder evaluations per image.
    """
    precision = prior.scale.double().square().reciprocal()
    matrix = torch.diag_embed(precision)
    surrogate = matrix.expand(len(z), -1, -1)
    for beta in betas:
        found = compute.at(x, z)
        surrogate = found.surrogate
        pull = -precision * (z - prior.mean).double()
        gradient = pull + beta * (found.gradient - pull)
        step = solve(matrix + beta * (found.surrogate - matrix), gradient)
        length = (step / prior.scale).norm(dim=-1, keepdim=True)
        z = z + (step * (LONGEST / length.clamp(min=LONGEST))).nan_to_num(0, 0, 0).to(z)
    return z, surrogate, len(betas) * compute.cost


@torch.no_grad()
def climb(
    model: Model,
    x: Data,
    z: Float[Tensor, "batch latent"],
    metric: Float[Tensor, "batch latent latent"],
    leave: Callable[[Tensor, Tensor], Tensor],
) -> Climb:
    """Damped quasi-Newton steps (BFGS), for the images that have not converged.

    A step needs a value and a gradient. A step that does not raise the log-joint is rejected and the damping raised.
    Every step updates the metric, and Powell's damping keeps it positive definite (Nocedal & Wright 2006, procedure
    18.2). Converged images leave the batch. Images that do not converge keep their best point.

    Args:
        metric: an estimate of the negative Hessian at z, positive definite.
        leave: of some images' rows and the points that they are about to move to, which of them leave the search.
    """
    z, metric = z.clone(), metric.clone()
    value, gradient = _value_and_gradient(model, x, z)
    evaluations = torch.full((len(z),), 2, device=z.device)
    left = torch.zeros_like(value, dtype=torch.bool)
    damping = torch.full_like(value, 1e-3)
    group = min(GROUP, len(z))
    for _ in range(STEPS):
        active = (~left & (decrement(gradient, metric) >= TOLERANCE)).nonzero().squeeze(1)
        proposed = z[active] + _damped_step(metric[active], gradient[active], damping[active]).to(z)
        leaves = leave(active, proposed)
        left[active[leaves]] = True
        active, proposed = active[~leaves], proposed[~leaves]
        if len(active) == 0:
            break
        padded = _whole_groups(len(active), group, z.device)
        active, proposed = active[padded], proposed[padded]
        new_value, new_gradient = _value_and_gradient(model, select(x, active), proposed)
        evaluations[active] += 2
        metric[active] = updated(metric[active], (proposed - z[active]).double(), gradient[active] - new_gradient)
        better = new_value > value[active]
        damping[active] *= torch.where(better, 0.2, 10.0).to(damping)
        moved = active[better]
        z[moved], value[moved], gradient[moved] = proposed[better], new_value[better], new_gradient[better]
    return Climb(z, value, gradient, metric, left, evaluations)


def _value_and_gradient(
    model: Model, x: Data, z: Float[Tensor, "batch latent"]
) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch latent"]]:
    value, gradient = log_joint_gradient(model, x, z)
    return value, gradient.double()


def updated(
    metric: Float[Tensor, "batch latent latent"],
    step: Float[Tensor, "batch latent"],
    change: Float[Tensor, "batch latent"],
) -> Float[Tensor, "batch latent latent"]:
    """The metric B after a step s that changed the gradient of −log p(x, z) by y: BFGS with Powell's damping.

    r = θ y + (1 − θ) B s, with the largest θ ≤ 1 for which sᵀr ≥ 0.2 sᵀBs; the new metric maps s to r. If it would not
    be finite, the metric stays.
    """
    image = (metric @ step[..., None])[..., 0]
    bend, length = (step * change).sum(-1, keepdim=True), (step * image).sum(-1, keepdim=True)
    theta = torch.where(bend < 0.2 * length, 0.8 * length / (length - bend), 1.0)
    target = theta * change + (1 - theta) * image
    removed = image[..., None] * (image / length)[..., None, :]
    added = target[..., None] * (target / (step * target).sum(-1, keepdim=True))[..., None, :]
    new = metric - removed + added
    return torch.where(new.isfinite().all(-1, keepdim=True).all(-2, keepdim=True), new, metric)


@torch.no_grad()
def newton(compute: Derivatives, x: Data, z: Float[Tensor, "batch latent"]) -> Climb:
    """Damped Newton steps, for the images that have not converged; the metric is the bounded Hessian."""
    z = z.clone()
    value, gradient, surrogate, hessian = compute.at(x, z)
    value, gradient, metric = value.clone(), gradient.clone(), bounded(hessian, surrogate)
    evaluations = torch.full((len(z),), compute.cost, device=z.device)
    damping = torch.full_like(value, 1e-3)
    group = min(GROUP, len(z))
    for _ in range(NEWTON_STEPS):
        active = (decrement(gradient, metric) >= TOLERANCE).nonzero().squeeze(1)
        if len(active) == 0:
            break
        active = active[_whole_groups(len(active), group, z.device)]
        proposed = z[active] + _damped_step(metric[active], gradient[active], damping[active]).to(z)
        found = compute.at(select(x, active), proposed)
        evaluations[active] += compute.cost
        better = found.value > value[active]
        damping[active] *= torch.where(better, 0.2, 10.0).to(damping)
        moved = active[better]
        z[moved], value[moved], gradient[moved] = proposed[better], found.value[better], found.gradient[better]
        metric[moved] = bounded(found.hessian[better], found.surrogate[better])
    return Climb(z, value, gradient, metric, torch.zeros_like(value, dtype=torch.bool), evaluations)


def _damped_step(
    metric: Float[Tensor, "batch latent latent"],
    gradient: Float[Tensor, "batch latent"],
    damping: Float[Tensor, " batch"],
) -> Float[Tensor, "batch latent"]:
    """A step of Levenberg and Marquardt: the metric's diagonal is raised by the damping."""
    ridge = torch.diag_embed(damping[:, None] * metric.diagonal(dim1=-2, dim2=-1))
    return solve(metric + ridge, gradient)


def _whole_groups(count: int, group: int, device: torch.device) -> Int[Tensor, " rows"]:
    """Rows in whole groups, some of them twice: oneDNN prepares a kernel for each new size, which costs memory."""
    return torch.arange(-(-count // group) * group, device=device) % count


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
