"""Files are written whole or not at all, and a damaged one is named with a remedy."""

import hashlib
import math
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.storage.files import atomic, main_repository, read_metrics, sha256, write_json, write_text


def test_text_is_utf8_with_unix_line_endings_in_a_new_folder(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "page.md", "σ = ½\n")
    assert (tmp_path / "new" / "page.md").read_bytes() == "σ = ½\n".encode()


def test_a_failed_write_keeps_the_former_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    write_text(path, "before")
    with pytest.raises(KeyboardInterrupt), atomic(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert [found.name for found in tmp_path.iterdir()] == ["page.md"]
    assert path.read_text() == "before"


def test_an_error_of_the_system_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"page\.md cannot be written: No space left"), atomic(tmp_path / "page.md"):
        raise OSError(28, "No space left on device")


def test_metrics_are_read_as_they_were_written(tmp_path: Path) -> None:
    values = {"test": {"elbo": -1.5, "images": 3}, "environment": ["CPU"]}
    write_json(tmp_path / "metrics.json", values)
    assert read_metrics(tmp_path / "metrics.json") == values


def test_metrics_that_json_cannot_represent_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "metrics.json", {"elbo": math.nan})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "message"), [(None, "is missing"), (b"", "is damaged"), (b'{"a": \xff', "is damaged")]
)
def test_missing_and_damaged_metrics_are_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "metrics.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=rf"metrics\.json {message}.*dvc repro"):
        read_metrics(path)


def test_the_digest_of_several_files_is_that_of_their_concatenation(tmp_path: Path) -> None:
    parts = [b"a" * 3_000_000, b"", b"b"]
    paths = [tmp_path / str(number) for number in range(3)]
    for path, part in zip(paths, parts, strict=True):
        path.write_bytes(part)
    assert sha256(*paths) == hashlib.sha256(b"".join(parts)).hexdigest()


def test_the_main_repository_is_dvcs_or_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main_repository() == tmp_path.resolve()
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "main"))
    assert main_repository() == (tmp_path / "main").resolve()
