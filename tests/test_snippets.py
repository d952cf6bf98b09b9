"""The Python code in the documents runs as it is printed."""

import re

import pytest
import torch

from pipeline.code import ROOT


def snippets(document: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.usefixtures("workspace")
def test_the_readme_draws_digits_and_measures_them(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    (code,) = snippets("README.md")
    exec(code, {})
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["log_px", "log_px_se", "bits_per_dim", "trusted"]
    assert len(rows) == 10


def test_the_guide_of_the_library_measures_what_it_defines() -> None:
    """With a network, images and labels for the names that the guide leaves to its reader."""
    torch.manual_seed(0)
    decode = torch.nn.Linear(50, 6)
    names = {
        "torch": torch, "decode": decode, "x": (torch.rand(3, 6) < 0.5).float(), "mean": torch.zeros(3, 50),
        "standard_deviation": torch.ones(3, 50), "centre": torch.zeros(10, 50), "labels": torch.arange(3),
    }  # fmt: skip
    estimates = []
    for code in snippets("docs/logpx.md"):
        exec(code, names)
        estimates.append(names["found"])
    assert all(len(found.log_px) == 3 and found.log_px.isfinite().all() for found in estimates)


def test_bits_per_dimension_are_those_of_the_guide() -> None:
    *_, line = snippets("docs/models.md")[0].strip().splitlines()
    call, _, value = line.partition("  # ")
    names: dict[str, object] = {}
    exec("from pipeline.data.image_format import ImageFormat", names)
    assert f"{eval(call, names):.2f}" == value
