"""The examples of docs/logpx.md run as they are written."""

import re

import torch
from torch import nn

from pipeline.code import ROOT

EXAMPLES = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/logpx.md").read_text(encoding="utf-8"), re.M | re.S)


def test_the_examples_run_one_after_another(generator: torch.Generator) -> None:
    torch.manual_seed(0)
    decode = nn.Sequential(nn.Linear(50, 8), nn.ELU(), nn.Linear(8, 20))
    names = {
        "torch": torch, "decode": decode, "x": torch.bernoulli(torch.full((2, 20), 0.5), generator=generator),
        "mean": torch.zeros(2, 50), "standard_deviation": torch.ones(2, 50),
        "centre": torch.zeros(10, 50), "labels": torch.tensor([3, 7]),
    }  # fmt: skip
    assert len(EXAMPLES) == 3
    for example in EXAMPLES:
        exec(example, names)
        found = names["found"]
        assert isinstance(found, tuple)
        assert found.trusted.all()  # pyright: ignore[reportAttributeAccessIssue]
