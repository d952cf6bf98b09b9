"""Images unlike the data: their kinds, their log p(x), and baselines with closed forms beside the model."""

import pytest
import torch

from pipeline.config import Params
from pipeline.data.dataset import Dataset
from pipeline.data.dequantise import dequantised
from pipeline.data.probes import PROBES
from pipeline.errors import UserError
from pipeline.evaluation import other_images
from pipeline.evaluation.baselines import BASELINES, moments
from pipeline.evaluation.settings import estimator
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


def test_an_estimate_for_each_image_with_the_samples_of_compare(params: Params, tiny: Dataset) -> None:
    torch.manual_seed(0)
    model = params.model.model_copy(update={"latent": 2, "encoder": (8,), "decoder": (8,)})
    vae = VAE(model, tiny.pixels).eval()
    compare = params.compare.model_copy(update={"samples": 32})
    table = other_images.measure(
        vae, "blank", tiny.test_images[:3], tiny.test_labels[:3], tiny.levels, compare, estimator(params.evaluate, vae)
    )
    assert table["kind"].tolist() == ["blank"] * 3
    assert table["label"].tolist() == tiny.test_labels[:3].tolist()
    assert bool(table["log_px"].notna().all())


def test_baselines_are_means_over_the_images_that_were_evaluated(params: Params, tiny: Dataset) -> None:
    found = other_images.baselines(tiny, params.model, images=5, seed=1)
    assert set(found) == {*BASELINES, *(f"{name}_se" for name in BASELINES)}
    train = moments(tiny.train_images.flatten(1), tiny.levels)
    x = dequantised(tiny.test_images, tiny.levels, 1)[:5]
    log_px = BASELINES["ppca"](train, params.model.sigma, params.model.latent).log_prob(x)
    assert found["ppca"] == pytest.approx(float(log_px.mean()), abs=1e-4)
    assert found["ppca_se"] == pytest.approx(float(log_px.std()) / 5**0.5, abs=1e-4)
