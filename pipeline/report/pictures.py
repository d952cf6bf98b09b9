"""The pictures of the report: how each is drawn, and what to see in it.

To add a picture, write a function here that draws it, and decorate it with `@picture(title, caption)`. The report shows
the pictures in the order of this file.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from logpx.weights import MINIMUM_ESS, khat_threshold
from pipeline.evaluation.auroc import auroc
from pipeline.report import estimate_plots, latent_paths, model_plots, plotting
from pipeline.report.plotting import Figure, NotDrawnError
from pipeline.report.scene import Scene
from pipeline.storage.tables import finite, numbers, select

Draw = Callable[[Scene], Figure]


@dataclass(frozen=True)
class Picture:
    """A picture of the report: its title, what to see in it, and the function that draws it.

    The function raises `NotDrawnError` if the scene has nothing to draw.
    """

    title: str
    caption: str
    draw: Draw


PICTURES: dict[str, Picture] = {}


def picture(title: str, caption: str) -> Callable[[Draw], Draw]:
    """Add the decorated function to `PICTURES`, under its own name."""

    def register(draw: Draw) -> Draw:
        PICTURES[draw.__name__] = Picture(title, caption, draw)
        return draw

    return register


def drawn(draw: Draw, scene: Scene) -> tuple[bytes | None, str]:
    """The picture as PNG; or None and the reason why it cannot be drawn.

    No failure stops the caller: the measurements, which took longer, are to be reported whatever happens here.
    """
    try:
        return plotting.to_png(draw(scene)), ""
    except NotDrawnError as error:
        return None, str(error)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"warning: a picture is left out: {draw.__name__}: {reason}", file=sys.stderr)
        return None, reason


@picture(
    "Reconstructions",
    "Test images x. Below each row: f(μ(x)), the mean of p(x | z) at the encoder's mean. Strokes should keep their "
    "slant, width and gaps. A detail that is lost is one that the latent variable does not carry.",
)
def reconstructions(scene: Scene) -> Figure:
    chosen = scene.choose("reconstructions", 3 * scene.settings.columns)
    originals, decoded = scene.originals(chosen), scene.decode(scene.means[chosen])
    return model_plots.reconstructions(originals, decoded, scene.settings.columns)


@picture(
    "Pixels, drawn",
    "Test images x, the mean f(μ(x)) of p(x | z) at the encoder's mean, and an image drawn from p(x | z) there. The "
    "latent variable carries what x and the mean share. The observation model draws the rest, each pixel on its own. "
    "The more a drawn image looks like x, the better the observation model describes the pixels. A Gaussian with one "
    "σ adds the same noise to strokes and to the background.",
)
def pixels(scene: Scene) -> Figure:
    chosen = scene.choose("pixels", scene.settings.columns)
    z = scene.means[chosen]
    return model_plots.pixels(scene.originals(chosen), scene.decode(z), scene.draw_pixels("pixels", z))


@picture(
    "Samples of the prior",
    "The mean f(z) of p(x | z) for z ~ N(0, I). A good model draws a digit for every z. A shape between two digits "
    "shows a region where the prior has mass but no image is encoded.",
)
def samples(scene: Scene) -> Figure:
    return plotting.grid(scene.decode(scene.prior_samples(scene.settings.columns)))


@picture(
    "Interpolations",
    "From one test digit to another, along a straight line and along a great circle. Every step should look like a "
    "digit. The middle of a straight line is closer to the origin than almost all of the prior's mass, and strokes "
    "tend to fade there.",
)
def interpolations(scene: Scene) -> Figure:
    order, labels = scene.choose("interpolations", len(scene.x)).tolist(), scene.labels
    # Each of six digits is joined to a digit of another class, or to itself if no such digit remains.
    starts = order[:6]
    ends = [next((b for b in order[6 * k :] if labels[b] != labels[a]), a) for k, a in enumerate(starts, start=1)]
    a, b = scene.means[starts], scene.means[ends]
    straight, circle = (path(a, b, scene.settings.steps) for path in (latent_paths.lerp, latent_paths.slerp))
    return model_plots.interpolations(scene.decode(straight), scene.decode(circle))


@picture(
    "Traversals",
    "One test digit, with one coordinate of z changed at a time. The rows are the ten coordinates with the largest "
    "mean KL, which say most about an image. If a row does not change, the model does not use that coordinate.",
)
def traversals(scene: Scene) -> Figure:
    kl = latent_paths.coordinate_kl(scene.vae, scene.x)
    largest = [int(i) for i in kl.argsort(descending=True)[:10]]
    values = [float(v) for v in np.linspace(-3, 3, scene.settings.steps)]
    start = scene.means[scene.choose("traversals", 1)[0]]
    z = latent_paths.traversals(start, largest, values)
    return model_plots.traversals(scene.decode(z), largest, kl[largest].tolist(), values)


@picture(
    "The learned manifold",
    "The mean f(z) of p(x | z) over the plane of both latent dimensions, in steps of equal prior mass. Neighbouring "
    "images should look alike. The classes meet where one digit turns into another.",
)
def manifold(scene: Scene) -> Figure:
    if scene.vae.latent != 2:
        raise NotDrawnError(f"it needs 2 latent dimensions, and z has {scene.vae.latent}")
    plane, values = latent_paths.plane(20)
    return model_plots.manifold(scene.decode(plane), values)


@picture(
    "Latent space",
    "The encoder's means μ(x) of all test images, coloured by digit. If z has more than two dimensions, the picture "
    "shows the plane that separates the classes best. The labels choose that plane; training does not use them. An "
    "axis that no class needs is a coordinate of z.",
)
def latent_space(scene: Scene) -> Figure:
    points, names = latent_paths.project(scene.means.cpu().numpy(), scene.labels)
    return model_plots.latent_space(points, scene.labels, names)


@picture(
    "Training",
    "The ELBO and its two terms. The vertical axes fit the later epochs, so the first ones are cut off. A training "
    "curve that rises above the validation curve shows overfitting. The epoch whose objective is best on the "
    "validation images is kept.",
)
def training(scene: Scene) -> Figure:
    return model_plots.training_curves(scene.history)


@picture(
    "Likely and unlikely digits",
    "Log p(x) of each test image. Unlikely digits have an unusual shape, much ink or stray marks. Likely digits are "
    "plain and thin, most often ones.",
)
def log_px(scene: Scene) -> Figure:
    values = numbers(scene.table, "log_px")
    kept = np.flatnonzero(np.isfinite(values))
    order = torch.from_numpy(kept[values[kept].argsort(kind="stable")])
    least, most = (scene.originals(part) for part in (order[:14], order.flip(0)[:14]))
    return estimate_plots.log_px(values, least, most)


@picture(
    "Estimates against decoder evaluations",
    "All methods estimate the same number, and approach it from below. A proposal fitted to each image needs few "
    "samples. Where the estimate with the encoder as proposal stays below, its band, which is its own estimate of its "
    "error, can still be narrow: if a few samples carry all of the weight, the error bar is wrong too. Annealing from "
    "the prior uses neither the encoder nor the fit, and rises towards the same line.",
)
def convergence(scene: Scene) -> Figure:
    return estimate_plots.convergence(scene.curves)


@picture(
    "Which estimates can be trusted?",
    "Left: Pareto k̂, which is larger for a heavier tail of the weights, and its limit, which depends on the number "
    "of samples K. Right: the effective sample size and its minimum. An estimate that fails a test is not "
    "trusted.",
)
def diagnostics(scene: Scene) -> Figure:
    limits = {int(samples): khat_threshold(int(samples)) for samples in sorted(scene.table["samples"].unique())}
    return estimate_plots.diagnostics(scene.table, limits, MINIMUM_ESS)


@picture(
    "Why the ELBO is lower than log p(x)",
    "KL[q(z | x) ‖ p(z | x)] in two parts (Cremer et al. 2018). The approximation gap remains with the best diagonal "
    "Gaussian for each image. The amortisation gap is what the encoder loses compared with that Gaussian.",
)
def gaps(scene: Scene) -> Figure:
    return estimate_plots.gaps(select(scene.verified, "kind", "test").astype({"label": int}))


@picture(
    "What the density knows",
    "Log p(x) of other images (orange) and of all test digits (grey). AUROC is the probability that a digit is "
    "likelier than one of the other images. At 1 the density always tells them apart, ½ is chance, and below ½ it "
    "prefers the other images.",
)
def densities(scene: Scene) -> Figure:
    digits = finite(scene.table, "log_px")
    by_kind = {kind: numbers(select(scene.probes, "kind", kind), "log_px") for kind in scene.probes["kind"].unique()}
    some = {kind: values[np.isfinite(values)] for kind, values in by_kind.items()}
    by_auroc = {kind: auroc(digits, values).value for kind, values in some.items() if len(values)}
    ceiling = scene.vae.decoder.observation.ceiling(scene.x.shape[-1])
    return estimate_plots.densities(numbers(scene.table, "log_px"), by_kind, by_auroc, scene.examples, ceiling)


@picture(
    "Upside down, digit by digit",
    "Each digit against digits of its own class, rotated by 180°. AUROC ½ (dotted) means that the density sees no "
    "difference. A rotated 0, 1 or 8 still looks much like a 0, 1 or 8 and should differ least. A rotated 4 or 7 is "
    "not a digit.",
)
def upside_down(scene: Scene) -> Figure:
    tables = {"test digits": scene.table, "upside down": select(scene.probes, "kind", "upside down")}
    by_class = {}
    for label in sorted(set(tables["upside down"]["label"])):
        upright, turned = (finite(select(table, "label", label), "log_px") for table in tables.values())
        if len(upright) and len(turned):  # if few images are measured, some classes may have no upright digit
            by_class[int(label)] = auroc(upright, turned).value
    figure = estimate_plots.upside_down(by_class)
    counts = {name: len(table) - len(finite(table, "log_px")) for name, table in tables.items()}
    plotting.note_left_out(figure, counts)
    return figure


def overview(scene: Scene) -> Figure:
    """The project in one picture, for the README."""
    chosen = scene.choose("overview", 32)
    return model_plots.overview(
        scene.originals(chosen),
        scene.decode(scene.means[chosen]),
        scene.decode(scene.prior_samples(8)),
        scene.history,
    )
