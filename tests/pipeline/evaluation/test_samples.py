"""What the judge says of samples: natural values for real images, and which number shows what is wrong with others."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from logpx.observations.distribution import ImageDistribution
from pipeline.config import Judge as JudgeSettings
from pipeline.config import Sample
from pipeline.data.dataset import Dataset
from pipeline.data.image_format import ImageFormat
from pipeline.data.sources import digits
from pipeline.evaluation.samples import (
    Drawn,
    References,
    draw,
    grey_mean,
    grey_sample,
    measure,
    nearest_training,
    picture,
    references,
    shown,
)
from pipeline.evaluation.summary import Metrics
from pipeline.judge.classifier import Judge, judge_images, to_grey
from pipeline.judge.training import train
from pipeline.model.observations import OBSERVATIONS
from pipeline.model.vae import VAE
from tests.support import model_settings

CPU = torch.device("cpu")
SETTINGS = Sample(images=400, seed=0)


@pytest.fixture(scope="module")
def judged() -> tuple[Dataset, Judge, References]:
    dataset = digits()
    judge = train(dataset, JudgeSettings(steps=400, batch_size=64, learning_rate=0.004, seed=0), CPU)
    return dataset, judge, references(dataset, judge, SETTINGS)


def numbers_of(judged: tuple[Dataset, Judge, References], images: Tensor, labels: Tensor | None = None) -> Metrics:
    """The metrics of grey images (images, height, width) that are passed off as samples."""
    dataset, judge, real = judged
    verdicts = judge_images(judge, images.flatten(1))
    drawn = Drawn(labels, images.flatten(1), verdicts, verdicts)
    return measure(drawn, nearest_training(drawn.images, dataset, CPU), real)


def grey(dataset: Dataset, images: Tensor) -> Tensor:
    return to_grey(images, dataset.levels)


def test_real_images_as_samples_have_the_natural_values(judged: tuple[Dataset, Judge, References]) -> None:
    """The test images' numbers, and the distance of two halves of the training data."""
    dataset = judged[0]
    found = numbers_of(judged, grey(dataset, dataset.test_images), dataset.test_labels.long())
    for name in (
        "recognised", "class_spread", "asked_for", "frechet", "precision", "density", "recall", "coverage", "memorised"
    ):  # fmt: skip
        assert found[name] == found[f"{name}_real"], name
        assert found[f"{name}_se"] == found[f"{name}_real_se"], name
    assert found["images"] == found["images_real"] == 360
    assert found["recognised"] > 0.85
    assert found["asked_for"] > 0.95
    assert found["class_spread"] < 0.15  # every fifth digit is a test image, and their order is not random
    assert found["frechet"] < 3 * found["frechet_train"]
    assert found["frechet"] > 0
    assert found["memorised"] == pytest.approx(0.01, abs=0.002)
    assert min(found["precision"], found["recall"], found["coverage"]) > 0.8
    assert found["density"] == pytest.approx(1, abs=0.2)


def noise(dataset: Dataset) -> Tensor:
    return torch.rand(400, *dataset.shape, generator=torch.Generator().manual_seed(0))


def blank(dataset: Dataset) -> Tensor:
    return torch.zeros(400, *dataset.shape)


def one_digit(dataset: Dataset) -> Tensor:
    return grey(dataset, dataset.test_images[:1]).expand(400, -1, -1)


def training_images(dataset: Dataset) -> Tensor:
    return grey(dataset, dataset.train_images[:400])


def half_of_the_classes(dataset: Dataset) -> Tensor:
    return grey(dataset, dataset.test_images[dataset.test_labels < 5])


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (noise, {"recognised", "frechet", "precision", "density", "recall", "coverage"}),
        (blank, {"class_spread", "frechet", "precision", "recall", "coverage"}),
        (one_digit, {"class_spread", "frechet", "recall", "coverage"}),
        (half_of_the_classes, {"class_spread", "frechet", "coverage"}),
        (training_images, {"memorised", "distance"}),
    ],
)
def test_what_is_wrong_with_samples_shows(
    judged: tuple[Dataset, Judge, References], make: Callable[[Dataset], Tensor], wrong: set[str]
) -> None:
    """Each of these numbers is far from that of real images; for memorised ones no other is."""
    found = numbers_of(judged, make(judged[0]))
    worse = {
        "recognised": found["recognised"] < 0.7 * found["recognised_real"],
        "class_spread": found["class_spread"] > 3 * found["class_spread_real"],
        "frechet": found["frechet"] > 4 * found["frechet_real"],
        "precision": found["precision"] < 0.5 * found["precision_real"],
        "density": found["density"] < 0.5 * found["density_real"],
        "recall": found["recall"] < 0.7 * found["recall_real"],
        "coverage": found["coverage"] < 0.7 * found["coverage_real"],
        "memorised": found["memorised"] > 0.9,
        "distance": found["distance"] < 0.1 * found["distance_real"],
    }
    assert wrong <= {name for name, is_worse in worse.items() if is_worse}
    if make is training_images:
        assert wrong == {name for name, is_worse in worse.items() if is_worse}


def test_a_class_that_was_not_asked_for_shows(judged: tuple[Dataset, Judge, References]) -> None:
    dataset = judged[0]
    images, labels = grey(dataset, dataset.test_images), dataset.test_labels.long()
    assert numbers_of(judged, images, (labels + 1) % 10)["asked_for"] < 0.02
    assert "asked_for" not in numbers_of(judged, images)
    assert "asked_for_real" not in numbers_of(judged, images)


def test_every_share_has_an_error(judged: tuple[Dataset, Judge, References]) -> None:
    found = numbers_of(judged, noise(judged[0]))
    without = {name for name in found if not name.endswith("_se") and f"{name}_se" not in found}
    assert without == {"images", "images_real", "distance", "distance_real"}


def test_the_reference_shares_no_image_with_the_training_images_beside_it(
    judged: tuple[Dataset, Judge, References],
) -> None:
    real = judged[2]
    assert len(real.reference) == len(real.train.classes) == 400
    pairs = torch.cdist(real.train.features, real.reference, compute_mode="donot_use_mm_for_euclid_dist")
    assert (pairs.min(1).values == 0).sum() < 5  # a few digits are in the data twice
    assert real.compared == 360


def small_vae(condition: str = "none", observation: str = "gaussian") -> VAE:
    settings = model_settings(latent=2, encoder=[8], decoder=[8], condition=condition, observation=observation)
    torch.manual_seed(0)
    return VAE(settings, ImageFormat(8, 8, 17), (0.5, 0.0, 0.5)).eval()


@pytest.mark.parametrize("observation", ["gaussian", "logistic"])
@pytest.mark.parametrize("condition", ["none", "label"])
def test_images_are_drawn_with_all_classes_in_turn(
    judged: tuple[Dataset, Judge, References], condition: str, observation: str
) -> None:
    """The same seed draws the same images, and fewer draw the first of them (up to one part)."""
    vae, judge = small_vae(condition, observation), judged[1]
    drawn, again = (draw(vae, judge, Sample(images=300, seed=1)) for _ in range(2))
    assert drawn.images.shape == (300, 64)
    assert torch.equal(drawn.images, again.images)
    assert torch.equal(drawn.noisy.features, again.noisy.features)
    assert not torch.equal(drawn.noisy.features, drawn.clean.features)
    assert 0 <= drawn.images.min() <= drawn.images.max() <= 1
    assert not torch.equal(draw(vae, judge, Sample(images=300, seed=2)).images, drawn.images)
    assert torch.equal(draw(vae, judge, Sample(images=250, seed=1)).images, drawn.images[:250])
    if condition == "none":
        assert drawn.labels is None
    else:
        assert drawn.labels is not None
        assert drawn.labels.tolist() == [0, 2] * 150
    found = shown(drawn, nearest_training(drawn.images, judged[0], CPU))
    assert found["images"].dtype == torch.uint8
    assert {len(values) for values in found.values()} == {200}
    assert ("labels" in found) == (condition == "label")


@pytest.mark.parametrize(("levels", "binarise"), [(256, "none"), (17, "none"), (17, "dynamic")])
def test_the_judge_sees_drawn_images_as_it_sees_real_ones(levels: int, binarise: str) -> None:
    """x = (v + ½) / levels and any x of the cell of v become v / (levels − 1)."""
    images = ImageFormat(1, levels, levels, binarise)  # pyright: ignore[reportArgumentType]
    v = torch.arange(images.levels)
    expected = v / (images.levels - 1)
    for u in (0.01, 0.5, 0.99):
        torch.testing.assert_close(grey_sample(((v + u) / images.levels)[None], images, discrete=True)[0], expected)
    if binarise == "none":
        clean = (v + 0.5) / levels
        torch.testing.assert_close(grey_sample(clean[None], images, discrete=False)[0], expected)
        gaussian = OBSERVATIONS["gaussian"](model_settings(), images)
        torch.testing.assert_close(grey_mean(ImageDistribution(gaussian, clean[None]), images)[0], expected)
        outside = torch.tensor([[-0.5, 1.5]])
        assert grey_sample(outside, images, discrete=False).tolist() == [[0, 1]]
    else:
        bernoulli = OBSERVATIONS["bernoulli"](model_settings(observation="bernoulli"), images)
        p = ImageDistribution(bernoulli, torch.tensor([[-50.0, 0.0, 50.0]]))
        torch.testing.assert_close(grey_mean(p, images), torch.tensor([[0.0, 0.5, 1.0]]))


@pytest.mark.parametrize(
    ("classes", "drawn", "count", "labels"),
    [(0, 150, 100, []), (3, 50, 30, ["0", "1", "2"]), (12, 150, 100, [*map(str, range(10))])],
)
def test_the_picture_has_a_column_for_each_class(
    judged: tuple[Dataset, Judge, References], classes: int, drawn: int, count: int, labels: list[str]
) -> None:
    images = torch.arange(drawn)[:, None].expand(-1, 64) / 200
    asked = torch.arange(drawn) % classes if classes else None
    verdicts = judge_images(judged[1], images)
    found, columns = picture(Drawn(asked, images, verdicts, verdicts), (8, 8))
    assert (len(found), columns) == (count, labels)
    if asked is not None:
        numbers = torch.from_numpy(found[:, 0, 0] * 200).round().long()
        assert (numbers % classes).tolist() == [int(label) for label in labels] * (len(found) // len(labels))


def test_without_a_judge_only_distances_are_measured(judged: tuple[Dataset, Judge, References]) -> None:
    dataset, settings = judged[0], Sample(images=100, seed=0)
    drawn = draw(small_vae(), None, settings)
    found = nearest_training(drawn.images, dataset, CPU)
    metrics = measure(drawn, found, references(dataset, None, settings))
    names = {"images", "memorised", "memorised_se", "distance"}
    assert set(metrics) == names | {f"{name}_real" for name in ("images", "memorised", "distance")} | {
        "memorised_real_se"
    }
    with_judge = measure(draw(small_vae(), judged[1], settings), found, references(dataset, judged[1], settings))
    assert {name: with_judge[name] for name in metrics} == metrics
    assert set(shown(drawn, found)) == {"images", "nearest", "distance"}


def test_two_images_of_each_set_are_enough(judged: tuple[Dataset, Judge, References]) -> None:
    dataset, judge, _ = judged
    settings = Sample(images=2, seed=0)
    drawn = draw(small_vae(), judge, settings)
    found = measure(drawn, nearest_training(drawn.images, dataset, CPU), references(dataset, judge, settings))
    assert found["images"] == 2
    assert all(abs(value) < 1e6 for value in found.values())
