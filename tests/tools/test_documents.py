"""Numbers and links in the documents."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from pipeline.code import ROOT
from tools.documents import SOURCED, documents, format_like, read_value, update

DOCUMENTS = [pytest.param(path, id=path.name) for path in documents()]


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    """A folder of reports with one file, metrics/test.json."""
    (tmp_path / "metrics").mkdir()
    content = {"a": {"b": -1234.567, "share": 0.9943, "seconds, 2": 2e-6}, "rows": [{"x": 3}, {"x": 12}]}
    (tmp_path / "metrics/test.json").write_text(json.dumps(content), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("1<!-- metrics/test: a.b -->", "−1235<!-- metrics/test: a.b -->"),
        ("**−1.00<!-- metrics/test: a.b --> nats**", "**−1234.57<!-- metrics/test: a.b --> nats**"),
        ("in 7 of 5 000<!-- metrics/test: a.b -->", "in 7 of −1 235<!-- metrics/test: a.b -->"),
        ("0.0 %<!-- metrics/test: a.share -->", "99.4 %<!-- metrics/test: a.share -->"),
        ("0.00<!-- metrics/test: a.share -->", "0.99<!-- metrics/test: a.share -->"),
        ("| 1 | 0 | 5<!-- metrics/test: rows.1.x --> |", "| 1 | 0 | 12<!-- metrics/test: rows.1.x --> |"),
        (
            "9 µs, 0.00<!-- metrics/test: rows.0.x / rows.1.x -->",
            "9 µs, 0.25<!-- metrics/test: rows.0.x / rows.1.x -->",
        ),
        ("5<!-- metrics/test: a.seconds, 2 * 1e6 --> µs", "2<!-- metrics/test: a.seconds, 2 * 1e6 --> µs"),
        ("9\n%<!-- metrics/test:\na.share\n* 1 -->", "99\n%<!-- metrics/test:\na.share\n* 1 -->"),
        ("5<!-- a comment --> and 6", "5<!-- a comment --> and 6"),
    ],
)
def test_a_number_with_a_source_is_replaced(reports: Path, before: str, after: str) -> None:
    new, changes, errors = update(before, reports)
    assert new == after
    assert not errors
    assert bool(changes) == (before != after)
    assert update(new, reports) == (new, [], [])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("5<!-- metrics/missing: a.b -->", "No such file"),
        ("5<!-- metrics/test: a.c -->", "'c'"),
        ("5<!-- metrics/test: rows.2.x -->", "index out of range"),
        ("5<!-- metrics/test: a -->", "not 'dict'"),
        ("five<!-- metrics/test: a.b -->", "follows no number"),
        ("5 nats<!-- metrics/test: a.b -->", "follows no number"),
    ],
)
def test_a_source_that_cannot_be_read_is_an_error(reports: Path, text: str, reason: str) -> None:
    new, changes, errors = update(f"\n{text}", reports)
    assert new == f"\n{text}"
    assert not changes
    assert len(errors) == 1
    assert errors[0].startswith("line 2: metrics/")
    assert reason in errors[0]


def test_a_change_names_its_line_and_both_numbers(reports: Path) -> None:
    _, changes, _ = update("one\ntwo\n0.9<!-- metrics/test: rows.0.x -->", reports)
    assert changes == ["line 3: metrics/test: rows.0.x: 0.9 -> 3.0"]


def test_factors_apply_from_left_to_right() -> None:
    assert read_value({"a": 8, "b": [2, 4]}, "a / b.0 * b.1 / 1e1") == pytest.approx(1.6)


def test_a_small_negative_value_is_written_without_a_sign() -> None:
    assert format_like(-0.001, "5.00") == "0.00"


@pytest.fixture(scope="module")
def _committed_reports() -> None:
    """After a run on another processor the reports differ in the last digits; that is no fault of the documents."""
    command = ["git", "status", "--porcelain", "--", "reports"]
    if subprocess.run(command, cwd=ROOT, capture_output=True, check=False).stdout:
        pytest.skip("reports/ differs from the last commit; `python -m tools.documents --check` compares")


@pytest.mark.usefixtures("_committed_reports")
@pytest.mark.parametrize("path", DOCUMENTS)
def test_the_documents_have_the_numbers_of_the_reports(path: Path) -> None:
    """If this fails, run `python -m tools.documents`."""
    _, changes, errors = update(path.read_text(encoding="utf-8"), ROOT / "reports")
    assert not changes
    assert not errors


def test_each_figure_appears_in_one_document() -> None:
    places: dict[str, set[str]] = {}
    for path in documents():
        for match in SOURCED.finditer(path.read_text(encoding="utf-8")):
            places.setdefault(f"{match['file']}: {match['expression']}", set()).add(path.name)
    assert {source: names for source, names in places.items() if len(names) > 1} == {}


def slugs(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS)
def test_links_in_the_documents_lead_somewhere(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        assert not anchor or anchor in slugs(target.read_text(encoding="utf-8")), link


@pytest.mark.parametrize("path", DOCUMENTS)
def test_code_named_in_the_documents_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    files = re.findall(r"`((?:logpx|pipeline|stages|studies|presets|tests|tools|benchmarks)/[a-z_/]*(?:\.\w+)?)`", text)
    assert [name for name in files if not (ROOT / name).exists()] == []
    modules = re.findall(r"python -m ((?:tools|benchmarks|studies|pipeline)[a-z_.]*)", text)
    found = [ROOT / name.replace(".", "/") for name in modules]
    assert [path for path in found if not path.with_suffix(".py").exists() and not path.is_dir()] == []


@pytest.mark.parametrize("path", DOCUMENTS)
def test_tests_named_in_the_documents_exist(path: Path) -> None:
    """As `tests/file.py::name`, or `::name` for another test of the file named last."""
    file, missing = None, []
    for match in re.finditer(r"`(tests/[\w/]+\.py)?(?:::(\w+))?`", path.read_text(encoding="utf-8")):
        file = match[1] or file
        if match[2] and (file is None or f"def {match[2]}(" not in (ROOT / file).read_text(encoding="utf-8")):
            missing.append(f"{file}::{match[2]}")
    assert missing == []
