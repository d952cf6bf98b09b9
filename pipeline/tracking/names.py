"""Names of metrics and parameters in MLflow: those of `dvc exp show`."""

from collections.abc import Mapping
from typing import Any


def flatten(nested: Mapping[str, Any]) -> dict[str, float]:
    """{"test": {"elbo": 1}} as {"test.elbo": 1.0}. Lists, which hold text such as the environment, are left out."""
    values: dict[str, float] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            values |= {f"{name}.{key}": number for key, number in flatten(value).items()}
        elif not isinstance(value, list):
            values[name] = float(value)
    return values


def parameter_names(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """{"model": {"latent": 2}} as {"model.latent": "2"}."""
    return {f"{section}.{key}": str(value) for section, values in sections.items() for key, value in values.items()}
