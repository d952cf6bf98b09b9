"""What each picture of the report is drawn from, and that all of them can be drawn."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.config import Render
from pipeline.data.dataset import Dataset
from pipeline.data.image_format import Binarise, as_pictures
from pipeline.data.probes import PROBES, examples
from pipeline.model.vae import VAE
from pipeline.report import estimate_plots, latent_paths, model_plots, pictures
from pipeline.report.pictures import PICTURES, Picture, drawn, picture
from pipeline.report.plotting import Figure, NotDrawnError, message
from pipeline.report.scene import MOST_CLASSES, Neighbours, Scene, as_seen
from tests.pipeline.report.artists import cell, texts, x_of
from tests.support import in_colour, model_settings, unlabelled

EPOCHS, IMAGES = 4, 20


def make_scene(dataset: Dataset, latent: int = 3, seed: int = 0, binarise: Binarise = "none", **model: Any) -> Scene:
    """An untrained model, the test images of a data set, and measurements that are made up."""
    random = np.random.default_rng(0)
    torch.manual_seed(0)
    settings = {"latent": latent, "encoder": [8], "decoder": [8], "activation": "relu", "sigma": 0.1} | model
    vae = VAE(model_settings(**settings), dataset.format(binarise), dataset.class_shares()).eval()
    with torch.no_grad():  # a flow is the identity before training
        for parameter in vae.prior.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    labels = dataset.test_labels.numpy()
    terms = [f"{part}_{term}" for part in ("train", "validation") for term in ("elbo", "reconstruction", "kl")]
    history = pd.DataFrame({term: random.normal(size=EPOCHS) for term in terms}).assign(epoch=range(1, EPOCHS + 1))
    table = pd.DataFrame({
        "label": labels, "log_px": random.normal(20, 5, IMAGES), "khat": random.random(IMAGES),
        "ess": 100 * random.random(IMAGES), "samples": 64.0, "trusted": random.random(IMAGES) < 0.5,
    })  # fmt: skip
    verified = pd.DataFrame({
        "kind": ["test"] * 5 + ["simulated"] * 5, "label": [*labels[:5], *[np.nan] * 5], "log_px": 20.0,
        "best_elbo": 15.0, "elbo": 5.0,
    })  # fmt: skip
    curves = pd.DataFrame({
        "method": [method for method in estimate_plots.METHODS for _ in range(3)], "evaluations": [4.0, 16.0, 64.0] * 5,
        "log_px": 20.0 + random.random(15), "low": 19.0, "high": 22.0,
    })  # fmt: skip
    probes = pd.DataFrame({
        "kind": [kind for kind in PROBES for _ in labels], "label": list(labels) * len(PROBES),
        "log_px": random.normal(0, 5, len(PROBES) * IMAGES),
    })  # fmt: skip
    random_images = random.random((2, 15, *as_pictures(np.zeros(vae.images.pixels), dataset.shape).shape))
    return Scene(
        vae, vae.images.read_clean(dataset.test_images), labels, dataset.shape,
        history.assign(best=history["epoch"] <= 3), table, verified, curves, probes,
        as_seen(examples(dataset.test_images, dataset.test_labels, dataset.levels), vae.images),
        Render(columns=4, steps=5, seed=seed),
        (lambda p: (100 * p.mean.mean(-1)).long() % 3) if dataset.labelled else None,
        Neighbours(random_images[0], random_images[1], random.random(15)),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.inference_mode():
        yield


@pytest.fixture
def scene(tiny: Dataset) -> Scene:
    return make_scene(tiny)


@pytest.fixture
def arguments(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Call a picture and return what it passes on to be drawn."""

    def of(module: object, name: str, draw: Callable[[Scene], Any], scene: Scene) -> list[Any]:
        passed: list[Any] = []
        monkeypatch.setattr(module, name, lambda *values: passed.extend(values) or Figure())
        draw(scene)
        return passed

    return of


CONDITIONAL = {"digits", "analogies"}  # pictures of a conditional model only


@pytest.mark.parametrize("name", sorted(set(PICTURES) - CONDITIONAL))
def test_every_picture_is_drawn(name: str, tiny: Dataset) -> None:
    figure = PICTURES[name].draw(make_scene(tiny, latent=2))
    assert any(panel.has_data() for panel in figure.axes)
    assert figure.get_supxlabel() == ""  # nothing is left out


@pytest.mark.parametrize("name", sorted(set(PICTURES) - CONDITIONAL))
@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_every_picture_is_drawn_in_colour(name: str, network: str, tiny: Dataset) -> None:
    scene = make_scene(in_colour(tiny), latent=2, network=network, width=2)
    assert any(panel.has_data() for panel in PICTURES[name].draw(scene).axes)


def test_colour_images_are_shown_with_their_colours(tiny: Dataset) -> None:
    coloured = in_colour(tiny)
    found = make_scene(coloured).originals(torch.arange(20))
    assert found.shape == (20, 6, 5, 3)
    assert found == pytest.approx((coloured.test_images.permute(0, 2, 3, 1).numpy() + 0.5) / 17)


OF_LABELS = {"entanglement", "latent_space", "upside_down"}  # pictures that say nothing without labels


@pytest.mark.parametrize("name", sorted(set(PICTURES) - CONDITIONAL))
def test_without_labels_every_other_picture_is_drawn(name: str, tiny: Dataset) -> None:
    png, reason = drawn(PICTURES[name].draw, make_scene(unlabelled(tiny), latent=2))
    assert (png is None) == (name in OF_LABELS)
    assert ("the images have no labels of two or more classes" in reason) == (name in OF_LABELS)


def test_without_labels_interpolations_join_two_images(tiny: Dataset, arguments: Callable[..., Any]) -> None:
    scene = make_scene(unlabelled(tiny))
    linear, _ = arguments(pictures.model_plots, "interpolations", pictures.interpolations, scene)
    # The others have no partner: six pairs need more than 36 images.
    assert [bool((row[0] != row[-1]).any()) for row in linear] == [True] * 3 + [False] * 3


OF_MODEL = (
    "reconstructions", "pixels", "samples", *sorted(CONDITIONAL), "interpolations", "traversals", "entanglement",
    "manifold", "latent_space",
)  # fmt: skip


@pytest.mark.parametrize("name", OF_MODEL)
@pytest.mark.parametrize("model", [{"prior": "flow"}, {"condition": "label"}, {"prior": "flow", "condition": "label"}])
def test_every_picture_is_drawn_with_a_flow_and_with_labels(name: str, model: dict[str, Any], tiny: Dataset) -> None:
    scene = make_scene(tiny, latent=2, **model)
    png, reason = drawn(PICTURES[name].draw, scene)
    refused = name in CONDITIONAL and "condition" not in model
    assert (png is None) == refused
    assert ("the model is not conditional" in reason) == refused


@pytest.mark.parametrize(("latent", "axes"), [(1, ("z", "class")), (2, ("z₁", "z₂"))])
def test_the_latent_space_is_drawn_as_it_is_if_it_can_be(latent: int, axes: tuple[str, str], tiny: Dataset) -> None:
    panel = pictures.latent_space(make_scene(tiny, latent)).axes[0]
    assert (panel.get_xlabel(), panel.get_ylabel()) == axes


@pytest.mark.parametrize("latent", [1, 3])
def test_the_manifold_needs_two_dimensions(latent: int, tiny: Dataset) -> None:
    assert drawn(pictures.manifold, make_scene(tiny, latent)) == (
        None,
        f"it needs 2 latent dimensions, and z has {latent}",
    )


@pytest.mark.parametrize(("classes", "first"), [(1, 9), (2, 0), (10, 6), (26, 1)])
def test_any_classes_can_be_drawn(tiny: Dataset, classes: int, first: int) -> None:
    scene = make_scene(replace(tiny, test_labels=torch.arange(20) % classes + first))
    for name in ("interpolations", "latent_space", "gaps", "upside_down", "log_px"):
        png, reason = drawn(PICTURES[name].draw, scene)
        assert (bool(png), reason) == (True, "")


@pytest.mark.parametrize("latent", [1, 2, 3])
def test_a_collapsed_encoder_can_be_drawn(tiny: Dataset, latent: int) -> None:
    scene = make_scene(tiny, latent)
    for parameter in scene.vae.encoder.parameters():
        parameter.zero_()
    for name in ("reconstructions", "interpolations", "traversals", "latent_space"):
        figure = PICTURES[name].draw(scene)
        for panel in figure.axes:
            assert all(np.isfinite(np.asarray(image.get_array())).all() for image in panel.images)
        assert drawn(PICTURES[name].draw, scene)[0]


def test_a_picture_that_fails_is_a_reason(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(scene: Scene) -> Figure:
        raise IndexError("index 10\n  is out of bounds")

    def empty(scene: Scene) -> Figure:
        raise NotDrawnError("no images")

    def wrong(scene: Scene) -> Figure:  # fails only when it is saved
        figure = Figure()
        figure.text(0, 0, "$\\unknown$")
        return figure

    assert drawn(broken, scene) == (None, "IndexError: index 10 is out of bounds")
    assert capsys.readouterr().err == "warning: a picture is left out: broken: IndexError: index 10 is out of bounds\n"
    assert drawn(empty, scene) == (None, "no images")
    assert capsys.readouterr().err == ""
    assert drawn(wrong, scene)[1].startswith("ValueError: ")
    png, reason = drawn(pictures.samples, scene)
    assert (png and png[:4], reason) == (b"\x89PNG", "")
    assert len(drawn(lambda _: message("no $images"), scene)[0] or b"") > 1000


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_has_a_title_and_says_what_to_see(name: str) -> None:
    assert PICTURES[name].title
    assert not PICTURES[name].title.endswith(".")  # the report adds it
    assert PICTURES[name].caption.endswith(".")


def test_a_new_picture_takes_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "PICTURES", {})

    @picture("draws", "Title", "Caption.")
    def new(scene: Scene) -> Figure:
        return Figure()

    assert list(pictures.PICTURES.items()) == [("new", Picture("draws", "Title", "Caption.", new))]


def test_the_seed_and_the_name_of_a_picture_choose_its_images(tiny: Dataset) -> None:
    scene = make_scene(tiny)
    assert torch.equal(scene.choose("a", 10), make_scene(tiny).choose("a", 10))
    assert not torch.equal(scene.choose("a", 10), scene.choose("b", 10))
    assert not torch.equal(scene.choose("a", 10), make_scene(tiny, seed=1).choose("a", 10))


@pytest.mark.parametrize(("count", "found"), [(5, 5), (IMAGES, IMAGES), (IMAGES + 1, IMAGES)])
def test_chosen_images_are_different(scene: Scene, count: int, found: int) -> None:
    assert len(set(scene.choose("a", count).tolist())) == found


def test_all_pictures_show_the_same_samples(scene: Scene) -> None:
    assert torch.equal(scene.prior_samples(8).flatten(0, 1)[:16], scene.prior_samples(4).flatten(0, 1))


def test_samples_and_the_manifold_are_decoded_points(tiny: Dataset) -> None:
    scene = make_scene(tiny, latent=2)
    z, _ = latent_paths.plane(20)
    for figure, points in ((pictures.samples(scene), scene.prior_samples(4)), (pictures.manifold(scene), z)):
        for place in ((0, 0), (1, 3), (3, 1)):
            expected = scene.vae.decoder(points[place].float()[None]).mean.reshape(6, 5).numpy()
            assert cell(figure.axes[0], *place, 6, 5) == pytest.approx(expected, abs=1e-6)


BLACK_AND_WHITE: dict[str, Any] = {"binarise": "dynamic", "observation": "bernoulli"}


@pytest.mark.parametrize(
    "model",
    [{}, {"observation": "gaussian_per_pixel"}, {"observation": "logistic_mixture"}, {"network": "conv", "width": 2},
     {"sigma": "learned"}, BLACK_AND_WHITE],
)  # fmt: skip
def test_every_picture_is_drawn_of_every_kind_of_model(tiny: Dataset, model: dict[str, Any]) -> None:
    scene = make_scene(tiny, **model)
    for name in ("reconstructions", "pixels", "samples", "traversals", "log_px", "densities"):
        assert drawn(PICTURES[name].draw, scene)[1] == ""


def test_drawn_pixels_have_the_moments_of_the_observation_model(tiny: Dataset) -> None:
    """20 · 30 residuals of σ = 0.1: their mean square is within 30 %, 5 standard errors, of 0.01."""
    scene = make_scene(tiny)
    noise = scene.draw_pixels("a", scene.means, None) - scene.decode(scene.means, None)
    assert np.square(noise).mean() == pytest.approx(0.01, rel=0.3)
    assert np.array_equal(
        scene.draw_pixels("a", scene.means, None), make_scene(tiny).draw_pixels("a", scene.means, None)
    )
    assert not np.array_equal(scene.draw_pixels("a", scene.means, None), scene.draw_pixels("b", scene.means, None))


@pytest.mark.parametrize("observation", ["logistic", "beta_binomial", "categorical"])
def test_drawn_grey_levels_are_shown_without_noise(tiny: Dataset, observation: str) -> None:
    scene = make_scene(tiny, observation=observation)
    v = scene.draw_pixels("a", scene.means, None) * tiny.levels - 0.5
    assert v == pytest.approx(v.round(), abs=1e-4)
    assert len(np.unique(v.round())) > 3


def test_binarised_images_are_shown_black_and_white(tiny: Dataset) -> None:
    scene = make_scene(tiny, **BLACK_AND_WHITE)
    every = torch.arange(IMAGES)
    shown = scene.originals(every)
    assert np.array_equal(shown.reshape(IMAGES, -1), scene.vae.images.values_fixed(tiny.test_images).numpy())
    assert set(np.unique(scene.draw_pixels("a", scene.means, None))) == {0.0, 1.0}
    grey = make_scene(tiny)
    assert np.array_equal(grey.originals(every), grey.images(grey.x))


def test_examples_of_other_images_are_shown_as_the_model_sees_them(tiny: Dataset) -> None:
    kinds = examples(tiny.test_images, tiny.test_labels, tiny.levels)
    for name, image in as_seen(kinds, tiny.format()).items():
        assert image == pytest.approx(kinds[name])
    threshold = tiny.format("threshold")
    for name, image in as_seen(kinds, threshold).items():
        assert np.array_equal(image, kinds[name] * (tiny.levels - 1) >= (tiny.levels + 1) // 2)


def test_the_overview_is_of_the_same_model(scene: Scene) -> None:
    left, middle, _ = pictures.overview(scene).axes
    original, decoded = (cell(left, row, 2, 6, 5) for row in (0, 1))
    x = torch.from_numpy(original.copy()).float().flatten()
    expected = scene.vae.decoder(scene.vae.encoder(x[None]).mean).mean.reshape(6, 5).numpy()
    assert decoded == pytest.approx(expected, abs=1e-6)
    sample = scene.vae.decoder(scene.prior_samples(8)[2, 5:6]).mean.reshape(6, 5).numpy()
    assert cell(middle, 2, 5, 6, 5) == pytest.approx(sample, abs=1e-6)


def test_the_latent_space_shows_the_means_of_the_encoder(tiny: Dataset) -> None:
    scene = make_scene(tiny, latent=2)
    means = scene.vae.encoder(scene.x).mean.numpy()
    for label, dots in zip(range(5), pictures.latent_space(scene).axes[0].collections, strict=True):
        assert np.asarray(dots.get_offsets()) == pytest.approx(means[scene.labels == label])


def test_reconstructions_are_decoded_means_of_the_images_shown(scene: Scene, arguments: Callable[..., Any]) -> None:
    originals, decoded, columns = arguments(model_plots, "reconstructions", pictures.reconstructions, scene)
    assert columns == 4
    assert originals.shape == decoded.shape == (12, 6, 5)
    for original, reconstruction in zip(originals, decoded, strict=True):
        x = torch.from_numpy(original).flatten()
        expected = scene.vae.decoder(scene.vae.encoder(x[None]).mean).mean.reshape(6, 5)
        assert reconstruction == pytest.approx(expected.numpy(), abs=1e-6)


def test_interpolations_join_digits_of_different_classes(scene: Scene, arguments: Callable[..., Any]) -> None:
    many = replace(scene, x=torch.rand(60, 30, generator=torch.Generator().manual_seed(0)), labels=np.arange(60) % 2)
    decoded = many.decode(many.means, None)
    drawn_paths = arguments(model_plots, "interpolations", pictures.interpolations, many)
    for paths, interpolate in zip(drawn_paths, (latent_paths.lerp, latent_paths.slerp), strict=True):
        assert paths.shape == (6, 5, 6, 5)
        for path in paths:
            start, end = (np.abs(decoded - image).sum((1, 2)) for image in (path[0], path[-1]))
            assert (start.min(), end.min()) == pytest.approx((0, 0), abs=1e-4)
            assert many.labels[start.argmin()] != many.labels[end.argmin()]
            ends = many.means[[start.argmin(), end.argmin()]][:, None]
            np.testing.assert_allclose(path[None], many.decode(interpolate(ends[0], ends[1], 5), None), atol=1e-5)


def test_traversals_start_with_the_coordinate_of_the_largest_kl(scene: Scene, arguments: Callable[..., Any]) -> None:
    decoded, labels, values = arguments(model_plots, "traversals", pictures.traversals, scene)
    kl = latent_paths.coordinate_kl(scene.vae, scene.x, None).tolist()
    coordinates = sorted(range(3), key=lambda d: -kl[d])
    assert labels == [f"z[{d}], KL {kl[d]:.1f} nats" for d in coordinates]
    assert values == pytest.approx([-3, -1.5, 0, 1.5, 3])
    start = scene.means[scene.choose("traversals", 1)[0]].clone()
    start[coordinates[1]] = values[4]
    assert decoded[1, 4] == pytest.approx(scene.decode(start[None], None)[0], abs=1e-6)


def test_the_least_and_the_most_likely_images_are_in_order(scene: Scene) -> None:
    order = scene.table["log_px"].to_numpy().argsort()
    least, most, _ = pictures.log_px(scene).axes
    for panel, indices in ((least, order[:7]), (most, order[::-1][:7])):
        for column, index in enumerate(indices):
            assert cell(panel, 0, column, *scene.shape) == pytest.approx(scene.images(scene.x)[index])


@pytest.mark.parametrize("other", [np.nan, np.inf, -np.inf])
def test_images_that_are_not_finite_are_neither_the_least_nor_the_most_likely(scene: Scene, other: float) -> None:
    values = scene.table["log_px"].to_numpy().copy()
    values[[3, 5]] = other
    order = [index for index in values.argsort() if index not in (3, 5)]
    figure = pictures.log_px(replace(scene, table=scene.table.assign(log_px=values)))
    least, most, _ = figure.axes
    for panel, indices in ((least, order[:14]), (most, order[::-1][:14])):
        for place, index in enumerate(indices):
            assert cell(panel, *divmod(place, 7), *scene.shape) == pytest.approx(scene.images(scene.x)[index])
    assert figure.get_supxlabel() == "not finite, and left out: test images (2)"


def test_the_gap_is_that_of_test_images(scene: Scene) -> None:
    panel = pictures.gaps(scene).axes[0]
    assert texts(panel.get_yticklabels()) == ["all", *(f"class {label}" for label in range(5))]
    assert panel.texts[0].get_text().strip() == "5 + 10"


def test_kinds_of_images_without_a_finite_density_are_not_drawn(scene: Scene) -> None:
    probes = scene.probes.assign(log_px=scene.probes["log_px"].where(scene.probes["kind"] != "blank"))
    figure = pictures.densities(replace(scene, probes=probes))
    titles = [panel.get_title(loc="left").split(" (")[0] for panel in figure.axes[1::2]]
    assert titles == [kind for kind in PROBES if kind != "blank"]
    assert figure.get_supxlabel() == "not finite, and left out: blank (20)"
    with pytest.raises(NotDrawnError, match=r"no kind of other images has a finite log p\(x\)"):
        pictures.densities(replace(scene, probes=probes.assign(log_px=np.nan)))


def test_a_density_that_always_prefers_digits_has_an_auroc_of_one(scene: Scene, arguments: Callable[..., Any]) -> None:
    probes = scene.probes.assign(log_px=-1000.0)
    _, _, auroc, _, ceiling = arguments(estimate_plots, "densities", pictures.densities, replace(scene, probes=probes))
    assert auroc == dict.fromkeys(PROBES, 1.0)
    assert ceiling == pytest.approx(-15 * np.log(2 * np.pi * 0.01))


def test_the_auroc_is_the_probability_that_a_digit_is_likelier(scene: Scene) -> None:
    """Upright 5 and 6 against 1 and 2: 1; and 1.5 for one of them: ¾."""
    table = scene.table.assign(log_px=[5.0, 6.0] * 10, label=[0, 0, 1, 1, 2] * 4)
    probes = scene.probes.assign(log_px=[1.0, 2.0] * 50, label=[0, 0, 1, 1, 2] * 20)
    figure = pictures.densities(replace(scene, table=table, probes=probes))
    assert {panel.get_title(loc="left").rpartition(": ")[2] for panel in figure.axes[1::2]} == {"AUROC 1.000"}
    some = table.assign(log_px=table["log_px"].where(table["label"] != 1, [1.5, 6.0] * 10))
    panel = pictures.upside_down(replace(scene, table=some, probes=probes)).axes[0]
    assert texts(panel.texts) == ["1.00", "0.75", "1.00"]


def test_images_upside_down_that_are_not_finite_are_counted(scene: Scene) -> None:
    table = scene.table.assign(log_px=scene.table["log_px"].where(scene.table["label"] > 1))
    figure = pictures.upside_down(replace(scene, table=table))
    assert list(figure.axes[0].get_xticks()) == [2, 3, 4]
    assert figure.get_supxlabel() == "not finite, and left out: test images (8)"
    with pytest.raises(NotDrawnError, match="no class"):
        pictures.upside_down(replace(scene, table=table.assign(log_px=np.nan)))


def test_classes_are_compared_upside_down_if_both_ways_are_measured(scene: Scene) -> None:
    panel = pictures.upside_down(replace(scene, table=scene.table[scene.table["label"] != 2])).axes[0]
    assert list(panel.get_xticks()) == [0, 1, 3, 4]


def test_the_limit_of_khat_is_that_of_the_samples_used(scene: Scene) -> None:
    khat = pictures.diagnostics(scene).axes[0]
    assert [x_of(line)[0] for line in khat.lines] == pytest.approx([1 - 1 / np.log10(64)])


# A flow, and labels.


def test_samples_go_through_the_flow(tiny: Dataset) -> None:
    """A flow that shifts z by one: the picture shows f(ε + 1)."""
    scene = make_scene(tiny, prior="flow")
    flow = scene.vae.prior.flow
    assert flow is not None
    flow.from_noise = lambda noise, y: noise + 1
    flow.to_noise = lambda z, y: (z - 1, torch.zeros_like(z[..., 0]))
    noise = scene.prior_samples(4)
    expected = scene.images(scene.vae.decoder(noise + 1).mean)
    assert cell(pictures.samples(scene).axes[0], 2, 3, 6, 5) == pytest.approx(expected[2, 3], abs=1e-6)
    chosen = torch.arange(5)
    assert torch.equal(scene.noise(chosen), scene.means[chosen] - 1)
    assert not np.allclose(expected, scene.decode(noise, None))


def test_interpolations_walk_in_the_noise_of_the_flow(tiny: Dataset, arguments: Callable[..., Any]) -> None:
    """z = sinh(ε) / 50: encodings of this model are small, and the flow must be far from linear there."""
    scene = make_scene(tiny, prior="flow")
    flow = scene.vae.prior.flow
    assert flow is not None
    flow.from_noise = lambda noise, y: noise.sinh() / 50
    flow.to_noise = lambda z, y: ((50 * z).asinh(), torch.zeros_like(z[..., 0]))
    straight, circle = arguments(model_plots, "interpolations", pictures.interpolations, scene)
    starts = scene.choose("interpolations", IMAGES)[:6]
    reconstructions = scene.decode(scene.means, None)
    for path in (straight, circle):  # both ends are reconstructions: the flow has an exact inverse
        assert path[:, 0] == pytest.approx(reconstructions[starts], abs=1e-4)
        ends = np.abs(reconstructions[None] - path[:, -1, None]).max((2, 3)).argmin(1)
        assert path[:, -1] == pytest.approx(reconstructions[ends], abs=1e-4)
    middle = (scene.noise(starts[:1]) + scene.noise(torch.from_numpy(ends[:1]))) / 2
    assert straight[0, 2] == pytest.approx(scene.generate(middle, None)[0], abs=1e-4)
    in_z = (scene.means[starts[:1]] + scene.means[ends[:1]]) / 2
    assert not np.allclose(straight[0, 2], scene.decode(in_z, None)[0], atol=1e-4)


def test_a_conditional_model_interpolates_between_digits_of_the_same_class(
    tiny: Dataset, arguments: Callable[..., Any]
) -> None:
    scene = make_scene(tiny, prior="flow", condition="label")
    straight, _ = arguments(model_plots, "interpolations", pictures.interpolations, scene)
    reconstructions = scene.reconstruct(torch.arange(IMAGES))
    for path in straight:
        start, end = (int(np.abs(reconstructions - image).max((1, 2)).argmin()) for image in (path[0], path[-1]))
        assert path[[0, -1]] == pytest.approx(reconstructions[[start, end]], abs=1e-4)
        assert scene.labels[start] == scene.labels[end]


def test_coordinates_of_a_flow_are_in_the_order_of_the_change(tiny: Dataset, arguments: Callable[..., Any]) -> None:
    scene = make_scene(tiny, prior="flow")
    decoded, labels, values = arguments(model_plots, "traversals", pictures.traversals, scene)
    change = latent_paths.coordinate_change(scene.vae, scene.prior_samples(8).flatten(0, 1), None).tolist()
    order = sorted(range(3), key=lambda d: -change[d])
    assert labels == [f"ε[{d}], change {change[d]:.2f}" for d in order]
    noise = scene.noise(scene.choose("traversals", 1))
    noise[0, order[1]] = values[0]
    assert decoded[1, 0] == pytest.approx(scene.generate(noise, None)[0], abs=1e-6)


@pytest.mark.parametrize("prior", ["normal", "flow"])
def test_every_column_of_digits_has_its_label_and_every_row_its_noise(tiny: Dataset, prior: str) -> None:
    scene = make_scene(tiny, prior=prior, condition="label")
    panel = pictures.digits(scene).axes[0]
    assert texts(panel.get_xticklabels()) == ["0", "1", "2", "3", "4"]
    noise, y = scene.prior_samples(4)[:, :1].expand(4, 5, -1), torch.arange(5).expand(4, 5)
    expected = scene.vae.decoder(scene.vae.prior.from_noise(noise, y), y).mean.reshape(4, 5, 6, 5).numpy()
    for row in range(4):
        for label in range(5):
            assert cell(panel, row, label, 6, 5) == pytest.approx(expected[row, label], abs=1e-6)


@pytest.mark.parametrize("prior", ["normal", "flow"])
def test_the_analogy_of_a_digit_in_its_own_class_is_its_reconstruction(
    tiny: Dataset, prior: str, arguments: Callable[..., Any]
) -> None:
    scene = make_scene(tiny, prior=prior, condition="label")
    originals, images, labels, classes = arguments(model_plots, "analogies", pictures.analogies, scene)
    chosen = scene.choose("analogies", 4)
    assert np.array_equal(originals, scene.originals(chosen))
    assert (labels, classes) == (scene.labels[chosen].tolist(), [0, 1, 2, 3, 4])
    reconstructions = scene.vae.decoder(scene.vae.encoder(scene.x[chosen], scene.y[chosen]).mean, scene.y[chosen]).mean
    for row, label in enumerate(labels):
        assert images[row, label].flatten() == pytest.approx(reconstructions[row].numpy(), abs=1e-4)
        other = (label + 1) % 5
        y = torch.tensor([other])
        noise = scene.noise(chosen[row : row + 1])
        assert images[row, other] == pytest.approx(scene.images(scene.vae.generate(noise, y).mean)[0], abs=1e-6)


def test_samples_of_a_conditional_model_have_the_classes_in_turn(tiny: Dataset) -> None:
    scene = make_scene(tiny, condition="label")
    panel, noise = pictures.samples(scene).axes[0], scene.prior_samples(4)
    for row, column in ((0, 0), (1, 1), (3, 3)):
        y = torch.tensor([(4 * row + column) % 5])
        expected = scene.vae.decoder(noise[row, column][None], y).mean.reshape(6, 5).numpy()
        assert cell(panel, row, column, 6, 5) == pytest.approx(expected, abs=1e-6)


def test_only_classes_with_training_images_are_asked_for(tiny: Dataset) -> None:
    few = replace(tiny, train_labels=torch.arange(60) % 2 + 3, test_labels=torch.arange(20) % 2 + 3)
    scene = make_scene(few, condition="label")
    assert scene.classes().tolist() == [3, 4]
    assert scene.labels_in_turn(2, 2).tolist() == [[3, 4], [3, 4]]  # pyright: ignore[reportOptionalMemberAccess]
    many = replace(tiny, train_labels=torch.arange(60) % 26, test_labels=torch.arange(20))
    assert make_scene(many, condition="label").classes().tolist() == list(range(MOST_CLASSES))
    assert make_scene(many).labels_in_turn(3) is None


def test_the_reconstruction_of_a_conditional_model_knows_the_label(tiny: Dataset) -> None:
    scene = make_scene(tiny, condition="label")
    chosen = torch.arange(3)
    x, y = scene.x[chosen], scene.y[chosen]
    expected = scene.vae.decoder(scene.vae.encoder(x, y).mean, y).mean
    assert scene.reconstruct(chosen).reshape(3, -1) == pytest.approx(expected.numpy(), abs=1e-6)
    assert scene.draw_pixels("a", scene.means[chosen], y).shape == (3, 6, 5)


def test_the_most_entangled_coordinates_are_first(scene: Scene, arguments: Callable[..., Any]) -> None:
    values, whole, darkest, names, quantities, change = arguments(
        model_plots, "entanglement", pictures.entanglement, scene
    )
    assert sorted(names) == ["z[0]", "z[1]", "z[2]"]
    assert list(darkest) == [whole[0], whole[1], 100]
    weight = (values / darkest).mean(1)
    assert list(weight) == sorted(weight, reverse=True)
    assert len(quantities) == 3
    assert change == "from −1.5 to +1.5"


def test_neighbours_are_those_of_the_stage(scene: Scene) -> None:
    panels = pictures.neighbours(scene).axes
    assert cell(panels[1], 0, 2, 6, 5) == pytest.approx(scene.neighbours.drawn[6])
    assert cell(panels[1], 1, 2, 6, 5) == pytest.approx(scene.neighbours.nearest[6])
    assert texts(panels[1].get_xticklabels())[2] == f"{scene.neighbours.distances[6]:.2f}"
    assert len(panels) == 3  # the last image of 15 does not fill a row of its own
