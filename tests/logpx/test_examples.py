"""The examples in the docstrings of `logpx` give what they show."""

import doctest
import importlib

import pytest
import torch

from pipeline.code import ROOT

MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "logpx").rglob("*.py"))
    if path.name != "__init__.py"
]
WITH_EXAMPLES = [name for name in MODULES if ">>>" in (ROOT / f"{name.replace('.', '/')}.py").read_text("utf-8")]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_give_what_they_show(name: str) -> None:
    torch.manual_seed(0)
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0, "no example was found: is it in a docstring?"
    assert result.failed == 0


def test_every_observation_model_and_the_main_entry_points_have_an_example() -> None:
    assert {"logpx.estimator", "logpx.model", "logpx.observations.gaussian"} <= set(WITH_EXAMPLES)
