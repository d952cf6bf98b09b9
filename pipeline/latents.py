"""Paths and projections in latent space: what the pictures of a VAE are drawn from."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import kl_divergence

from pipeline.vae import VAE


def lerp(
    a: Float[Tensor, "pairs latent"], b: Float[Tensor, "pairs latent"], steps: int
) -> Float[Tensor, "pairs steps latent"]:
    """Straight lines from a to b, ends included."""
    share = torch.linspace(0, 1, steps, device=a.device)[:, None]
    return a[:, None] * (1 - share) + b[:, None] * share


def slerp(
    a: Float[Tensor, "pairs latent"], b: Float[Tensor, "pairs latent"], steps: int
) -> Float[Tensor, "pairs steps latent"]:
    """Great circles from a to b, ends included, with the length changing linearly (Shoemake 1985).

    In many dimensions N(0, I) has its mass near a sphere, which a straight line leaves and this does not.
    """
    lengths = lerp(a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True), steps)
    a, b = a / a.norm(dim=-1, keepdim=True), b / b.norm(dim=-1, keepdim=True)
    angle = (a * b).sum(-1, keepdim=True).clamp(-1, 1).acos()[:, None]
    share = torch.linspace(0, 1, steps, device=a.device)[:, None]
    # sin(t θ) / sin θ → t as θ → 0: parallel ends are joined by the straight line between them.
    safe = angle.clamp(min=1e-4)
    from_a = torch.where(angle < 1e-4, 1 - share, ((1 - share) * safe).sin() / safe.sin())
    from_b = torch.where(angle < 1e-4, share, (share * safe).sin() / safe.sin())
    return lengths * (from_a * a[:, None] + from_b * b[:, None])


def traversals(
    start: Float[Tensor, " latent"], coordinates: Sequence[int], values: Sequence[float]
) -> Float[Tensor, "coordinates steps latent"]:
    """`start` with one coordinate at a time set to each of the values."""
    z = start.repeat(len(coordinates), len(values), 1)
    for row, coordinate in enumerate(coordinates):
        z[row, :, coordinate] = torch.tensor(values, device=start.device)
    return z


def plane(side: int) -> tuple[Float[Tensor, "side side 2"], list[float]]:
    """A grid of the plane with equal prior mass between its lines, z₂ falling from row to row; and its lines."""
    values = [float(v) for v in torch.special.ndtri(torch.linspace(0.025, 0.975, side, dtype=torch.float64))]
    z1, z2 = torch.meshgrid(torch.tensor(values), torch.tensor(values[::-1]), indexing="xy")
    return torch.stack([z1, z2], dim=-1), values


def activity(vae: VAE, x: Float[Tensor, "images pixels"]) -> Float[Tensor, " latent"]:
    """Mean KL[q(z_d | x) ‖ p(z_d)] of each coordinate, nats: what it tells about an image."""
    return kl_divergence(vae.encoder(x).base_dist, vae.prior.base_dist).mean(0)


def project(means: NDArray[np.floating], labels: NDArray[np.integer]) -> tuple[NDArray[np.floating], tuple[str, str]]:
    """Posterior means in two dimensions, and the names of these.

    Two latent dimensions are shown as they are; of more, the plane that best separates the classes
    (linear discriminant analysis); one is shown against the class.
    """
    if means.shape[1] == 2:
        return means, ("z₁", "z₂")
    if means.shape[1] == 1:
        return np.column_stack([means[:, 0], labels.astype(float)]), ("z", "class")
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis  # slow to import

    points = LinearDiscriminantAnalysis(n_components=2).fit_transform(means, labels)
    return points, ("first linear discriminant of μ(x)", "second linear discriminant of μ(x)")
