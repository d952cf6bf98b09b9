"""Metrics and parameters have the names of `dvc exp show`."""

from pipeline.tracking.names import flatten, parameter_names


def test_nested_metrics_are_joined_by_dots_and_text_is_left_out() -> None:
    nested = {"epoch": 3, "test": {"elbo": 1.5, "bounds": {"low": 1}}, "environment": ["CPU"]}
    assert flatten(nested) == {"epoch": 3.0, "test.elbo": 1.5, "test.bounds.low": 1.0}


def test_parameters_are_text_with_their_section() -> None:
    assert parameter_names({"model": {"latent": 2, "encoder": [8, 8]}, "train": {}}) == {
        "model.latent": "2",
        "model.encoder": "[8, 8]",
    }
