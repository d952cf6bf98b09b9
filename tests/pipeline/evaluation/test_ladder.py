"""Where a model stands: published numbers on the scale of densities, and the order of all rows."""

import math

import pytest

from pipeline.data.image_format import Binarise, ImageFormat
from pipeline.evaluation.baselines import BASELINES
from pipeline.evaluation.ladder import PUBLISHED, Rung, published, rungs

MNIST = ImageFormat(28, 28, 256)
DYNAMIC = ImageFormat(28, 28, 256, "dynamic")
COMPARE = {
    "uniform": 0.0,
    "uniform_se": 0.0,
    "ppca": -787.5,
    "ppca_se": 7.6,
    "histogram": 3429.7,
    "histogram_se": 2.0,
    "auroc_blank": 0.0,
}


def by_name(found: list[Rung]) -> dict[str, Rung]:
    assert len({rung.name for rung in found}) == len(found)
    return {rung.name: rung for rung in found}


@pytest.mark.parametrize(
    ("name", "nats", "bits_per_dim"),
    [
        # 784 · (8 − bits/dim) · ln 2
        ("VAE-50, σ² = 0.005", 991.4, 6.176),
        ("BB-ANS: one-layer VAE, beta-binomial", 3592.1, 1.39),
        ("RealNVP", 3771.4, 1.06),
        ("Glow", 3776.8, 1.05),
        ("FFJORD", 3809.4, 0.99),
        ("Residual Flow", 3820.3, 0.97),
        # 1.27 · 1 024 bits per image
        ("Bit-Swap: VAE with eight latent layers, logistic", 3446.0, 1.659),
    ],
)
def test_published_results_of_grey_images_are_on_the_scale(name: str, nats: float, bits_per_dim: float) -> None:
    rung = by_name(published("mnist", "none"))[name]
    assert rung.nats == pytest.approx(nats, abs=0.05)
    assert rung.bits_per_dim == pytest.approx(bits_per_dim, abs=5e-4)
    assert rung.kind == "published"


@pytest.mark.parametrize("binarise", ["none", "dynamic"])
def test_published_results_agree_with_the_bits_per_dimension_of_their_images(binarise: Binarise) -> None:
    images = ImageFormat(28, 28, 256, binarise)
    for rung in published("mnist", binarise):
        assert rung.bits_per_dim == pytest.approx(images.bits_per_dim(rung.nats))


def test_nats_of_binarised_images_are_log_probabilities() -> None:
    found = by_name(published("mnist", "dynamic"))
    assert found["IWAE, two latent layers, k = 50"].nats == -82.90
    assert found["NVAE, without flow"].bits_per_dim == pytest.approx(78.01 / (784 * math.log(2)))


@pytest.mark.parametrize(("dataset", "binarise"), [("digits", "none"), ("kmnist", "dynamic"), ("mnist", "threshold")])
def test_other_data_have_no_published_results(dataset: str, binarise: Binarise) -> None:
    assert published(dataset, binarise) == []


def test_each_published_result_says_what_it_is() -> None:
    for (dataset, binarise), rows in PUBLISHED.items():
        for row, rung in zip(rows, published(dataset, binarise), strict=True):
            assert row.source[-4:].isdigit() or ", table" in row.source
            assert rung.note.startswith(f"{row.number}; {row.source}")
            assert rung.error == row.error


def test_rungs_are_sorted_and_have_their_kind_and_error() -> None:
    found = rungs("mnist", MNIST, COMPARE, log_px=857.0, error=3.0, ceiling=1356.5)
    assert [rung.nats for rung in found] == sorted(rung.nats for rung in found)
    rows = by_name(found)
    assert rows["this model"] == Rung("this model", 857.0, MNIST.bits_per_dim(857.0), 3.0, "this model")
    assert rows["ceiling of the observation model"].kind == "ceiling"
    assert rows["ceiling of the observation model"].error is None
    histogram = rows[BASELINES["histogram"].label]
    assert (histogram.nats, histogram.error, histogram.kind) == (3429.7, 2.0, "baseline")
    assert histogram.bits_per_dim == pytest.approx(1.689, abs=5e-4)
    kinds = [rung.kind for rung in found]
    assert (kinds.count("baseline"), kinds.count("published")) == (3, 7)  # an AUROC is no baseline
    assert [rung.name for rung in found][:2] == [BASELINES["ppca"].label, BASELINES["uniform"].label]


def test_a_baseline_of_one_image_has_no_error() -> None:
    (rung,) = rungs("digits", ImageFormat(8, 8, 17), {"histogram": 50.0}, None, None, math.inf)
    assert rung.error is None


@pytest.mark.parametrize("log_px", [None, math.nan, -math.inf])
def test_a_model_without_a_finite_result_is_left_out(log_px: float | None) -> None:
    kinds = {rung.kind for rung in rungs("digits", ImageFormat(8, 8, 17), COMPARE, log_px, None, 3.0)}
    assert kinds == {"baseline", "ceiling"}


@pytest.mark.parametrize(
    ("images", "ceiling", "shown"),
    [
        (MNIST, 1356.5, True),
        (MNIST, math.inf, False),  # σ of each pixel: no ceiling
        (MNIST, 784 * math.log(256), False),  # P(v) = 1, of any discrete model
        (MNIST, 784 * math.log(256) * (1 + 1e-9), False),
        (MNIST, 784 * math.log(256) * (1 - 1e-9), False),
        (MNIST, 5000.0, False),
        (DYNAMIC, 0.0, False),
        (DYNAMIC, -10.0, True),
    ],
)
def test_the_ceiling_is_shown_if_it_is_the_observation_models(images: ImageFormat, ceiling: float, shown: bool) -> None:
    found = rungs("mnist", images, {}, None, None, ceiling)
    assert ("ceiling" in {rung.kind for rung in found}) == shown


def test_binarised_images_are_compared_with_binarised_results() -> None:
    found = rungs("mnist", DYNAMIC, {"uniform": -543.43, "histogram": -205.8}, -88.0, 0.5, 0.0)
    assert [rung.name for rung in found] == [
        BASELINES["uniform"].label,
        BASELINES["histogram"].label,
        "this model",
        "VAE, one latent layer",
        "IWAE, one latent layer, k = 50",
        "IWAE, two latent layers, k = 50",
        "NVAE, without flow",
    ]
    assert found[0].bits_per_dim == pytest.approx(1.0, abs=1e-4)


def test_no_name_belongs_to_two_rows() -> None:
    labels = [baseline.label for baseline in BASELINES.values()]
    for dataset, binarise in PUBLISHED:
        names = [*labels, *(rung.name for rung in published(dataset, binarise))]
        assert len(set(names)) == len(names)
