"""Studies: grids that params.yaml allows, experiments that are not run twice, pages that open offline."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import datasets, trained
from pipeline.checkpoint import Description
from pipeline.config import Model, load
from pipeline.datasets import Dataset
from pipeline.vae import VAE
from studies import __main__ as runner
from studies import page
from studies.grids import STUDIES


def value_of(text: str) -> Any:
    return json.loads(text) if text[0] in "[0123456789" else text


@pytest.mark.parametrize("name", list(STUDIES))
def test_every_experiment_of_a_grid_is_allowed(name: str, small_params: Callable[..., Path]) -> None:
    study = STUDIES[name]
    for value in study.values:
        settings = [*study.settings, f"{study.parameter}={value:g}"]
        changes = {key.replace(".", "__"): value_of(text) for key, _, text in (s.partition("=") for s in settings)}
        load(small_params(**changes))


def outcome(log_px: float) -> dict[str, Any]:
    names = ("log_px_se", "elbo", "elbo_se", "reconstruction", "kl", "ess_median", "image_se_median")
    test = dict.fromkeys((*names, "evaluations_mean"), 3.0) | {"log_px": log_px, "images": 20, "trusted": 0.5}
    return {"rev": "abc", "metrics": {"reports/metrics/evaluate.json": {"data": {"test": test}}}}


@pytest.mark.parametrize("name", list(STUDIES))
def test_a_page_has_every_value_its_failures_and_nothing_from_outside(
    name: str, tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    datasets.save(Path("data/images.safetensors"), tiny)
    settings = Model(latent=2, encoder=(4,), decoder=(4,), activation="relu", sigma=0.1)
    torch.manual_seed(0)
    description = Description(model=settings, height=6, width=5, levels=17, dataset="tiny", data_sha256="d", epoch=1)
    model = trained.Trained(VAE(settings, 30).eval(), description, "m")
    monkeypatch.setattr(page, "_model", lambda rev: model)
    outcomes = {32.0: outcome(-1.25), 64.0: outcome(12.5), 128.0: "epoch 3: <the ELBO> is no longer finite"}
    page.write(name, STUDIES[name], outcomes, Path("reports/studies"))

    html = Path(f"reports/studies/{name}.html").read_text(encoding="utf-8")
    assert re.findall(r'(?:src|href)="(?!data:)[^"]*"', html) == []
    assert "<script" not in html
    assert "&lt;the ELBO&gt; is no longer finite" in html
    markdown = Path(f"reports/studies/{name}.md").read_text(encoding="utf-8")
    for text in ("| 32 | -1.2", "| 64 | 12.5", "| 128 | epoch 3"):
        assert text in markdown
    numbers = json.loads(Path(f"reports/studies/{name}.json").read_text(encoding="utf-8"))
    assert [row["log_px"] for row in numbers["experiments"]] == [-1.25, 12.5]
    assert list(numbers["failed"]) == ["128"]
    for picture in (f"{name}.png", f"{name}_images.png"):
        assert (Path("reports/studies") / picture).stat().st_size > 5000


def test_an_experiment_that_is_there_with_the_same_settings_is_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    params = {"model": {"latent": 4}, "verify": {"curve_temperatures": [10, 30]}}
    there = {"latent-4": {"params": {"params.yaml": {"data": params}}}}
    monkeypatch.setattr(runner, "experiments", lambda: there)
    assert runner.agrees(there["latent-4"], "model.latent=4")
    assert runner.agrees(there["latent-4"], "verify.curve_temperatures=[10,30]")
    assert not runner.agrees(there["latent-4"], "model.latent=8")
    assert not runner.agrees(there["latent-4"], "model.sigma=0.1")
