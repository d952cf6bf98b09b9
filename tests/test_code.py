"""The list of code: what belongs to it, and when its digest changes."""

import shutil
from pathlib import Path

import pytest

from pipeline.code import CODE_ROOTS, ROOT, code_digest, code_files, determines_output


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("logpx/importance.py", True),
        ("logpx/observations/gaussian.py", True),
        ("pipeline/config.py", True),
        ("stages/train.py", True),
        ("pipeline/tracking/run.py", False),
        ("pipeline/tracking_other.py", True),
        ("pipelines/config.py", False),
        ("studies/page.py", False),
        ("tests/pipeline/test_config.py", False),
        ("README.md", False),
    ],
)
def test_code_that_determines_output_is_in_a_code_root_but_not_in_tracking(path: str, expected: bool) -> None:
    assert determines_output(Path(path)) == expected
    assert determines_output(ROOT / path) == expected


def test_code_elsewhere_does_not_determine_output() -> None:
    assert not determines_output(ROOT.parent / "pipeline" / "config.py")


def test_the_list_has_code_and_templates_of_all_roots() -> None:
    files = code_files()
    assert files == sorted(files)
    assert {path.parts[0] for path in files} == set(CODE_ROOTS)
    assert {path.suffix for path in files} == {".py", ".jinja", ".js"}
    assert Path("pipeline/code.py") in files
    assert not [path for path in files if path.is_relative_to("pipeline/tracking")]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A small copy of the code."""
    for name in ("logpx/noise.py", "pipeline/code.py", "pipeline/tracking/run.py", "stages/train.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_the_digest_is_the_same_in_every_copy(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other") / "copy"
    shutil.copytree(copy, other)
    assert code_digest(copy) == code_digest(other)


@pytest.mark.parametrize("name", ["logpx/noise.py", "stages/new.py", "pipeline/report/page.html.jinja"])
def test_an_edit_or_a_new_file_changes_the_digest(copy: Path, name: str) -> None:
    before = code_digest(copy)
    (copy / name).parent.mkdir(parents=True, exist_ok=True)
    with (copy / name).open("a") as file:
        file.write("# edited\n")
    assert code_digest(copy) != before


def test_two_files_have_another_digest_than_one_with_the_text_of_both(copy: Path) -> None:
    first, second = copy / "stages/a.py", copy / "stages/b.py"
    first.write_text("x")
    second.write_text("y")
    before = code_digest(copy)
    second.unlink()
    first.write_text("xstages/b.py\ny")
    assert code_digest(copy) != before


@pytest.mark.parametrize(
    "name",
    [
        "pipeline/tracking/run.py", "README.md", "tests/test_new.py", "logpx/__pycache__/noise.cpython-311.pyc",
        "pipeline/.ipynb_checkpoints/code.py", "logpx/build/lib/logpx/noise.py", "logpx/noise.py~",
    ],
)  # fmt: skip
def test_other_files_do_not_change_the_digest(copy: Path, name: str) -> None:
    before = code_digest(copy)
    (copy / name).parent.mkdir(parents=True, exist_ok=True)
    (copy / name).write_text("edited")
    assert code_digest(copy) == before


def test_the_lock_of_an_open_editor_is_ignored(copy: Path) -> None:
    before = code_digest(copy)
    (copy / "pipeline/.#code.py").symlink_to("user@host.1234")
    assert code_digest(copy) == before
