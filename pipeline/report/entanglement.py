"""What each coordinate of the noise changes in the decoded images: slant, stroke width and class.

A disentangled coordinate changes one of them and leaves the others. Most coordinates of a VAE are entangled, because
nothing in the ELBO asks for more: N(0, I) is the same after any rotation (Locatello et al. 2019, theorem 1).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from pipeline.report.latent_paths import replaced
from pipeline.report.scene import Scene

SAMPLES = 200
VALUE = 1.5  # a coordinate moves from −VALUE to +VALUE, in standard deviations of its distribution N(0, 1)


class Effects(NamedTuple):
    """Mean absolute changes of each quantity, one value per coordinate of the noise.

    Attributes:
        slant: degrees.
        width: of the stroke, pixels.
        kind: share of the samples in which the judge sees another class.
    """

    slant: Float[Tensor, " coordinates"]
    width: Float[Tensor, " coordinates"]
    kind: Float[Tensor, " coordinates"]


class Seen(NamedTuple):
    """What is measured of each image."""

    slant: Float[Tensor, " images"]
    width: Float[Tensor, " images"]
    kind: Integer[Tensor, " images"]


def effects(scene: Scene) -> tuple[Effects, Effects]:
    """Effects of every coordinate; and, to compare with, of a whole new sample of the noise.

    Each sample keeps its label, if the model is conditional.
    """
    noise = torch.from_numpy(
        scene.random("entanglement").standard_normal((2, SAMPLES, scene.vae.latent)).astype("float32")
    )
    first, second = (_seen(scene, part) for part in noise)
    reference = _changes([first], [second])
    low, high = (
        [_seen(scene, replaced(noise[0], d, value)) for d in range(scene.vae.latent)] for value in (-VALUE, VALUE)
    )
    return _changes(low, high), reference


def _seen(scene: Scene, noise: Float[Tensor, "samples latent"]) -> Seen:
    p = scene.vae.generate(noise.to(scene.x), scene.labels_in_turn(len(noise)))
    images = torch.from_numpy(scene.images(p.mean))
    ink = images if images.ndim == 3 else images.mean(-1)  # of a colour image: its brightness
    if scene.judge is None:
        raise ValueError("without a judge no image has a class")
    return Seen(slant(ink), stroke_width(ink), scene.judge(p))


def _changes(before: Sequence[Seen], after: Sequence[Seen]) -> Effects:
    pairs = list(zip(before, after, strict=True))
    return Effects(
        torch.stack([(b.slant - a.slant).abs().mean() for a, b in pairs]),
        torch.stack([(b.width - a.width).abs().mean() for a, b in pairs]),
        torch.stack([(b.kind != a.kind).float().mean() for a, b in pairs]),
    )


def slant(images: Float[Tensor, "images height width"]) -> Float[Tensor, " images"]:
    """Angle from the vertical in degrees, positive if the strokes lean to the right; 0 for an image without ink.

    It is the shear that the second moments of the ink show: atan(−μ₁₁ / μ₀₂), with μ₁₁ = Σ I (x − x̄)(y − ȳ) and
    μ₀₂ = Σ I (y − ȳ)². Here y grows downwards. Sheared by the opposite angle, the image has no slant (LeCun
    et al. 1998, "deslanting").
    """
    height, width = images.shape[1:]
    y = torch.arange(height, dtype=images.dtype)[:, None].expand(height, width)
    x = torch.arange(width, dtype=images.dtype).expand(height, width)
    ink = images.sum((1, 2)).clamp(min=1e-9)
    x = x - (images * x).sum((1, 2), keepdim=True) / ink[:, None, None]
    y = y - (images * y).sum((1, 2), keepdim=True) / ink[:, None, None]
    m11, m02 = (images * x * y).sum((1, 2)), (images * y * y).sum((1, 2))
    return torch.atan2(-m11, m02.clamp(min=1e-9)) * (180 / math.pi)


def stroke_width(images: Float[Tensor, "images height width"]) -> Float[Tensor, " images"]:
    """Width of the strokes in pixels: 2 · area / perimeter, which is w for a stroke much longer than its width w.

    Area is the ink Σ I, and perimeter the total variation Σ |∇I|: over all thresholds, the mean length of the ink's
    outline (coarea formula, Federer 1959). So no threshold is chosen, and darker ink is not wider ink. A stroke of
    length l counts w l / (w + l), because its ends are a part of the outline.
    """
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    # The gradient where four pixels meet, which treats all directions alike.
    down, right = padded.diff(dim=1), padded.diff(dim=2)
    down, right = (down[:, :, 1:] + down[:, :, :-1]) / 2, (right[:, 1:] + right[:, :-1]) / 2
    perimeter = (down.square() + right.square()).sqrt().sum((1, 2))
    return 2 * images.sum((1, 2)) / perimeter.clamp(min=1e-9)
