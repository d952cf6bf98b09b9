"""Points of the latent space for the pictures: lines between encodings, walks along coordinates, grids, projections.

Lines, walks and grids are of the noise ε. With the prior N(0, I) that is z itself; a flow turns it into z = g(ε).
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import normalize

from pipeline.model.labels import Labels
from pipeline.model.prior import diagonal_gaussian
from pipeline.model.vae import VAE


def lerp(
    a: Float[Tensor, "pairs latent"], b: Float[Tensor, "pairs latent"], steps: int
) -> Float[Tensor, "pairs {steps} latent"]:
    """Straight lines from a to b, ends included: (1 − t) a + t b."""
    t = torch.linspace(0, 1, steps, device=a.device)[:, None]
    return a[:, None] * (1 - t) + b[:, None] * t


def slerp(
    a: Float[Tensor, "pairs latent"], b: Float[Tensor, "pairs latent"], steps: int
) -> Float[Tensor, "pairs {steps} latent"]:
    """Great circles from a to b, ends included: spherical interpolation (Shoemake 1985).

    The direction is (sin((1 − t) θ) â + sin(t θ) b̂) / sin θ, where θ is the angle between a and b; the length changes
    linearly from ‖a‖ to ‖b‖. In many dimensions most of the mass of N(0, I) is near a sphere. A straight line leaves
    that sphere, a great circle stays near it.
    """
    lengths = lerp(a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True), steps)
    a, b = normalize(a, dim=-1), normalize(b, dim=-1)  # the zero vector stays zero
    angle = (a * b).sum(-1, keepdim=True).clamp(-1, 1).acos()[:, None]
    t = torch.linspace(0, 1, steps, device=a.device)[:, None]
    # Parallel ends are joined by a straight line: sin(t θ) / sin θ tends to t as θ tends to 0. So are opposite ends,
    # because no great circle is shorter than the others.
    straight = angle.sin() < 1e-3
    safe = angle.where(~straight, 1.0)
    from_a = torch.where(straight, 1 - t, ((1 - t) * safe).sin() / safe.sin())
    from_b = torch.where(straight, t, (t * safe).sin() / safe.sin())
    return lengths * (from_a * a[:, None] + from_b * b[:, None])


def traversals(
    start: Float[Tensor, " latent"], coordinates: Sequence[int], values: Sequence[float]
) -> Float[Tensor, "coordinates steps latent"]:
    """Copies of `start` with one coordinate at a time set to each of the values."""
    z = start.repeat(len(coordinates), len(values), 1)
    for row, coordinate in enumerate(coordinates):
        z[row, :, coordinate] = torch.tensor(values, device=start.device)
    return z


def plane(side: int) -> tuple[Float[Tensor, "{side} {side} 2"], list[float]]:
    """A grid of points of the plane, with equal prior mass between neighbouring lines, and the values of its lines.

    z₁ grows from left to right. z₂ falls from row to row, so that it grows upwards in a picture.
    """
    values = [float(v) for v in torch.special.ndtri(torch.linspace(0.025, 0.975, side, dtype=torch.float64))]
    z1, z2 = torch.meshgrid(torch.tensor(values), torch.tensor(values[::-1]), indexing="xy")
    return torch.stack([z1, z2], dim=-1), values


def coordinate_kl(vae: VAE, x: Float[Tensor, "images pixels"], y: Labels) -> Float[Tensor, " latent"]:
    """Mean over the images of KL[q(z_d | x) ‖ N(0, 1)], for each coordinate d; nats."""
    q = diagonal_gaussian(*vae.encode(x, y))
    return kl_divergence(q.base_dist, Normal(vae.prior.zero, vae.prior.one)).mean(0)


def coordinate_change(vae: VAE, noise: Float[Tensor, "samples latent"], y: Labels) -> Float[Tensor, " latent"]:
    """How much each coordinate of the noise changes the decoded image; root mean square over the pixels, in [0, 1].

    Coordinate d is set to −1 and to +1 in each sample; the result is the mean over the samples. With a flow z has no
    KL per coordinate, since the coordinates of g(ε) depend on each other.
    """
    found = []
    for d in range(vae.latent):
        low, high = (vae.generate(replaced(noise, d, value), y).mean for value in (-1.0, 1.0))
        found.append((high - low).square().mean(-1).sqrt().mean())
    return torch.stack(found)


def replaced(noise: Float[Tensor, "samples latent"], coordinate: int, value: float) -> Float[Tensor, "samples latent"]:
    """The samples with one coordinate set to a value."""
    changed = noise.clone()
    changed[:, coordinate] = value
    return changed


def project(
    means: Float[np.ndarray, "images latent"], labels: Integer[np.ndarray, " images"]
) -> tuple[Float[np.ndarray, "images 2"], tuple[str, str]]:
    """Posterior means in two dimensions, and the names of the two axes.

    Two latent dimensions stay as they are. A single one is drawn against the class. Of more, the plane is drawn that
    separates the classes best (linear discriminant analysis). Two classes have one discriminant, and a single class or
    constant means have none: then the coordinates of z with the largest variance are the other axes.
    """
    if means.shape[1] == 2:
        return means, ("z₁", "z₂")
    if means.shape[1] == 1:
        return np.column_stack([means[:, 0], labels.astype(float)]), ("z", "class")
    points = _discriminants(means, labels)
    others = (-means.var(0)).argsort(kind="stable")[: 2 - points.shape[1]]
    names = [f"{which} linear discriminant of μ(x)" for which in ("first", "second")[: points.shape[1]]]
    first, second = *names, *(f"z[{i}] of μ(x)" for i in others)
    return np.column_stack([points, means[:, others]]), (first, second)


def _discriminants(
    means: Float[np.ndarray, "images latent"], labels: Integer[np.ndarray, " images"]
) -> Float[np.ndarray, "images _discriminants"]:
    """Two linear discriminants, or as many as there are."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis  # here, because the import is slow

    classes = len(np.unique(labels))
    if not 1 < classes < len(labels) or not np.ptp(means, axis=0).any():
        return means[:, :0]
    return LinearDiscriminantAnalysis(n_components=min(2, classes - 1)).fit_transform(means, labels)
