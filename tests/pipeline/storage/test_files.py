"""Files are written whole or not at all, and a damaged one is named with a remedy."""

import errno
import hashlib
import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.storage.files import atomic, main_repository, read_metrics, sha256, write_json, write_text
from tests.support import ROOT


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


def test_what_a_killed_writer_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "page[1].md"
    code = (
        "import os, signal, sys; from pathlib import Path; from pipeline.storage.files import atomic\n"
        "with atomic(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    result = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, check=False)
    assert result.returncode == -signal.SIGKILL
    assert [found.read_text() for found in tmp_path.iterdir()] == ["half"]
    (tmp_path / ".page[1].md.4321.tmp").touch()  # by an earlier version
    others = [tmp_path / ".page1.md.4321.tmp", tmp_path / ".page[1].md.tmp.md", tmp_path / ".page[1].md.4322.tmp"]
    for other in others[:2]:
        other.touch()
    others[2].mkdir()  # what cannot be opened is kept
    write_text(path, "whole")
    assert set(tmp_path.iterdir()) == {path, *others}
    assert path.read_text() == "whole"


def test_two_writers_of_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    with atomic(path) as first:
        first.write_text("first")
        write_text(path, "second")
        assert path.read_text() == "second"
        assert first.read_text() == "first"
    assert path.read_text() == "first"
    assert [found.name for found in tmp_path.iterdir()] == ["page.md"]


def test_a_file_system_without_locks_is_written_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with atomic(tmp_path / "page.md") as first:  # it may be a live writer's, so it is kept
        first.write_text("first")
        write_text(tmp_path / "page.md", "second")
        assert first.read_text() == "first"
    assert [found.name for found in tmp_path.iterdir()] == ["page.md"]


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


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        pytest.param("repo", "repo", id="a git repository"),
        pytest.param("repo/vae", "repo/vae", id="a subfolder of a git repository"),
        pytest.param("repo/.dvc/tmp/exps/tmp1", "repo", id="a queued experiment"),
        pytest.param("repo/.dvc/tmp/exps/standalone/tmp1", "repo", id="a temporary experiment"),
        pytest.param("repo/vae/.dvc/tmp/exps/tmp1/vae", "repo/vae", id="an experiment in a subfolder"),
        pytest.param("repo/.dvc/tmp/exps/tmp1/vae", "repo/vae", id="inside an experiment of an outer project"),
        pytest.param("repo/a/.dvc/tmp/exps/tmp1/a/vae/.dvc/tmp/exps/tmp2/a/vae", "repo/a/vae", id="both"),
        pytest.param("copy", "copy", id="no git repository"),
    ],
)
def test_the_main_repository_outlasts_a_temporary_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, expected: str
) -> None:
    """Whatever `DVC_ROOT` is: in a stage of an outer DVC project it is the folder of that project."""
    here = tmp_path / folder
    here.mkdir(parents=True)
    for path in (here, *here.parents):
        if path.name in ("repo", "tmp1", "tmp2"):
            (path / ".git").mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "outer"))
    assert main_repository() == (tmp_path / expected).resolve()
