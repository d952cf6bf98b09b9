"""The modes of each image's posterior that matter, found from several starts; Laplace's approximation at each.

No diagnostic of importance weights can see a mode that no sample visits. So every image is searched from several
starts. If two searches end in different modes that both matter, there may be more: further searches follow, until four
for each known mode in a row find no new one.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from logpx.batching import noise_blocks, splits
from logpx.block import Block
from logpx.curvature import Derivatives, derivatives
from logpx.distributions import cholesky
from logpx.laplace import (
    TOLERANCE,
    climb,
    decrement,
    follow_path,
    newton,
    solve,
)
from logpx.model import log_joint
from logpx.noise import Stream

# Inverse temperatures along a path from the prior. If a start is given, paths are only a second opinion.
PATH, SHORT_PATH = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7), (0.03, 0.3)
DRAWS = 256  # of the prior, to find a start if none is given
SPREAD = 0.1  # of the points that paths start from, in standard deviations of the prior around its mean
SEPARATION = 9.0  # squared distance between modes, by the curvature of either; less is the same mode
NEGLIGIBLE = 5.0  # nats by which a mode's share of p(x) is smaller than the largest's, to be left out
SEARCHES = 4  # of a round; as many rounds in a row as an image with several modes has modes must find no new one
MOST = 64  # further rounds of an image


class Peak(NamedTuple):
    """Laplace's approximation N(mode, precision⁻¹) at one mode of each image."""

    mode: Float[Tensor, "batch latent"]
    cholesky: Float[Tensor, "batch latent latent"]  # of the precision
    log_mass: Float[Tensor, " batch"]  # log p(x, mode) + ½ log |2π precision⁻¹|, nats; −∞ for no such mode
    converged: Bool[Tensor, " batch"]  # whether the search ended at the mode
    value: Float[Tensor, " batch"]  # log p(x, mode), nats

    def select(self, rows: Tensor) -> "Peak":
        return Peak(*(part[rows] for part in self))

    def without_mass(self) -> "Peak":
        """No mode."""
        return self._replace(log_mass=torch.full_like(self.log_mass, -torch.inf))

    def replaced(self, rows: Tensor, by: "Peak") -> "Peak":
        """With the modes of some images replaced."""
        return Peak(*(old.index_copy(0, rows, new) for old, new in zip(self, by, strict=True)))

    def distance(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, " batch"]:
        """Squared distance of z, by the curvature of this mode: ‖Lᵀ(z − mode)‖²."""
        return (self.cholesky.mT @ (z - self.mode).to(self.cholesky)[..., None]).square().sum((1, 2))


class Modes(NamedTuple):
    """The modes of a block of images: of each image the one with the largest mass first."""

    peaks: list[Peak]
    complete: Bool[Tensor, " batch"]  # whether the last searches found no new mode
    evaluations: Int[Tensor, " batch"]  # decoder evaluations; a tangent or a gradient counts as one


@torch.no_grad()
def find(block: Block) -> Modes:
    """Search the modes of log p(x | z) + log p(z) of all images together."""
    compute = derivatives(block.model, block.latent)
    start, drawn = (_likeliest_draw(block), DRAWS) if block.start is None else (block.start, 0)
    peak, cost = _search(block, compute, start, compute.at(block.x, start).surrogate, [])
    found, evaluations = [peak], cost + compute.cost + drawn
    for point in _points(block, start):
        peak, cost = _along_path(block, compute, point, found)
        found, evaluations = _distinct([*found, peak]), evaluations + cost
    return _more(block, compute, found, evaluations)


def _likeliest_draw(block: Block) -> Float[Tensor, "batch latent"]:
    """The z with the highest likelihood of `DRAWS` draws of the prior, for images without a start."""
    best, highest = block.prior.mean.expand(len(block), -1), None
    for number, size in noise_blocks(DRAWS):
        z = block.prior.mean + block.prior.scale * block.noise(Stream.DRAWS, number, size).normal
        at_once = max(1, block.settings.chunk // len(block))
        likelihood = torch.cat([block.model.log_likelihood(block.x, part) for part in z.split(at_once)])
        value, index = likelihood.nan_to_num(-torch.inf).max(0)
        better = torch.ones_like(value, dtype=torch.bool) if highest is None else value > highest
        best = torch.where(better[:, None], z[index, torch.arange(len(block), device=z.device)], best)
        highest = value if highest is None else torch.maximum(value, highest)
    return best


def _points(block: Block, start: Float[Tensor, "batch latent"]) -> list[Float[Tensor, "batch latent"]]:
    """Where paths start, in standard deviations of the prior around its mean.

    The first is opposite to the start, since searches from opposite sides differ most; then come pairs of opposites.
    """
    mean, scale = block.prior
    away = (mean - start) / scale
    length = away.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    drawn = SPREAD * block.noise(Stream.STARTS, 0, block.settings.starts).normal
    points = [SPREAD * block.latent**0.5 * away / length, *torch.stack([drawn, -drawn], 1).flatten(0, 1)]
    return points[: block.settings.starts - 1]


def _more(block: Block, compute: Derivatives, found: list[Peak], evaluations: Int[Tensor, " batch"]) -> Modes:
    """Further searches for images with several modes, from draws of the prior, until enough in a row find nothing."""
    modes = _numbers(found)
    last = torch.where(modes > 1, modes, 0)  # number of the round after which an image needs no more
    for number in range(1, MOST + 1):
        searched = (last >= number).nonzero().squeeze(1)
        # All searches of a round together are no more than the block.
        for part in splits(len(searched), len(block) // SEARCHES):
            rows = searched[part]
            known = [peak.select(rows) for peak in found]
            peaks, cost = _at_once(block[rows], compute, number, known)
            evaluations[rows] += cost
            now = _distinct([*known, *peaks])
            grown = (_numbers(now) > _numbers(known)).nonzero().squeeze(1)
            if len(grown):  # only these images change, so that no image depends on the others
                now = [peak.select(grown) for peak in now]
                found += [found[0].without_mass()] * (len(now) - len(found))
                now += [now[0].without_mass()] * (len(found) - len(now))
                found = [old.replaced(rows[grown], new) for old, new in zip(found, now, strict=True)]
                last[rows[grown]] = number + _numbers(now)
    return Modes(found, last <= MOST, evaluations)


def _at_once(
    block: Block, compute: Derivatives, number: int, known: list[Peak]
) -> tuple[list[Peak], Int[Tensor, " batch"]]:
    """A round of `SEARCHES` searches of each image."""
    rows = torch.arange(len(block), device=block.images.device).repeat(SEARCHES)
    points = block.noise(Stream.STARTS, number, SEARCHES).normal.flatten(0, 1)
    peak, cost = _along_path(block[rows], compute, points, [peak.select(rows) for peak in known])
    each = [peak.select(part) for part in torch.arange(len(rows), device=rows.device).view(SEARCHES, -1)]
    return each, cost.view(SEARCHES, -1).sum(0)


def _along_path(
    block: Block, compute: Derivatives, point: Float[Tensor, "batch latent"], found: list[Peak]
) -> tuple[Peak, Int[Tensor, " batch"]]:
    """A search along a path. Its start is given in standard deviations of the prior around its mean."""
    betas = PATH if block.start is None else SHORT_PATH
    start = block.prior.mean + block.prior.scale * point
    z, metric, cost = follow_path(compute, block.x, block.prior, start, betas)
    peak, evaluations = _search(block, compute, z, metric, found)
    return peak, evaluations + cost


def _search(
    block: Block,
    compute: Derivatives,
    z: Float[Tensor, "batch latent"],
    metric: Float[Tensor, "batch latent latent"],
    found: list[Peak],
) -> tuple[Peak, Int[Tensor, " batch"]]:
    """Climb from z, until a mode is reached or the next step leads to one that is known.

    Quasi-Newton steps lead to the mode. If they do not converge but lead so high that a mode there would matter, Newton
    steps follow. An end that has not converged then still counts as a mode.

    Args:
        metric: an estimate of the negative Hessian at z.

    Returns:
        The end of each image's search, and its decoder evaluations. It has no mass if nothing new was found.
    """
    end = climb(block.model, block.x, z, metric, lambda rows, z: _near([peak.select(rows) for peak in found], z))
    highest = torch.stack([peak.value for peak in found]).amax(0) if found else end.value
    low = end.value < highest - NEGLIGIBLE
    nothing = torch.full_like(end.value, -torch.inf, dtype=torch.float64)
    peak = Peak(end.z, cholesky(end.metric), nothing, torch.zeros_like(end.left), end.value)
    left = end.left | _near(found, end.z)
    rows = (~left & (~low | (decrement(end.gradient, end.metric) < TOLERANCE))).nonzero().squeeze(1)
    if len(rows) == 0:
        return peak, end.evaluations
    top, evaluations = _top(block[rows], compute, end.z[rows])
    near = _near([peak.select(rows) for peak in found], top.mode)
    top = top._replace(log_mass=top.log_mass.masked_fill(~top.converged & (low[rows] | near), -torch.inf))
    return peak.replaced(rows, top), end.evaluations.index_add(0, rows, evaluations)


def _top(block: Block, compute: Derivatives, z: Float[Tensor, "batch latent"]) -> tuple[Peak, Int[Tensor, " batch"]]:
    """Laplace's approximation at the mode near z, and its decoder evaluations."""
    end = newton(compute, block.x, z)
    # One more full Newton step, which needs no new derivatives and is exact where f is linear.
    polished = end.z + solve(end.metric, end.gradient).to(end.z)
    value = log_joint(block.model, block.x, polished)
    better = value > end.value
    value = torch.where(better, value, end.value)
    factor = cholesky(end.metric)
    spread = 0.5 * block.latent * math.log(2 * math.pi) - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    converged = decrement(end.gradient, end.metric) < TOLERANCE
    log_mass = (value + spread).nan_to_num(-torch.inf)
    peak = Peak(torch.where(better[:, None], polished, end.z), factor, log_mass, converged, value)
    return peak, end.evaluations + 1


def _near(found: list[Peak], z: Float[Tensor, "batch latent"]) -> Bool[Tensor, " batch"]:
    """Whether z is at a mode that is known."""
    near = torch.zeros(len(z), dtype=torch.bool, device=z.device)
    for peak in found:
        near |= (peak.distance(z) < SEPARATION) & (peak.log_mass > -torch.inf)
    return near


def _distinct(peaks: list[Peak]) -> list[Peak]:
    """The modes that matter, the largest mass first; of two ends at the same mode, that with the larger mass."""
    log_mass = torch.stack([peak.log_mass for peak in peaks])
    order = log_mass.argsort(dim=0, descending=True, stable=True)
    each = torch.arange(log_mass.shape[1], device=log_mass.device)
    stacked = [torch.stack(parts) for parts in zip(*peaks, strict=True)]
    kept: list[Peak] = []
    for rank in order:
        peak = Peak(*(part[rank, each] for part in stacked))
        if kept:
            new = peak.log_mass > kept[0].log_mass - NEGLIGIBLE
            for other in kept:
                apart = torch.minimum(other.distance(peak.mode), peak.distance(other.mode)) > SEPARATION
                new &= apart | (other.log_mass == -torch.inf)
            if not new.any():
                continue
            peak = peak._replace(log_mass=peak.log_mass.where(new, -torch.inf))
        kept.append(peak)
    return kept


def _numbers(found: list[Peak]) -> Int[Tensor, " batch"]:
    """How many modes each image has."""
    return (torch.stack([peak.log_mass for peak in found]) > -torch.inf).sum(0)
