"""The page of a study."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.data.dataset import Dataset, save_dataset
from pipeline.errors import UserError
from pipeline.model.checkpoint import Description, TrainedModel, save_checkpoint
from pipeline.model.vae import VAE
from studies import page
from studies.grids import STUDIES
from tests.pipeline.report.artists import cell, texts
from tests.support import model_settings
from tools import presets


def outcome(log_px: float) -> dict[str, Any]:
    """What `dvc exp show` has of an experiment."""
    names = ("log_px_se", "bits_per_dim", "elbo", "elbo_se", "reconstruction", "kl", "ess_median", "image_se_median")
    test = dict.fromkeys((*names, "evaluations_mean"), 3.0) | {"log_px": log_px, "images": 20, "trusted": 0.5}
    return {"rev": "abc", "metrics": {"reports/metrics/evaluate.json": {"data": {"test": test}}}}


@pytest.fixture
def model(tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainedModel:
    """A model of the data set that is in the current folder."""
    monkeypatch.chdir(tmp_path)
    save_dataset(Path("data/images.safetensors"), tiny)
    settings = model_settings(latent=2, encoder=[4], decoder=[4], activation="relu", sigma=0.1)
    torch.manual_seed(0)
    description = Description(
        model=settings, height=6, width=5, grey_levels=17, binarise="none", shares=(), dataset="tiny", data_sha256="d",
        epoch=1, validation=0.1, seed=0,
    )  # fmt: skip
    return TrainedModel(VAE(settings, tiny.format()).eval(), description, "m")


def changed(model: TrainedModel, tiny: Dataset, **changes: Any) -> TrainedModel:
    """A model with other settings."""
    settings = model.description.model.model_copy(update=changes)
    torch.manual_seed(0)
    vae = VAE(settings, tiny.format(), tiny.class_shares()).eval()
    with torch.no_grad():  # a flow is the identity before training
        for parameter in vae.prior.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model._replace(vae=vae, description=model.description.model_copy(update={"model": settings}))


@pytest.mark.parametrize("name", list(STUDIES))
def test_a_page_has_every_value_and_every_failure_and_loads_nothing(
    name: str, model: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "load_experiment_model", lambda rev: model)
    monkeypatch.setattr(page, "revision_of", lambda folder: "0123abc")
    outcomes = {32.0: outcome(-1.25), 64.0: outcome(12.5), 128.0: "epoch 3: <the ELBO> is no longer finite"}
    page.write(name, STUDIES[name], outcomes, Path("reports/studies"))

    html = Path(f"reports/studies/{name}.html").read_text(encoding="utf-8")
    assert re.findall(r'(?:src|href)="(?!data:)[^"]*"', html) == []
    assert "<script" not in html
    assert "&lt;the ELBO&gt; is no longer finite" in html
    assert "Revision 0123abc." in html
    markdown = Path(f"reports/studies/{name}.md").read_text(encoding="utf-8")
    for text in (
        STUDIES[name].story,
        "| 32 | −1.2",
        "| 64 | 12.5 ± 3.0 | 3.00 | ",
        "| 128 | epoch 3",
        f"({name}_images.png)",
        "from revision 0123abc.",
    ):
        assert text in markdown
    numbers = json.loads(Path(f"reports/studies/{name}.json").read_text(encoding="utf-8"))
    assert [row["log_px"] for row in numbers["experiments"]] == [-1.25, 12.5]
    assert list(numbers["failed"]) == ["128"]
    assert numbers["revision"] == "0123abc"
    for picture in (f"{name}.png", f"{name}_images.png"):
        assert (Path("reports/studies") / picture).read_bytes().startswith(b"\x89PNG")


def test_experiments_on_one_image_have_no_standard_error(model: TrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "load_experiment_model", lambda rev: model)
    one = outcome(-1.25)
    test = one["metrics"]["reports/metrics/evaluate.json"]["data"]["test"]
    for name in [name for name in test if name.endswith("_se")]:
        del test[name]
    page.write("latent", STUDIES["latent"], {2.0: one, 4.0: outcome(12.5)}, Path("reports/studies"))
    markdown = Path("reports/studies/latent.md").read_text(encoding="utf-8")
    assert "| 2 | −1.2 ± – | 3.00 | 3.0 ± – |" in markdown
    assert "| 4 | 12.5 ± 3.0 | 3.00 | 3.0 ± 3.0 |" in markdown
    rows = json.loads(Path("reports/studies/latent.json").read_text(encoding="utf-8"))["experiments"]
    assert [row["log_px_se"] for row in rows] == [None, 3.0]


def test_each_experiment_has_a_row_of_reconstructions_and_samples(model: TrainedModel, tiny: Dataset) -> None:
    (panel,) = page.draw_images(STUDIES["latent"], {2.0: model, 4.0: model}).axes
    assert texts(panel.get_yticklabels()) == ["test images", "2", "4"]
    cells = [[cell(panel, row, column, 6, 5) for column in range(16)] for row in range(3)]
    x = (tiny.test_images[:6].flatten(1) + 0.5) / 17
    for column in range(6):
        assert cells[0][column].flatten() == pytest.approx(x[column].numpy())
        decoded = model.vae.decoder(model.vae.encoder(x[column : column + 1]).mean).mean[0]
        assert cells[1][column].flatten() == pytest.approx(decoded.detach().numpy(), abs=1e-6)
    assert not any(image.any() for image in cells[0][6:])  # test images have no samples
    assert not cells[1][6].any()  # the gap
    assert all(np.array_equal(one, other) for one, other in zip(cells[1], cells[2], strict=True))


def test_a_model_comes_from_the_cache_of_dvc(
    model: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path / "cached", model.vae.state_dict(), model.description)
    dvc = tmp_path / "bin/dvc"
    dvc.parent.mkdir()
    dvc.write_text(f'#!/bin/sh\n[ "$6" = known ] && cp {tmp_path}/cached "$8" || {{ echo gone >&2; exit 1; }}\n')
    dvc.chmod(0o755)
    monkeypatch.setattr(presets, "DVC", [str(dvc)])
    loaded = page.load_experiment_model("known")
    assert loaded.description == model.description
    with pytest.raises(
        UserError, match=r"models/vae.safetensors of other is not in DVC's cache: gone; remove the experiment"
    ):
        page.load_experiment_model("other")


def test_a_learned_sigma_is_the_one_that_was_learned(
    model: TrainedModel, tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned = changed(model, tiny, sigma="learned")
    assert learned.vae.decoder.log_sigma is not None
    with torch.no_grad():
        learned.vae.decoder.log_sigma.fill_(np.log(0.125))
    monkeypatch.setattr(page, "load_experiment_model", lambda rev: learned)
    page.write("latent", STUDIES["latent"], {2.0: outcome(-1.25), 4.0: outcome(12.5)}, Path("reports/studies"))
    rows = json.loads(Path("reports/studies/latent.json").read_text(encoding="utf-8"))["experiments"]
    assert [row["sigma"] for row in rows] == pytest.approx([0.125, 0.125])


def test_a_study_of_models_without_sigma_has_a_page(
    model: TrainedModel, tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    logistic = changed(model, tiny, observation="logistic")
    monkeypatch.setattr(page, "load_experiment_model", lambda rev: logistic)
    page.write("latent", STUDIES["latent"], {2.0: outcome(-1.25), 4.0: outcome(12.5)}, Path("reports/studies"))
    rows = json.loads(Path("reports/studies/latent.json").read_text(encoding="utf-8"))["experiments"]
    assert [row["sigma"] for row in rows] == [None, None]


def test_images_of_a_conditional_model_with_a_flow_have_their_labels(model: TrainedModel, tiny: Dataset) -> None:
    conditional = changed(model, tiny, prior="flow", condition="label")
    vae = conditional.vae
    (panel,) = page.draw_images(STUDIES["latent"], {2.0: conditional}).axes
    x, y = (tiny.test_images[:6].flatten(1) + 0.5) / 17, tiny.test_labels[:6].long()
    noise = torch.randn(9, 256, generator=torch.Generator().manual_seed(0))[:, :2]
    asked = torch.arange(9) % 5
    with torch.no_grad():
        decoded = vae.decoder(vae.encoder(x, y).mean, y).mean
        samples = vae.decoder(vae.prior.from_noise(noise, asked), asked).mean
    assert cell(panel, 1, 4, 6, 5).flatten() == pytest.approx(decoded[4].numpy(), abs=1e-6)
    for column in (0, 6):
        assert cell(panel, 1, 7 + column, 6, 5).flatten() == pytest.approx(samples[column].numpy(), abs=1e-6)


def repeated(log_px: float, recognised: float) -> dict[str, Any]:
    """An outcome whose samples were judged."""
    found = outcome(log_px)
    sample = {"recognised": recognised, "recognised_se": 0.005}
    found["metrics"]["reports/metrics/sample.json"] = {"data": {"sample": sample}}
    return found


def test_repetitions_have_the_spread_between_them_beside_the_error_over_images(
    model: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 855, 858 and 861 the standard deviation is 3; fabricated errors over images are 3 nats and 0.5 %."""
    monkeypatch.setattr(page, "load_experiment_model", lambda rev: model)
    outcomes = {0.0: repeated(855.0, 0.3), 1.0: repeated(858.0, 0.4), 2.0: repeated(861.0, 0.5)}
    page.write("seeds", STUDIES["seeds"], outcomes, Path("reports/studies"))
    markdown = Path("reports/studies/seeds.md").read_text(encoding="utf-8")
    assert "| log p(x) | 3 | 858.0 | 3.00 | 3.00 |" in markdown
    assert "| recognised, % | 3 | 40.0 | 10.00 | 0.50 |" in markdown
    html = Path("reports/studies/seeds.html").read_text(encoding="utf-8")
    assert "<td>858.0</td><td>3.00</td><td>3.00</td>" in html
    spreads = json.loads(Path("reports/studies/seeds.json").read_text(encoding="utf-8"))["spread"]
    assert [(row["name"], row["between_seeds"]) for row in spreads] == [
        ("log_px", 3.0), ("elbo", 0.0), ("recognised", pytest.approx(10.0)),
    ]  # fmt: skip


def test_one_repetition_has_no_spread_and_a_failed_one_does_not_count(
    model: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "load_experiment_model", lambda rev: model)
    outcomes = {0.0: outcome(855.0), 1.0: "epoch 3: the ELBO is no longer finite"}
    page.write("seeds", STUDIES["seeds"], outcomes, Path("reports/studies"))
    markdown = Path("reports/studies/seeds.md").read_text(encoding="utf-8")
    assert "| log p(x) | 1 | 855.0 | – | 3.00 |" in markdown
    assert "recognised" not in markdown.partition("standard deviation between seeds")[2]


def test_other_studies_have_no_spread(model: TrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their experiments differ by more than chance."""
    monkeypatch.setattr(page, "load_experiment_model", lambda rev: model)
    page.write("latent", STUDIES["latent"], {2.0: repeated(1.0, 0.3), 4.0: repeated(2.0, 0.4)}, Path("reports/studies"))
    assert "between seeds" not in Path("reports/studies/latent.md").read_text(encoding="utf-8")
    assert "spread" not in json.loads(Path("reports/studies/latent.json").read_text(encoding="utf-8"))
