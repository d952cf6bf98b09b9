"""The parameters that the report lists: those that the chosen options read."""

from collections.abc import Callable, Mapping
from typing import Any

Sections = Mapping[str, Mapping[str, Any]]

# Keys that not every choice of options reads, and when they are read. All other keys are always read: even
# `evaluate.degrees_of_freedom` under any `evaluate.proposal`, because the figure of estimates against decoder
# evaluations has a curve of every proposal.
READ_IF: dict[str, Callable[[Sections], bool]] = {
    # The activation stands between layers: without hidden layers both networks are linear.
    "model.activation": lambda sections: bool(sections["model"]["encoder"] or sections["model"]["decoder"]),
}


def read_parameters(sections: Sections) -> dict[str, dict[str, Any]]:
    """The sections of `params.yaml` without the keys that the chosen options do not read."""

    def is_read(key: str) -> bool:
        return key not in READ_IF or READ_IF[key](sections)

    return {
        section: {name: value for name, value in keys.items() if is_read(f"{section}.{name}")}
        for section, keys in sections.items()
    }
