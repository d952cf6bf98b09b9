"""The parameters that the report lists: those that the chosen options read."""

from collections.abc import Mapping
from typing import Any

Sections = Mapping[str, Mapping[str, Any]]


def read_parameters(sections: Sections) -> dict[str, dict[str, Any]]:
    """The sections of `params.yaml` without the keys that the chosen options do not read.

    All keys that `_unread` does not name are always read: even `evaluate.degrees_of_freedom` under any
    `evaluate.proposal`, because the figure of estimates against decoder evaluations has a curve of every proposal.
    """
    unread = _unread(sections)
    return {
        section: {name: value for name, value in keys.items() if (section, name) not in unread}
        for section, keys in sections.items()
    }


def _unread(sections: Sections) -> set[tuple[str, str]]:
    model, train = sections["model"], sections["train"]
    fully_connected = model["network"] == "mlp"
    hidden = model["encoder"] or model["decoder"]
    read = {
        ("data", "path"): False,  # the digest says which images are used, wherever they are
        ("data", "seed"): sections["data"]["name"] == "own",
        ("data", "sha256"): sections["data"]["name"] == "own",
        ("model", "encoder"): fully_connected,
        ("model", "decoder"): fully_connected,
        ("model", "width"): not fully_connected,
        ("model", "depth"): not fully_connected,
        # It stands between layers: without hidden layers both fully connected networks are linear.
        ("model", "activation"): bool(hidden) or not fully_connected,
        ("model", "sigma"): model["observation"] == "gaussian",
        ("model", "couplings"): model["prior"] == "flow",
        ("model", "components"): model["observation"] == "logistic_mixture",
        ("train", "beta"): train["objective"] == "beta",
        ("train", "beta_warmup"): train["objective"] == "beta",
    }
    return {key for key, used in read.items() if not used}
