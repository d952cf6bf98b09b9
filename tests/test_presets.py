"""Presets change only keys that params.yaml has, to values that it allows."""

import itertools
import re
from pathlib import Path

import pytest

from pipeline.config import ParameterError, Params, check_params, read_yaml
from studies.rungs import DEFAULT, RUNGS
from tests.support import ROOT
from tools import presets

COST = re.compile(r"\b(seconds|minutes?|hours?)\b")


@pytest.mark.parametrize("name", presets.names())
def test_a_preset_is_valid_and_says_what_it_is_for_and_what_it_costs(name: str) -> None:
    assert presets.load(name)
    lines = (ROOT / f"presets/{name}.yaml").read_text(encoding="utf-8").splitlines()
    comment = list(itertools.takewhile(lambda line: line.startswith("# "), lines))
    assert 1 <= len(comment) <= 3
    assert COST.search(" ".join(comment))


@pytest.mark.parametrize("name", [name for name in RUNGS if name != DEFAULT])
def test_every_model_of_the_study_is_a_preset_that_names_its_source(name: str) -> None:
    assert "# Source: " in (ROOT / f"presets/{name}.yaml").read_text(encoding="utf-8")


def test_the_models_of_published_results_are_as_published() -> None:
    """Wu et al. 2017; Burda et al. 2016, section 5; Townsend et al. 2019, section 3.2."""

    def of(name: str) -> Params:
        return check_params(ROOT / "params.yaml", presets.merge(read_yaml(ROOT / "params.yaml"), presets.load(name)))

    wu, iwae, bb_ans = of("published").model, of("iwae"), of("bb_ans").model
    assert (wu.network, wu.latent, wu.decoder, wu.observation) == ("mlp", 50, (1024, 1024, 1024), "gaussian")
    assert isinstance(wu.sigma, float)
    assert wu.sigma**2 == pytest.approx(0.005, rel=1e-6)
    assert (iwae.model.latent, iwae.model.encoder, iwae.model.decoder) == (50, (200, 200), (200, 200))
    assert (iwae.model.activation, iwae.data.binarise) == ("tanh", "dynamic")
    assert iwae.train.objective == "iwae"
    assert 1 < iwae.train.samples < 50  # published: 50
    assert (bb_ans.latent, bb_ans.encoder, bb_ans.decoder) == (50, (200,), (200,))
    assert (bb_ans.activation, bb_ans.observation) == ("relu", "beta_binomial")


def written(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> str:
    """Write a preset and return its name."""
    monkeypatch.setattr(presets, "FOLDER", folder)
    (folder / "mine.yaml").write_text(text, encoding="utf-8")
    return "mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {latnet: 3}", "model.latnet: unknown key; did you mean model.latent?"),
        ("modle: {latent: 3}", "modle: unknown key; did you mean model?"),
        ("model: {latent: 0}", "model.latent = 0: input should be greater than or equal to 1"),
        ("model: {epochs: 3}", "model.epochs: unknown key; did you mean train.epochs?"),
        ("model: 3", "model = 3: input should be"),
        ("model:", "model = null: input should be"),
        ("model: [", "not valid YAML: line"),
        ("", "a mapping of sections is expected"),
    ],
)
def test_a_mistake_in_a_preset_is_reported_with_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    name = written(tmp_path, monkeypatch, text)
    with pytest.raises(ParameterError) as caught:
        presets.settings(name)
    assert message in str(caught.value)
    assert str(tmp_path / "mine.yaml") in str(caught.value)


def test_settings_are_in_the_syntax_of_dvc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists without spaces, null, numbers and plain words, as `dvc exp run -S` parses them."""
    from dvc.utils.hydra import apply_overrides

    changes = {
        "data": {"name": "digits"},
        "model": {"encoder": [64, 32], "decoder": [], "sigma": 1e-05},
        "evaluate": {"degrees_of_freedom": None, "samples": 64},
    }
    text = "data: {name: digits}\nmodel: {encoder: [64, 32], decoder: [], sigma: 1e-5}\n"
    name = written(tmp_path, monkeypatch, text + "evaluate: {degrees_of_freedom: null, samples: 64}\n")
    assert presets.load(name) == changes
    settings = presets.settings(name)
    assert settings[:4] == ["-S", "data.name=digits", "-S", "model.encoder=[64,32]"]
    params = tmp_path / "params.yaml"
    params.write_bytes((ROOT / "params.yaml").read_bytes())
    apply_overrides(str(params), settings[1::2])
    expected = presets.merge(read_yaml(ROOT / "params.yaml"), changes)
    assert read_yaml(params) == expected


def test_a_merge_changes_neither_of_its_inputs() -> None:
    params, changes = {"model": {"latent": 16, "sigma": 1.0}, "train": {"epochs": 3}}, {"model": {"latent": 2}}
    assert presets.merge(params, changes) == {"model": {"latent": 2, "sigma": 1.0}, "train": {"epochs": 3}}
    assert params["model"]["latent"] == 16
