"""The parameters that the report lists: those that the chosen options read."""

from collections.abc import Mapping
from typing import Any


def read_parameters(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The sections of `params.yaml` without the keys that the chosen options do not read.

    The activation stands between layers: without hidden layers both networks are linear. All other keys are always
    read: even `evaluate.degrees_of_freedom` under any `evaluate.proposal`, because the figure of estimates against
    decoder evaluations has a curve of every proposal.
    """
    layers = sections["model"]["encoder"] or sections["model"]["decoder"]
    unread = set() if layers else {("model", "activation")}
    return {
        section: {name: value for name, value in keys.items() if (section, name) not in unread}
        for section, keys in sections.items()
    }
