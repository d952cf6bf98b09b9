"""Images unlike the data: their kinds, their log p(x), and baselines with closed forms beside the model."""

import math
from dataclasses import replace

import pytest
import torch

from logpx.estimator import estimate_whole
from pipeline.config import Params
from pipeline.data.dataset import Dataset
from pipeline.data.image_format import Binarise
from pipeline.data.probes import PROBES
from pipeline.errors import UserError
from pipeline.evaluation import other_images
from pipeline.evaluation.auroc import auroc
from pipeline.evaluation.baselines import BASELINES, baselines
from pipeline.evaluation.settings import estimator, prepare
from pipeline.model.vae import VAE


def test_each_kind_has_as_many_images_as_asked_for(params: Params, tiny: Dataset) -> None:
    kinds = other_images.images_of_each_kind(tiny, params.compare.model_copy(update={"images": 7}))
    assert list(kinds) == list(PROBES)
    for images, labels in kinds.values():
        assert images.shape == (7, 6, 5)
        assert torch.equal(labels, tiny.test_labels[:7])


def test_another_data_set_must_have_images_of_the_same_size(params: Params, tiny: Dataset) -> None:
    with pytest.raises(UserError, match=r"compare\.other = digits: another data set with images of 6 x 5 pixels"):
        other_images.images_of_each_kind(tiny, params.compare.model_copy(update={"other": "digits"}))


@pytest.mark.parametrize(("levels", "to"), [(17, 256), (256, 17), (17, 17)])
def test_the_number_of_grey_levels_makes_no_image_less_likely(
    params: Params, tiny: Dataset, monkeypatch: pytest.MonkeyPatch, levels: int, to: int
) -> None:
    """The same images with other grey levels are, for the density, the same images."""

    def with_levels(count: int, name: str) -> Dataset:
        scaled = (
            (images * (count - 1.0) / 16).round().to(torch.uint8) for images in (tiny.train_images, tiny.test_images)
        )
        train, test = scaled
        return replace(tiny, name=name, levels=count, train_images=train, test_images=test)

    ours, other = with_levels(levels, "ours"), with_levels(to, "kmnist")
    monkeypatch.setattr(other_images, "get_dataset", lambda name: other)
    monkeypatch.setattr(other_images, "image_shape", lambda name: other.shape)
    compare = params.compare.model_copy(update={"other": "kmnist", "samples": 32})
    images, labels = other_images.images_of_each_kind(ours, compare)["kmnist"]
    assert torch.equal(images, ours.test_images)
    assert torch.equal(labels, ours.test_labels)
    assert images.dtype == torch.uint8

    torch.manual_seed(0)
    vae = VAE(params.model.model_copy(update={"latent": 2, "encoder": (8,), "decoder": (8,)}), ours.format()).eval()
    settings = estimator(params.evaluate, vae)
    own, others = (
        other_images.measure(vae, "x", x, labels, compare, settings)["log_px"].to_numpy()
        for x in (ours.test_images, images)
    )
    assert auroc(own, others).value == pytest.approx(0.5)


def test_black_stays_black_and_white_stays_white() -> None:
    assert other_images.rescaled(torch.tensor([0, 1, 15, 16]), 17, 256).tolist() == [0, 16, 239, 255]
    assert other_images.rescaled(torch.tensor([0, 127, 254, 255]), 256, 2).tolist() == [0, 0, 1, 1]


def test_an_estimate_for_each_image_with_the_samples_and_the_seed_of_compare(params: Params, tiny: Dataset) -> None:
    torch.manual_seed(0)
    model = params.model.model_copy(update={"latent": 2, "encoder": (8,), "decoder": (8,)})
    vae = VAE(model, tiny.format()).eval()
    compare = params.compare.model_copy(update={"samples": 32, "seed": 5})
    settings = estimator(params.evaluate, vae)
    images, labels = tiny.test_images[:3], tiny.test_labels[:3]
    table = other_images.measure(vae, "blank", images, labels, compare, settings)
    assert table["kind"].tolist() == ["blank"] * 3
    assert table["label"].tolist() == labels.tolist()
    x = vae.images.read_fixed(images, 5)
    expected = estimate_whole(prepare(vae, x, None, replace(settings, samples=32, budget=32, seed=5)))
    assert table["log_px"].tolist() == expected.log_px.tolist()
    assert table["trusted"].tolist() == expected.trusted.tolist()


def test_baselines_are_means_over_the_images_that_were_evaluated(params: Params, tiny: Dataset) -> None:
    assert isinstance(params.model.sigma, float)
    found = other_images.baselines(tiny, params.model, tiny.format(), images=5, seed=1)
    assert set(found) == {*BASELINES, *(f"{name}_se" for name in BASELINES)}
    x = tiny.format().read_fixed(tiny.test_images, 1)[:5]
    fitted = baselines(
        tiny.train_images.flatten(1), 17, binarised=False, sigma=params.model.sigma, latent=params.model.latent
    )
    for name, density in fitted.items():
        log_px = density.log_prob(x)
        assert found[name] == pytest.approx(float(log_px.mean()), abs=1e-4)
        assert found[f"{name}_se"] == pytest.approx(float(log_px.std()) / 5**0.5, abs=1e-4)


@pytest.mark.parametrize("binarise", ["threshold", "dynamic"])
def test_the_baselines_of_binarised_images_are_fitted_to_the_images_that_the_model_sees(
    params: Params, tiny: Dataset, binarise: Binarise
) -> None:
    seen, model = tiny.format(binarise), params.model.model_copy(update={"observation": "bernoulli"})
    found = other_images.baselines(tiny, model, seen, images=5, seed=1)
    binary = [name for name, baseline in BASELINES.items() if baseline.binarised]
    assert set(found) == {*binary, *(f"{name}_se" for name in binary)}
    assert found["uniform"] == pytest.approx(-30 * math.log(2), abs=1e-4)
    # Log P(v) of v as read for measuring, by counting one pixel of the training images at a time.
    train, test = seen.values_fixed(tiny.train_images).double(), seen.values_fixed(tiny.test_images)[:5].double()
    white = (train.sum(0) + 0.5) / (len(train) + 1)
    expected = (test * white.log() + (1 - test) * (1 - white).log()).sum(1).mean()
    assert found["histogram"] == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "has"),
    [({}, True), ({"sigma": "learned"}, False), ({"observation": "logistic"}, False)],
)
def test_a_baseline_with_the_models_sigma_needs_a_fixed_one(
    params: Params, tiny: Dataset, changes: dict[str, str], has: bool
) -> None:
    found = other_images.baselines(tiny, params.model.model_copy(update=changes), tiny.format(), images=5, seed=1)
    assert ("independent" in found) == has
    assert {"ppca", "histogram", "uniform"} <= set(found)


def test_the_baselines_of_one_image_have_no_standard_error(params: Params, tiny: Dataset) -> None:
    assert set(other_images.baselines(tiny, params.model, tiny.format(), images=1, seed=1)) == set(BASELINES)
