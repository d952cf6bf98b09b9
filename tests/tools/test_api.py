"""docs/logpx-api.md: made from the docstrings, complete and up to date."""

import ast
import sys
from pathlib import Path

import pytest

import logpx
from pipeline.code import ROOT
from pipeline.errors import UserError
from tools import api, documents


def test_the_page_is_up_to_date() -> None:
    """If this fails, run `python -m tools.documents`."""
    assert (ROOT / api.PAGE).read_text(encoding="utf-8") == api.page()


def test_the_page_has_every_public_name_once() -> None:
    listed = [name for names in api.PARTS.values() for name in names]
    assert sorted(name for name in listed if "." not in name) == sorted(logpx.__all__)
    assert len(set(listed)) == len(listed)


@pytest.mark.parametrize("name", [name for names in api.PARTS.values() for name in names])
def test_every_name_has_a_signature_and_a_text(name: str) -> None:
    source, node = api.find(ROOT, name)
    first = api.signature(source, node).splitlines()[0]
    last = name.rpartition(".")[2]
    assert first.startswith((f"{last}(", f"class {last}:"))
    assert len(api.markdown(ast.get_docstring(node) or "")) > 40


def test_sections_are_lists_and_examples_are_code() -> None:
    docstring = """The sum of (*samples, x).

    Args:
        x: the first, with `*args` and
            two lines.

    Raises:
        ValueError: for a < b.

    >>> 1 + 1
    2
    """
    assert api.markdown(docstring).splitlines() == [
        r"The sum of (\*samples, x).", "", "Args:", "", "- `x`: the first, with `*args` and", "  two lines.", "",
        "Raises:", "", r"- `ValueError`: for a \< b.", "", "```pycon", ">>> 1 + 1", "2", "```",
    ]  # fmt: skip


def test_a_name_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(LookupError, match="missing"):
        api.find(ROOT, "block.missing")


def test_check_reports_a_docstring_that_the_page_does_not_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "docs").mkdir()
    monkeypatch.setattr(documents, "ROOT", tmp_path)
    monkeypatch.setattr(documents, "documents", list)
    monkeypatch.setattr(sys, "argv", ["documents", "--check"])
    for _ in range(2):
        with pytest.raises(UserError, match=r"docs/logpx-api.md differs from the docstrings of logpx\nrun `python"):
            documents.main()
    monkeypatch.setattr(sys, "argv", ["documents"])
    documents.main()
    assert "docs/logpx-api.md is new" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["documents", "--check"])
    documents.main()
