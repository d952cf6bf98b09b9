"""The pictures of the report: how each is drawn, and what to see in it.

To add a picture, write a function here that draws it, and decorate it with `@picture(section, title, caption)`. Each
section of the report shows its pictures in the order of this file. Write titles and captions for digits: the report of
other images has "image" in place of "digit" (`wording.py`). In the pictures themselves write "image" and "class".
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from logpx.weights import MINIMUM_ESS, khat_threshold
from pipeline.config import Model
from pipeline.evaluation.auroc import auroc
from pipeline.report import estimate_plots, latent_paths, model_plots, plotting
from pipeline.report.entanglement import VALUE
from pipeline.report.entanglement import effects as measure_effects
from pipeline.report.plotting import Figure, NotDrawnError
from pipeline.report.scene import Scene
from pipeline.storage.tables import finite, numbers, select

Draw = Callable[[Scene], Figure]
Section = Literal["draws", "reconstructs", "latent", "trusted", "density", "training"]

MOST_COORDINATES = 20  # rows of the picture of entanglement
NO_LABELS = "the images have no labels of two or more classes"


@dataclass(frozen=True)
class Picture:
    """A picture of the report: its title, what to see in it, and the function that draws it.

    The function raises `NotDrawnError` if the scene has nothing to draw.

    Attributes:
        section: the question of the report that it helps to answer.
        flow: follows the caption if the prior is a flow.
        label: follows the caption if the model is conditional.
    """

    section: Section
    title: str
    caption: str
    draw: Draw
    flow: str = ""
    label: str = ""

    def about(self, model: Model) -> str:
        """The caption for a model."""
        more = self.flow if model.prior == "flow" else "", self.label if model.condition == "label" else ""
        return " ".join(part for part in (self.caption, *more) if part)


PICTURES: dict[str, Picture] = {}


def picture(section: Section, title: str, caption: str, flow: str = "", label: str = "") -> Callable[[Draw], Draw]:
    """Add the decorated function to `PICTURES`, under its own name."""

    def register(draw: Draw) -> Draw:
        PICTURES[draw.__name__] = Picture(section, title, caption, draw, flow, label)
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
    "reconstructs",
    "Reconstructions",
    "Test images x. Below each row: f(μ(x)), the mean of p(x | z) at the encoder's mean. Strokes should keep their "
    "slant, width and gaps. A detail that is lost is one that the latent variable does not carry.",
)
def reconstructions(scene: Scene) -> Figure:
    chosen = scene.choose("reconstructions", 3 * scene.settings.columns)
    return model_plots.reconstructions(scene.originals(chosen), scene.reconstruct(chosen), scene.settings.columns)


@picture(
    "reconstructs",
    "Pixels, drawn",
    "Test images x, the mean f(μ(x)) of p(x | z) at the encoder's mean, and an image drawn from p(x | z) there. The "
    "latent variable carries what x and the mean share. The observation model draws the rest, each pixel on its own. "
    "The more a drawn image looks like x, the better the observation model describes the pixels. A Gaussian with one "
    "σ adds the same noise to strokes and to the background.",
)
def pixels(scene: Scene) -> Figure:
    chosen = scene.choose("pixels", scene.settings.columns)
    drawn_pixels = scene.draw_pixels("pixels", scene.means[chosen], scene.y[chosen])
    return model_plots.pixels(scene.originals(chosen), scene.reconstruct(chosen), drawn_pixels)


@picture(
    "draws",
    "Samples of the prior",
    "The mean f(z) of p(x | z) for samples z of the prior. A good model draws a digit like those of the data for every "
    "z. A shape between two digits shows a region where the prior has mass but no image is encoded.",
    flow="Here z = g(ε) with ε ~ N(0, I): the flow g has learned where the images are encoded.",
    label="The classes 0, 1, 2, … are asked for in turn, from left to right and row by row.",
)
def samples(scene: Scene) -> Figure:
    side = scene.settings.columns
    return plotting.grid(scene.generate(scene.prior_samples(side), scene.labels_in_turn(side, side)))


@picture(
    "draws",
    "Digits on request",
    "One column for each class that is asked for. The images of a row have the same noise ε. If the model has learned "
    "to tell the class from the style, slant, stroke width and size stay along a row, and the class changes.",
)
def digits(scene: Scene) -> Figure:
    classes, rows = scene.classes(), scene.settings.columns
    noise = scene.prior_samples(rows)[:, 0]
    images = scene.generate(noise[:, None].expand(-1, len(classes), -1), classes)
    return model_plots.digits(images, classes.tolist())


@picture(
    "draws",
    "Analogies",
    "The style of a test digit x, in every class. The encoder and the inverse of the prior's g find the noise of x: "
    "ε = g⁻¹(μ(x, y); y). The decoder draws it with every label. With the digit's own label, in the frame, that is its "
    "reconstruction. Slant, stroke width and size should be those of x in the whole row.",
)
def analogies(scene: Scene) -> Figure:
    classes = scene.classes()
    chosen = scene.choose("analogies", scene.settings.columns)
    noise = scene.noise(chosen)
    images = scene.generate(noise[:, None].expand(-1, len(classes), -1), classes)
    return model_plots.analogies(scene.originals(chosen), images, scene.y[chosen].tolist(), classes.tolist())


@picture(
    "draws",
    "Drawn, or remembered?",
    "Drawn digits, each above the training image that is nearest to it. If a model remembers its training images, the "
    "two are almost the same. Differences in slant, width or shape show a new digit.",
)
def neighbours(scene: Scene) -> Figure:
    found, columns = scene.neighbours, scene.settings.columns
    shown = slice(3 * columns)
    return model_plots.neighbours(found.drawn[shown], found.nearest[shown], found.distances[shown], columns)


@picture(
    "latent",
    "Interpolations",
    "From one test digit to another, along a straight line and along a great circle. Every step should look like "
    "another test digit. The middle of a straight line is closer to the origin than almost all of the prior's mass, "
    "and strokes tend to fade there.",
    flow="Both paths are paths of the noise ε = g⁻¹(z), whose distribution is N(0, I); the images are f(g(ε)).",
    label="The two digits have the same class, because z says nothing but the style: the label stays along the way.",
)
def interpolations(scene: Scene) -> Figure:
    order, labels = scene.choose("interpolations", len(scene.x)).tolist(), scene.labels
    # Each of six images is joined to an image of another class, or to itself if no such image remains. A conditional
    # model draws all steps with one label: both images have the same class there. Without labels any two are joined.
    starts, same = order[:6], bool(scene.vae.classes) or not scene.labelled
    ends = [
        next((b for b in order[6 * k :] if (labels[b] == labels[a]) == same), a) for k, a in enumerate(starts, start=1)
    ]
    a, b = scene.noise(torch.tensor(starts)), scene.noise(torch.tensor(ends))
    y = scene.y[starts][:, None]
    straight, circle = (path(a, b, scene.settings.steps) for path in (latent_paths.lerp, latent_paths.slerp))
    return model_plots.interpolations(scene.generate(straight, y), scene.generate(circle, y))


@picture(
    "latent",
    "Traversals",
    "One test digit, with one coordinate changed at a time. The rows are the ten coordinates that say most about an "
    "image. If a row does not change, the model does not use that coordinate.",
    flow="The coordinates are those of the noise ε, and z = g(ε). They have no KL each. So their order is that of the "
    "change of the image between −1 and +1: the root mean square difference of its pixels, which lie in [0, 1].",
    label="The label stays that of the digit.",
)
def traversals(scene: Scene) -> Figure:
    order, notes = _coordinates(scene)
    order = order[:10]
    values = [float(v) for v in np.linspace(-3, 3, scene.settings.steps)]
    chosen = scene.choose("traversals", 1)
    walk = latent_paths.traversals(scene.noise(chosen)[0], order, values)
    return model_plots.traversals(scene.generate(walk, scene.y[chosen]), [notes[i] for i in order], values)


def _coordinates(scene: Scene) -> tuple[list[int], list[str]]:
    """All coordinates of the noise, from the one that says most about an image; and a label for each, by its index."""
    if scene.vae.prior.flow is None:
        weight = latent_paths.coordinate_kl(scene.vae, scene.x, scene.y)
        notes = [f"z[{i}], KL {nats:.1f} nats" for i, nats in enumerate(weight.tolist())]
    else:
        some = scene.prior_samples(8).flatten(0, 1).to(scene.x)
        weight = latent_paths.coordinate_change(scene.vae, some, scene.labels_in_turn(len(some)))
        notes = [f"ε[{i}], change {change:.2f}" for i, change in enumerate(weight.tolist())]
    return weight.argsort(descending=True).tolist(), notes


@picture(
    "latent",
    "Entanglement",
    "What each coordinate changes in the decoded image. Slant: angle of the strokes, from the second moments of the "
    "ink. Stroke width: twice the ink's area divided by the length of its outline. Class: share of the samples in "
    "which the judge, a classifier, sees another class. The numbers are means of the absolute change over 200 samples. "
    "A coordinate that is dark in one column only controls that one property. A coordinate that is dark in several is "
    "entangled: it cannot change one property and leave the others. Nothing in the ELBO asks for anything else.",
    label="The label stays, so a change of class is a digit that is no longer of the class asked for.",
)
def entanglement(scene: Scene) -> Figure:
    if scene.judge is None:
        raise NotDrawnError(f"{NO_LABELS}, so no judge sees a class")
    effects, reference = measure_effects(scene)
    units = torch.tensor([1.0, 1.0, 100.0])  # the share of samples in per cent
    values, whole = torch.stack(effects, -1) * units, torch.stack(reference, -1)[0] * units
    # A conditional model changes the class in few samples only, so for the class the darkest colour is all samples.
    darkest = torch.cat([whole[:2].clamp(min=1e-9), units[2:]])
    order = (values / darkest).mean(-1).argsort(descending=True, stable=True)[:MOST_COORDINATES]
    names = [f"{scene.symbol}[{i}]" for i in order.tolist()]
    quantities = {"slant\ndegrees": 1, "stroke width\npixels": 2, "class\n% of samples": 0}
    change = f"from −{VALUE:g} to +{VALUE:g}"
    return model_plots.entanglement(values[order].numpy(), whole.numpy(), darkest.numpy(), names, quantities, change)


@picture(
    "latent",
    "The learned manifold",
    "The mean f(z) of p(x | z) over the plane of both latent dimensions, in steps of equal prior mass. Neighbouring "
    "images should look alike. The classes meet where one turns into another.",
    flow="The axes are those of the noise ε, and z = g(ε).",
    label="Every class has its own plane, so the classes do not meet: the two dimensions are the style.",
)
def manifold(scene: Scene) -> Figure:
    if scene.vae.latent != 2:
        raise NotDrawnError(f"it needs 2 latent dimensions, and z has {scene.vae.latent}")
    if scene.vae.classes:
        classes = scene.classes()
        plane, _ = latent_paths.plane(8)
        images = scene.generate(plane.expand(len(classes), -1, -1, -1), classes[:, None, None])
        return model_plots.manifolds(images, classes.tolist(), scene.symbol)
    plane, values = latent_paths.plane(20)
    return model_plots.manifold(scene.generate(plane, None), values, scene.symbol)


@picture(
    "latent",
    "Latent space",
    "The encoder's means μ(x) of all test images, coloured by class. If z has more than two dimensions, the picture "
    "shows the plane that separates the classes best. The labels choose that plane; training does not use them. An "
    "axis that no class needs is a coordinate of z.",
    label="The encoder knows the label, so z need not say the class: classes that overlap are no fault.",
)
def latent_space(scene: Scene) -> Figure:
    if not scene.labelled:
        raise NotDrawnError(f"{NO_LABELS}, which would colour it")
    points, names = latent_paths.project(scene.means.cpu().numpy(), scene.labels)
    return model_plots.latent_space(points, scene.labels, names)


@picture(
    "training",
    "Training",
    "The ELBO and its two terms. The vertical axes fit the later epochs, so the first ones are cut off. A training "
    "curve that rises above the validation curve shows overfitting. The epoch whose objective is best on the "
    "validation images is kept.",
)
def training(scene: Scene) -> Figure:
    return model_plots.training_curves(scene.history)


@picture(
    "density",
    "Likely and unlikely digits",
    "Log p(x) of each test image. Unlikely digits have an unusual shape, much ink or stray marks. Likely digits are "
    "plain, with little ink.",
)
def log_px(scene: Scene) -> Figure:
    values = numbers(scene.table, "log_px")
    kept = np.flatnonzero(np.isfinite(values))
    order = torch.from_numpy(kept[values[kept].argsort(kind="stable")])
    least, most = (scene.originals(part) for part in (order[:14], order.flip(0)[:14]))
    return estimate_plots.log_px(values, least, most)


@picture(
    "trusted",
    "Estimates against decoder evaluations",
    "All methods estimate the same number, and approach it from below. A proposal fitted to each image needs few "
    "samples. Where the estimate with the encoder as proposal stays below, its band, which is its own estimate of its "
    "error, can still be narrow: if a few samples carry all of the weight, the error bar is wrong too. Annealing from "
    "the prior uses neither the encoder nor the fit, and rises towards the same line.",
)
def convergence(scene: Scene) -> Figure:
    return estimate_plots.convergence(scene.curves)


@picture(
    "trusted",
    "Which estimates can be trusted?",
    "Left: Pareto k̂, which is larger for a heavier tail of the weights, and its limit, which depends on the number "
    "of samples K. Right: the effective sample size and its minimum. An estimate that fails a test is not "
    "trusted.",
)
def diagnostics(scene: Scene) -> Figure:
    limits = {int(samples): khat_threshold(int(samples)) for samples in sorted(scene.table["samples"].unique())}
    return estimate_plots.diagnostics(scene.table, limits, MINIMUM_ESS)


@picture(
    "trusted",
    "Why the ELBO is lower than log p(x)",
    "KL[q(z | x) ‖ p(z | x)] in two parts (Cremer et al. 2018). The approximation gap remains with the best diagonal "
    "Gaussian for each image. The amortisation gap is what the encoder loses compared with that Gaussian.",
)
def gaps(scene: Scene) -> Figure:
    table = select(scene.verified, "kind", "test").astype({"label": int})
    return estimate_plots.gaps(table, by_class=scene.labelled)


@picture(
    "density",
    "What the density knows",
    "Log p(x) of other images (orange) and of all test digits (grey). AUROC is the probability that a test digit "
    "is likelier than one of the other images: 1 if all test digits are likelier, ½ if neither kind is, and less if "
    "the other images are.",
)
def densities(scene: Scene) -> Figure:
    test = finite(scene.table, "log_px")
    by_kind = {kind: numbers(select(scene.probes, "kind", kind), "log_px") for kind in scene.probes["kind"].unique()}
    some = {kind: values[np.isfinite(values)] for kind, values in by_kind.items()}
    by_auroc = {kind: auroc(test, values).value for kind, values in some.items() if len(values)}
    ceiling = scene.vae.decoder.observation.ceiling(scene.x.shape[-1])
    return estimate_plots.densities(numbers(scene.table, "log_px"), by_kind, by_auroc, scene.examples, ceiling)


@picture(
    "density",
    "Upside down, class by class",
    "Each digit against digits of its own class, rotated by 180°. AUROC ½ (dotted) means that the density sees no "
    "difference. Shapes that look much the same after the rotation, as 0, 1 and 8 do, should differ least, and shapes "
    "such as 4 and 7 most.",
)
def upside_down(scene: Scene) -> Figure:
    if not scene.labelled:
        raise NotDrawnError(NO_LABELS)
    tables = {"test images": scene.table, "upside down": select(scene.probes, "kind", "upside down")}
    by_class = {}
    for label in sorted(set(tables["upside down"]["label"])):
        upright, turned = (finite(select(table, "label", label), "log_px") for table in tables.values())
        if len(upright) and len(turned):  # if few images are measured, some classes may have no upright image
            by_class[int(label)] = auroc(upright, turned).value
    figure = estimate_plots.upside_down(by_class)
    counts = {name: len(table) - len(finite(table, "log_px")) for name, table in tables.items()}
    plotting.note_left_out(figure, counts)
    return figure


def overview(scene: Scene) -> Figure:
    """The project in one picture, for the README."""
    chosen = scene.choose("overview", 32)
    prior = "f(z), z ~ N(0, I)" if scene.vae.prior.flow is None else "f(g(ε)), ε ~ N(0, I)"
    prior = f"{prior}, each class in turn" if scene.vae.classes else prior
    return model_plots.overview(
        scene.originals(chosen),
        scene.reconstruct(chosen),
        scene.generate(scene.prior_samples(8), scene.labels_in_turn(8, 8)),
        scene.history,
        prior,
    )
