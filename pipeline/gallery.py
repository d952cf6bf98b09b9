"""What each picture of the report shows: a function from the trained model and its measures to a figure.

To add a picture: a function here and its name in `PICTURES`, and a caption in `report.CAPTIONS`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from zlib import crc32

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from pipeline import figures, latents, measures
from pipeline.config import Render
from pipeline.figures import Figure
from pipeline.likelihood.weights import MINIMUM_ESS, khat_threshold
from pipeline.observations import gaussian_ceiling
from pipeline.probes import auroc
from pipeline.tables import finite, rows
from pipeline.vae import VAE


@dataclass(frozen=True)
class Scene:
    """All that pictures are made of."""

    vae: VAE
    x: Float[Tensor, "images pixels"]  # test images, on the model's device
    labels: NDArray[np.integer]
    shape: tuple[int, int]
    history: pd.DataFrame
    table: pd.DataFrame  # every test image: log p(x) and what speaks for it
    verified: pd.DataFrame  # some test images by second methods
    curves: pd.DataFrame  # estimates against decoder evaluations
    probes: pd.DataFrame  # log p(x) of images that are no digits
    examples: Mapping[str, NDArray[np.floating]]  # an image of each kind of probe
    settings: Render

    @cached_property
    def means(self) -> Float[Tensor, "images latent"]:
        """Posterior means μ(x) of the test images."""
        return self.vae.encoder(self.x).mean

    def random(self, picture: str) -> np.random.Generator:
        """Each picture draws from its own generator: a new picture changes no other."""
        return np.random.default_rng([self.settings.seed, crc32(picture.encode())])

    def choose(self, picture: str, count: int) -> Tensor:
        """Indices of `count` different test images (of all, where there are fewer)."""
        chosen = self.random(picture).permutation(len(self.x))[:count]
        return torch.from_numpy(chosen).to(self.x.device)

    def images(self, pixels: Float[Tensor, "*grid pixels"]) -> NDArray[np.floating]:
        return pixels.cpu().numpy().reshape(*pixels.shape[:-1], *self.shape)

    def decode(self, z: Float[Tensor, "*grid latent"]) -> NDArray[np.floating]:
        """Decoder means f(z) as images."""
        return self.images(self.vae.decoder(z.to(self.x)).mean)


def reconstructions(scene: Scene) -> Figure:
    chosen = scene.choose("reconstructions", 3 * scene.settings.columns)
    return figures.reconstructions(
        scene.images(scene.x[chosen]), scene.decode(scene.means[chosen]), scene.settings.columns
    )


def samples(scene: Scene) -> Figure:
    return figures.grid(scene.decode(_prior_samples(scene, scene.settings.columns)))


def interpolations(scene: Scene) -> Figure:
    order, labels = scene.choose("interpolations", len(scene.x)).tolist(), scene.labels
    # Each of six digits is joined to a digit of another class, where there is one.
    starts = order[:6]
    ends = [next((b for b in order[6 * k :] if labels[b] != labels[a]), a) for k, a in enumerate(starts, start=1)]
    a, b = scene.means[starts], scene.means[ends]
    steps = scene.settings.steps
    return figures.interpolations(scene.decode(latents.lerp(a, b, steps)), scene.decode(latents.slerp(a, b, steps)))


def traversals(scene: Scene) -> Figure:
    kl = latents.activity(scene.vae, scene.x)
    most_active = [int(i) for i in kl.argsort(descending=True)[:10]]
    values = [float(v) for v in np.linspace(-3, 3, scene.settings.steps)]
    start = scene.means[scene.choose("traversals", 1)[0]]
    z = latents.traversals(start, most_active, values)
    return figures.traversals(scene.decode(z), most_active, kl[most_active].tolist(), values)


def manifold(scene: Scene) -> Figure | None:
    if scene.vae.latent != 2:
        return None
    plane, values = latents.plane(20)
    return figures.manifold(scene.decode(plane), values)


def latent_space(scene: Scene) -> Figure:
    points, names = latents.project(scene.means.cpu().numpy(), scene.labels)
    return figures.latent_space(points, scene.labels, names)


def training(scene: Scene) -> Figure:
    return figures.training_curves(scene.history)


def log_px(scene: Scene) -> Figure:
    values = scene.table["log_px"].to_numpy()
    order = torch.from_numpy(values.argsort(kind="stable"))
    least, most = (scene.images(scene.x[part.to(scene.x.device)]) for part in (order[:14], order.flip(0)[:14]))
    return figures.log_px(values, least, most)


def convergence(scene: Scene) -> Figure:
    return measures.convergence(scene.curves)


def diagnostics(scene: Scene) -> Figure:
    limits = {int(samples): khat_threshold(int(samples)) for samples in sorted(scene.table["samples"].unique())}
    return measures.diagnostics(scene.table, limits, MINIMUM_ESS)


def gaps(scene: Scene) -> Figure:
    return measures.gaps(rows(scene.verified, "kind", "test").astype({"label": int}))


def densities(scene: Scene) -> Figure | None:
    digits = finite(scene.table, "log_px")
    by_kind = {kind: finite(rows(scene.probes, "kind", kind), "log_px") for kind in scene.probes["kind"].unique()}
    by_kind = {kind: values for kind, values in by_kind.items() if len(values)}
    if not by_kind:
        return None
    by_auroc = {kind: auroc(digits, values).value for kind, values in by_kind.items()}
    ceiling = gaussian_ceiling(scene.x.shape[-1], scene.vae.decoder.observation.sigma)
    return measures.densities(digits, by_kind, by_auroc, scene.examples, ceiling)


def upside_down(scene: Scene) -> Figure:
    turned = rows(scene.probes, "kind", "upside down")
    by_class = {}
    # Of few measured images some classes have none upright.
    for label in sorted(set(turned["label"]) & set(scene.table["label"])):
        upright, of_class = (finite(rows(table, "label", label), "log_px") for table in (scene.table, turned))
        if len(upright) and len(of_class):
            by_class[int(label)] = auroc(upright, of_class).value
    return measures.by_class(by_class)


def overview(scene: Scene) -> Figure:
    """The project in one picture, for the README."""
    chosen = scene.choose("overview", 32)
    return figures.overview(
        scene.images(scene.x[chosen]),
        scene.decode(scene.means[chosen]),
        scene.decode(_prior_samples(scene, 8)),
        scene.history,
    )


def _prior_samples(scene: Scene, side: int) -> Float[Tensor, "side side latent"]:
    """The same first samples of the prior, whichever picture shows them."""
    noise = scene.random("samples").standard_normal((side, side, scene.vae.latent), dtype=np.float32)
    return torch.from_numpy(noise)


# In the order of the report.
PICTURES: dict[str, Callable[[Scene], Figure | None]] = {
    "reconstructions": reconstructions,
    "samples": samples,
    "interpolations": interpolations,
    "traversals": traversals,
    "manifold": manifold,
    "latent_space": latent_space,
    "training": training,
    "log_px": log_px,
    "convergence": convergence,
    "diagnostics": diagnostics,
    "gaps": gaps,
    "densities": densities,
    "upside_down": upside_down,
}
