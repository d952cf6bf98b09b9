"""The grids of the studies."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import load_params
from studies.grids import STUDIES
from studies.panels import PANELS


def value_of(text: str) -> Any:
    return json.loads(text) if text[0] in "[0123456789" else text


@pytest.mark.parametrize("name", list(STUDIES))
def test_every_experiment_has_valid_parameters(name: str, small_params: Callable[..., Path]) -> None:
    study = STUDIES[name]
    for value in study.values:
        settings = [*study.settings, f"{study.parameter}={value:g}"]
        changes = {key.replace(".", "__"): value_of(text) for key, _, text in (s.partition("=") for s in settings)}
        load_params(small_params(**changes))


@pytest.mark.parametrize("name", list(STUDIES))
def test_every_study_has_a_text_and_panels_that_exist(name: str) -> None:
    assert STUDIES[name].story.endswith(".")
    assert set(STUDIES[name].panels) <= set(PANELS)
