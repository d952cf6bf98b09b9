"""A record of a model: from the files of a run, and refused if they do not belong together."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.config import load_params, read_yaml
from pipeline.data.dataset import load_dataset
from pipeline.data.image_format import ImageFormat
from pipeline.errors import UserError
from pipeline.evaluation.samples import grey_sample
from pipeline.model.checkpoint import Description, TrainedModel, load_model
from pipeline.model.vae import VAE
from pipeline.report import plotting
from studies import records
from tests.pipeline.report.artists import cell, texts
from tests.studies.fabricated import record, write
from tests.support import ROOT, model_settings, write_params
from tools.clones import sh


@pytest.fixture(scope="module")
def made(results: Path) -> records.Record:
    """The record of the smallest run."""
    return records.make("fast", results, None, train_seconds=12.5, revision="abc")[0]


def test_a_record_has_what_the_stages_measured(results: Path, made: records.Record) -> None:
    metrics = {name: json.loads((results / path).read_text()) for name, path in records.METRICS.items()}
    test, compare = metrics["evaluate"]["test"], metrics["compare"]["compare"]
    for key in ("images", "log_px", "log_px_se", "bits_per_dim", "elbo", "gap", "kl", "trusted", "active_units"):
        assert getattr(made, key) == test[key], key
    for part in ("train", "validation"):
        assert getattr(made, f"{part}_log_px") == metrics["evaluate"][part]["log_px"]
    assert made.histogram == compare["histogram"]
    assert made.above_histogram == pytest.approx(test["log_px"] - compare["histogram"], abs=1e-3)
    sample = metrics["sample"]["sample"]
    for key in ("recognised", "recognised_se", "recognised_real", "frechet", "frechet_real"):
        assert getattr(made, key) == sample[key], key
    # What only a conditional model has.
    assert (made.asked_for, made.log_px_given_label, made.accuracy) == (None, None, None)
    assert set(made.baselines) == {"uniform", "variances", "covariance", "histogram"}
    assert made.training_environment == metrics["train"]["environment"]
    assert (made.name, made.dataset, made.binarise, made.revision) == ("fast", "digits", "none", "abc")
    assert (made.train_seconds, made.epochs, made.latent) == (12.5, 2, 3)
    # Encoder 64-16-6, decoder 3-16-64, with biases.
    assert made.parameters == 64 * 16 + 16 + 16 * 6 + 6 + 3 * 16 + 16 + 16 * 64 + 64


def test_a_record_has_the_settings_that_differ_from_the_default(results: Path, made: records.Record) -> None:
    default, used = read_yaml(ROOT / "params.yaml"), read_yaml(results / "params.yaml")
    assert made.settings["data"] == {"name": "digits"}
    assert made.settings["model"] == {"latent": 3, "encoder": [16], "decoder": [16]}
    assert "tracking" not in made.settings  # the run has no tracking, which changes no result
    assert default["tracking"] != used["tracking"]
    assert records.changed_settings(default, default) == {}


def test_a_record_is_the_same_after_writing_and_reading(tmp_path: Path, made: records.Record) -> None:
    write(tmp_path, made, record("good", 3650.0))
    found = records.read(tmp_path, ["good", "fast", "missing"])
    assert found == {"good": record("good", 3650.0), "fast": made}
    assert (tmp_path / "fast.png").read_bytes().startswith(b"\x89PNG")


def test_a_record_of_older_code_has_no_numbers_of_samples(tmp_path: Path) -> None:
    older = record("good", 3650.0).model_dump(mode="json")
    for key in (*records.CONDITIONAL, *records.JUDGED):
        assert older.pop(key) is None
    (tmp_path / "good.json").write_text(json.dumps(older))
    assert records.read(tmp_path, ["good"]) == {"good": record("good", 3650.0)}


@pytest.mark.parametrize("content", ["{", "[]", '{"name": "good"}', '{"unknown": 3}'])
def test_a_record_of_another_version_is_left_out_with_a_warning(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "good.json").write_text(content)
    assert records.read(tmp_path, ["good"]) == {}
    assert "good.json is no record of this version" in capsys.readouterr().err


def test_the_time_of_a_training_belongs_to_its_weights(results: Path, made: records.Record) -> None:
    """If the training comes from a cache, nothing was timed, and the last record of the same weights knows the time."""
    assert records.make("fast", results, None)[0].train_seconds is None
    assert records.make("fast", results, made)[0].train_seconds == 12.5
    other = made.model_copy(update={"model_sha256": "1" * 64})
    assert records.make("fast", results, other)[0].train_seconds is None
    assert records.make("fast", results, made, train_seconds=3.0)[0].train_seconds == 3.0


@pytest.mark.parametrize(
    ("output", "seconds"),
    [
        ("epoch 1/1\ntraining took 61 s\nELBO: 3\n", 61.0),
        ("training took 1.5 s\ntraining took 2.5 s\n", 2.5),
        ("Stage 'train' is cached - skipping run\n", None),
        ("the training took 3 s\n", None),
    ],
)
def test_the_time_of_a_training_is_what_the_stage_printed(output: str, seconds: float | None) -> None:
    assert records.seconds_of_training(output) == seconds


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"model__activation": "tanh"}, "model"),
        ({"train__seed": 7}, "train.seed"),
        ({"data__name": "mnist"}, "data.name"),
    ],
)
def test_a_model_of_other_settings_is_refused(workspace: Path, change: dict[str, object], key: str) -> None:
    write_params(workspace / "params.yaml", **change)
    with pytest.raises(UserError, match=rf"trained with other settings than .*params.yaml has \({key}\)"):
        records.make("fast", workspace, None)


def test_a_model_without_its_data_set_is_refused(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The pictures need it. It may be in the current folder, if the run's folder has none."""
    folder = tmp_path_factory.mktemp("run")
    for path in records.FILES:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(workspace / path, folder / path)
    assert records.make("fast", folder, None)[0].dataset == "digits"
    (workspace / records.DATA).unlink()
    with pytest.raises(UserError, match="is not the data set digits that the model was trained on"):
        records.make("fast", folder, None)


def test_metrics_of_older_code_are_refused(workspace: Path) -> None:
    path = workspace / records.METRICS["compare"]
    metrics = json.loads(path.read_text())
    del metrics["compare"]["histogram"]
    path.write_text(json.dumps(metrics))
    with pytest.raises(UserError, match="have no histogram; run the stages again with this code"):
        records.make("fast", workspace, None)


def test_the_picture_has_images_reconstructions_and_two_kinds_of_samples(results: Path) -> None:
    model = load_model(results / records.MODEL, torch.device("cpu"))
    dataset = load_dataset(results / records.DATA)
    (panel,) = records.picture(model, dataset).axes
    assert len(texts(panel.get_yticklabels())) == 4
    first, reconstruction, mean, drawn = (cell(panel, row, 0, 8, 8) for row in range(4))
    assert first == pytest.approx(dataset.test_images[0].numpy() / 16)
    with torch.no_grad():
        x = model.vae.images.read_clean(dataset.test_images[:1])
        assert reconstruction.flatten() == pytest.approx(model.vae.decoder(model.vae.encoder(x).mean).mean[0], abs=1e-6)
    assert not np.allclose(mean, drawn)
    assert np.allclose(drawn * 16, np.round(drawn * 16))  # grey levels
    # The sample has the mean's shape: 64 pixels with σ = 0.07 differ from it by at most 5 σ, fixed by the seed.
    sigma = load_params(results / "params.yaml").model.sigma
    assert isinstance(sigma, float)
    assert np.abs(np.clip(mean, 0, 1) - drawn).max() < 5 * sigma + 1 / 16


def test_the_samples_of_a_model_are_written_and_read(results: Path, tmp_path: Path, made: records.Record) -> None:
    model = load_model(results / records.MODEL, torch.device("cpu"))
    drawn = records.draw_samples(model, (8, 8))
    noise = torch.randn(10, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert drawn.reshape(10, 64) == pytest.approx(model.vae.decoder(noise).mean.numpy(), abs=1e-6)
    pictures = records.make("fast", results, None)[1]
    records.write(made, pictures, tmp_path)
    assert plotting.read_strip(tmp_path / "fast_samples.png", 10) == pytest.approx(drawn, abs=0.5 / 255 + 1e-6)


def conditional(prior: str) -> TrainedModel:
    """A conditional model of 8 × 8 pixels and three classes, of which one has no training image."""
    torch.manual_seed(0)
    settings = model_settings(latent=2, encoder=[4], decoder=[4], sigma=0.1, prior=prior, condition="label")
    description = Description(
        model=settings, height=8, width=8, grey_levels=17, binarise="none", shares=(0.5, 0.0, 0.5), dataset="digits",
        data_sha256="d", epoch=1, validation=0.1, seed=0,
    )  # fmt: skip
    vae = VAE(settings, description.images, description.shares).eval()
    with torch.no_grad():  # a flow is the identity before training
        for parameter in vae.prior.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return TrainedModel(vae, description, "m")


@pytest.mark.parametrize("prior", ["normal", "flow"])
def test_a_conditional_model_is_asked_for_each_class_in_turn(results: Path, prior: str) -> None:
    model, dataset = conditional(prior), load_dataset(results / records.DATA)
    vae = model.vae
    dataset = replace(dataset, test_labels=dataset.test_labels % 2 * 2)
    (panel,) = records.picture(model, dataset).axes
    assert texts(panel.get_yticklabels())[2].startswith("each class in turn")
    noise, asked = torch.randn(12, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2] * 6)
    x, y = model.vae.images.read_clean(dataset.test_images[:12]), dataset.test_labels[:12].long()
    with torch.no_grad():
        samples = vae.decoder(vae.prior.from_noise(noise, asked), asked).mean.numpy()
        reconstructions = vae.decoder(vae.encoder(x, y).mean, y).mean.numpy()
    for column in (0, 5):
        assert cell(panel, 1, column, 8, 8).flatten() == pytest.approx(reconstructions[column], abs=1e-6)
        assert cell(panel, 2, column, 8, 8).flatten() == pytest.approx(samples[column], abs=1e-6)


def test_black_and_white_images_are_drawn_black_and_white() -> None:
    x = torch.tensor([[0.1, 0.49, 0.5, 0.99]])
    binarised = ImageFormat(1, 4, 256, "dynamic")
    assert grey_sample(x, binarised, discrete=True).tolist() == [[0, 0, 1, 1]]


def test_a_revision_is_of_the_folder_that_has_the_code(tmp_path: Path) -> None:
    assert records.revision_of(tmp_path) is None
    sh(tmp_path, "git", "init", "-q")
    for key, value in {"user.email": "nobody@example.org", "user.name": "Nobody"}.items():
        sh(tmp_path, "git", "config", key, value)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    sh(tmp_path, "git", "add", ".")
    sh(tmp_path, "git", "commit", "-q", "-m", "first")
    commit = sh(tmp_path, "git", "rev-parse", "HEAD").strip()
    assert records.revision_of(tmp_path) == commit
    (tmp_path / "notes.txt").write_text("changes no result")
    assert records.revision_of(tmp_path) == commit
    inside = tmp_path / "outputs"
    inside.mkdir()
    assert records.revision_of(inside) is None
    (tmp_path / "params.yaml").write_text("model: {}\n")
    assert records.revision_of(tmp_path) == f"{commit}-dirty"
