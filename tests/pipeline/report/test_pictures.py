"""What each picture of the report is drawn from, and that all of them can be drawn."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.config import Model, Render
from pipeline.data.dataset import Dataset
from pipeline.data.probes import PROBES, examples
from pipeline.model.vae import VAE
from pipeline.report import estimate_plots, model_plots, pictures
from pipeline.report.pictures import PICTURES, Picture, picture
from pipeline.report.plotting import Figure
from pipeline.report.scene import Scene
from tests.pipeline.report.artists import cell, texts, x_of

EPOCHS, IMAGES = 4, 20


def make_scene(dataset: Dataset, latent: int = 3, seed: int = 0) -> Scene:
    """An untrained model, the test images of a data set, and measurements that are made up."""
    random = np.random.default_rng(0)
    torch.manual_seed(0)
    vae = VAE(Model(latent=latent, encoder=(8,), decoder=(8,), activation="relu", sigma=0.1), dataset.pixels).eval()
    labels = dataset.test_labels.numpy()
    terms = [f"{part}_{term}" for part in ("train", "validation") for term in ("elbo", "reconstruction", "kl")]
    history = pd.DataFrame({term: random.normal(size=EPOCHS) for term in terms}).assign(epoch=range(1, EPOCHS + 1))
    table = pd.DataFrame({
        "label": labels, "log_px": random.normal(20, 5, IMAGES), "khat": random.random(IMAGES),
        "ess": 100 * random.random(IMAGES), "samples": 64.0, "trusted": random.random(IMAGES) < 0.5,
    })  # fmt: skip
    verified = pd.DataFrame({
        "kind": ["test"] * 5 + ["simulated"] * 5, "label": [0.0, 1, 2, 3, 4] + [np.nan] * 5, "log_px": 20.0,
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
    return Scene(
        vae, dataset.test_images.flatten(1) / 16, labels, dataset.shape,
        history.assign(best=history["epoch"] <= 3), table, verified, curves, probes,
        examples(dataset.test_images, dataset.test_labels, dataset.levels), Render(columns=4, steps=5, seed=seed),
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


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_is_drawn(name: str, tiny: Dataset) -> None:
    figure = PICTURES[name].draw(make_scene(tiny, latent=2))
    assert figure is not None
    assert any(panel.has_data() for panel in figure.axes)


@pytest.mark.parametrize(("latent", "axes"), [(1, ("z", "class")), (2, ("z₁", "z₂"))])
def test_the_latent_space_is_drawn_as_it_is_if_it_can_be(latent: int, axes: tuple[str, str], tiny: Dataset) -> None:
    panel = pictures.latent_space(make_scene(tiny, latent)).axes[0]
    assert (panel.get_xlabel(), panel.get_ylabel()) == axes


@pytest.mark.parametrize("latent", [1, 3])
def test_the_manifold_needs_two_dimensions(latent: int, tiny: Dataset) -> None:
    assert pictures.manifold(make_scene(tiny, latent)) is None


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_has_a_title_and_says_what_to_see(name: str) -> None:
    assert PICTURES[name].title
    assert not PICTURES[name].title.endswith(".")  # the report adds it
    assert PICTURES[name].caption.endswith(".")


def test_a_new_picture_takes_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "PICTURES", {})

    @picture("Title", "Caption.")
    def new(scene: Scene) -> None:
        return None

    assert list(pictures.PICTURES.items()) == [("new", Picture("Title", "Caption.", new))]


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


def test_reconstructions_are_decoded_means_of_the_images_shown(scene: Scene, arguments: Callable[..., Any]) -> None:
    originals, decoded, columns = arguments(model_plots, "reconstructions", pictures.reconstructions, scene)
    assert columns == 4
    assert originals.shape == decoded.shape == (12, 6, 5)
    for original, reconstruction in zip(originals, decoded, strict=True):
        x = torch.from_numpy(original).flatten()
        expected = scene.vae.decoder(scene.vae.encoder(x).mean).mean.reshape(6, 5)
        assert reconstruction == pytest.approx(expected.numpy(), abs=1e-6)


def test_interpolations_join_digits_of_different_classes(scene: Scene, arguments: Callable[..., Any]) -> None:
    many = replace(scene, x=torch.rand(60, 30, generator=torch.Generator().manual_seed(0)), labels=np.arange(60) % 2)
    decoded = many.decode(many.means)
    for paths in arguments(model_plots, "interpolations", pictures.interpolations, many):
        assert paths.shape == (6, 5, 6, 5)
        for path in paths:
            start, end = (np.abs(decoded - image).sum((1, 2)) for image in (path[0], path[-1]))
            assert (start.min(), end.min()) == pytest.approx((0, 0), abs=1e-4)
            assert many.labels[start.argmin()] != many.labels[end.argmin()]


def test_traversals_start_with_the_coordinate_of_the_largest_kl(scene: Scene, arguments: Callable[..., Any]) -> None:
    decoded, coordinates, kl, values = arguments(model_plots, "traversals", pictures.traversals, scene)
    assert kl == sorted(kl, reverse=True)
    assert sorted(coordinates) == [0, 1, 2]
    assert values == pytest.approx([-3, -1.5, 0, 1.5, 3])
    start = scene.means[scene.choose("traversals", 1)[0]].clone()
    start[coordinates[1]] = values[4]
    assert decoded[1, 4] == pytest.approx(scene.decode(start[None])[0], abs=1e-6)


def test_the_least_and_the_most_likely_images_are_in_order(scene: Scene) -> None:
    order = scene.table["log_px"].to_numpy().argsort()
    least, most, _ = pictures.log_px(scene).axes
    for panel, indices in ((least, order[:7]), (most, order[::-1][:7])):
        for column, index in enumerate(indices):
            assert cell(panel, 0, column, *scene.shape) == pytest.approx(scene.images(scene.x)[index])


def test_the_gap_is_that_of_test_images(scene: Scene) -> None:
    panel = pictures.gaps(scene).axes[0]
    assert texts(panel.get_yticklabels()) == ["all", *(f"digit {label}" for label in range(5))]
    assert panel.texts[0].get_text().strip() == "5 + 10"


def test_kinds_of_images_without_a_finite_density_are_not_drawn(scene: Scene) -> None:
    probes = scene.probes.assign(log_px=scene.probes["log_px"].where(scene.probes["kind"] != "blank"))
    figure = pictures.densities(replace(scene, probes=probes))
    assert figure is not None
    titles = [panel.get_title(loc="left").split(" (")[0] for panel in figure.axes[1::2]]
    assert titles == [kind for kind in PROBES if kind != "blank"]
    assert pictures.densities(replace(scene, probes=probes.assign(log_px=np.nan))) is None


def test_a_density_that_always_prefers_digits_has_an_auroc_of_one(scene: Scene, arguments: Callable[..., Any]) -> None:
    probes = scene.probes.assign(log_px=-1000.0)
    _, _, auroc, _, ceiling = arguments(estimate_plots, "densities", pictures.densities, replace(scene, probes=probes))
    assert auroc == dict.fromkeys(PROBES, 1.0)
    assert ceiling == pytest.approx(-15 * np.log(2 * np.pi * 0.01))


def test_classes_are_compared_upside_down_if_both_ways_are_measured(scene: Scene) -> None:
    panel = pictures.upside_down(replace(scene, table=scene.table[scene.table["label"] != 2])).axes[0]
    assert list(panel.get_xticks()) == [0, 1, 3, 4]


def test_the_limit_of_khat_is_that_of_the_samples_used(scene: Scene) -> None:
    khat = pictures.diagnostics(scene).axes[0]
    assert [x_of(line)[0] for line in khat.lines] == pytest.approx([1 - 1 / np.log10(64)])
