"""A trained model in use: it draws, encodes and measures what the stages draw, encode and measure."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from logpx import estimate
from pipeline.data.dataset import load_dataset
from pipeline.data.image_format import ImageFormat
from pipeline.errors import UserError
from pipeline.evaluation.settings import data, joint
from pipeline.model.checkpoint import Description, TrainedModel
from pipeline.model.vae import VAE
from pipeline.storage.tables import read_parquet
from pipeline.use.functions import check_images, draw, encode, load, measure, reconstruct
from tests.support import model_settings, moved

DATA = Path("data/images.safetensors")
SHARES = (0.5, 0.0, 0.25, 0.25)  # of a conditional model's classes; no image has the class 1


def made(observation: str = "logistic", **settings: Any) -> TrainedModel:
    """A model of 5 × 4 pixels with 17 levels, with random weights."""
    model = model_settings(latent=2, encoder=[8], decoder=[8], couplings=2, observation=observation, **settings)
    vae = moved(VAE(model, ImageFormat(5, 4, 17), SHARES), 0.2).eval()
    description = Description(
        model=model, height=5, width=4, grey_levels=17, binarise="none", shares=vae.shares, dataset="made",
        data_sha256="", epoch=1, validation=0.1, seed=0,
    )  # fmt: skip
    return TrainedModel(vae, description, "")


def images(count: int = 3) -> Tensor:
    return torch.randint(0, 17, (count, 5, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_test_images_get_the_numbers_of_the_stage_evaluate(workspace: Path) -> None:
    """Within the errors: the stage takes its numbers of samples from params.yaml."""
    model = load()
    found = measure(model, load_dataset(DATA).test_images[:4])
    table = read_parquet(Path("reports/images.parquet"), "log_px", "log_px_se")[:4]
    assert list(found) == ["log_px", "log_px_se", "bits_per_dim", "trusted"]
    error = (found["log_px_se"] ** 2 + table["log_px_se"] ** 2) ** 0.5
    assert np.all(np.abs(found["log_px"] - table["log_px"]) < 4 * error + 0.01)
    assert found["bits_per_dim"].tolist() == [model.vae.images.bits_per_dim(nats) for nats in found["log_px"]]
    pd.testing.assert_frame_equal(measure(load("models/vae.safetensors"), load_dataset(DATA).test_images[:4]), found)


def test_log_px_of_a_conditional_model_is_the_sum_over_its_labels() -> None:
    model, x = made(condition="label", prior="flow"), images()
    found = measure(model, x, seed=3)
    seen = model.vae.images.read_fixed(x, 3)
    terms = []
    for label, share in enumerate(SHARES):
        if share:
            y = torch.full((len(x),), label)
            one = estimate(joint(model.vae), data(model.vae, seen, y), latent=2, start=model.vae.encode(seen, y))
            terms.append(one.log_px + torch.tensor(share).log())
    exact = torch.stack(terms)
    assert list(found) == ["log_px", "log_px_se", "bits_per_dim", "trusted", "predicted"]
    assert found["log_px"].to_numpy() == pytest.approx(exact.logsumexp(0).numpy(), abs=0.5)
    assert found["predicted"].tolist() == torch.tensor([0, 2, 3])[exact.argmax(0)].tolist()
    assert found["trusted"].tolist() == [True] * 3


@pytest.mark.parametrize("condition", ["none", "label"])
def test_images_are_drawn_from_the_prior_by_the_seed(condition: str) -> None:
    model = made(condition=condition, prior="flow")
    drawn = draw(model, 7, seed=5)
    assert (drawn.shape, drawn.dtype) == ((7, 5, 4), torch.uint8)
    assert torch.equal(drawn, draw(model, 7, seed=5))
    assert not torch.equal(drawn, draw(model, 7, seed=6))
    noise = torch.randn(7, 2, generator=torch.Generator().manual_seed(5))
    asked = torch.tensor([0, 2, 3, 0, 2, 3, 0]) if condition == "label" else None
    with torch.no_grad():
        mean = model.vae.generate(noise, asked).mean.view(7, 5, 4)
    # A level v stands for x = (v + ½) / 17.
    assert (drawn.double() - (mean.double() * 17 - 0.5)).abs().max() <= 0.5 + 1e-4


def test_a_digit_can_be_asked_for() -> None:
    model = made(condition="label")
    noise = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    for digit in (0, 2):
        with torch.no_grad():
            mean = model.vae.generate(noise, torch.full((3,), digit)).mean.view(3, 5, 4)
        assert (draw(model, 3, digit).double() - (mean.double() * 17 - 0.5)).abs().max() <= 0.5 + 1e-4
    assert not torch.equal(draw(model, 3, 0), draw(model, 3, 2))


@pytest.mark.parametrize("condition", ["none", "label"])
def test_images_are_encoded_and_decoded(condition: str) -> None:
    model, x, labels = made(condition=condition), images(), [2, 0, 3] if condition == "label" else None
    y = None if labels is None else torch.tensor(labels)
    q = model.vae.encoder((x.flatten(1) + 0.5) / 17, y)
    mean, deviation = encode(model, x, labels)
    assert torch.equal(mean, q.mean)
    assert torch.equal(deviation, q.stddev)
    decoded = model.vae.decoder(q.mean, y).mean.detach().view(3, 5, 4)
    found = reconstruct(model, x, labels)
    assert found.dtype == torch.uint8
    assert (found.double() - (decoded.double() * 17 - 0.5)).abs().max() <= 0.5 + 1e-4


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (images().flatten(1), r"images are torch.uint8 of shape \(3, 20\)"),
        (images()[:, :4], r"shape \(3, 4, 4\), not uint8 of shape \(images, 5, 4\)"),
        (images() + 100, "levels up to 116; this model knows 0 to 16"),
        (images(0), "there are no images"),
    ],
)
def test_images_of_another_kind_are_refused(wrong: Tensor, message: str) -> None:
    for use in (encode, reconstruct, measure):
        with pytest.raises(UserError, match=message):
            use(made(), wrong)


def test_images_of_another_type_are_refused() -> None:
    with pytest.raises(UserError, match=r"images are torch.float32 .*, not uint8"):
        check_images(made().vae.images, images().float())


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, r"needs the label of each image: one of \[0, 2, 3\]"),
        ([0, 1, 2], r"label 1: this model knows \[0, 2, 3\]"),
        ([0], "1 labels for 3 images"),
    ],
)
def test_wrong_labels_are_refused(labels: list[int] | None, message: str) -> None:
    for use in (encode, reconstruct):
        with pytest.raises(UserError, match=message):
            use(made(condition="label"), images(), labels)


def test_a_model_without_labels_cannot_be_asked_for_a_digit() -> None:
    with pytest.raises(UserError, match=r"this model knows no labels.*model\.condition=label"):
        draw(made(), 3, digit=7)
    with pytest.raises(UserError, match=r"label 7: this model knows \[0, 2, 3\]"):
        draw(made(condition="label"), 3, digit=7)


def test_a_model_that_is_nowhere_is_an_error(workspace: Path) -> None:
    with pytest.raises(UserError, match="model nowhere is neither a file nor a revision"):
        load("nowhere")
    Path("models/vae.safetensors").unlink()
    with pytest.raises(UserError, match=r"models/vae.safetensors is missing; run `dvc repro`"):
        load()


@pytest.mark.slow
def test_a_model_of_a_revision_comes_from_the_cache_of_dvc(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clone)
    assert load("HEAD").sha256 == load().sha256
