"""Unfinished work: only the same computation resumes it; damage is reported and ignored."""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from pipeline import code
from pipeline.config import Recovery
from pipeline.process import recovery
from pipeline.process.recovery import UnfinishedWork, open_work
from tests.support import ROOT, Run, command

ALWAYS = Recovery(save_every=1e-9)


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def state(value: float) -> dict[str, torch.Tensor]:
    return {"w": torch.full((1000,), value), "order": torch.arange(5)}


def crash(*determines: object, values: int = 3) -> Path:
    """Run a computation that saves some states and then crashes. Return its folder."""
    with pytest.raises(ZeroDivisionError), open_work("train", ALWAYS, *determines) as work:
        for value in range(values):
            work.save(state(value), {"value": value})
        raise ZeroDivisionError
    return work.folder


def saved_value(*determines: object) -> int | None:
    """The value of the newest saved state; None without a state."""
    saved = None
    with pytest.raises(ZeroDivisionError), open_work("train", ALWAYS, *determines) as work:
        saved = work.load()
        assert saved is None or torch.equal(saved[0]["w"], state(saved[1]["value"])["w"])
        raise ZeroDivisionError
    return saved and saved[1]["value"]


def lock_files_only(repository: Path) -> bool:
    return {path.suffix for path in (repository / ".scratch").iterdir()} == {".lock"}


def test_the_same_computation_resumes_from_the_newest_state() -> None:
    crash({"lr": 1}, "data")
    assert saved_value({"lr": 1}, "data") == 2


@pytest.mark.parametrize("other", [({"lr": 2}, "data"), ({"lr": 1}, "atad"), ({"lr": 1},), ({"lr": 1}, "data", "GPU")])
def test_another_computation_finds_nothing(other: tuple[object, ...]) -> None:
    crash({"lr": 1}, "data")
    assert saved_value(*other) is None


@pytest.fixture
def edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Edit a loaded module, by its path in the repository: the loaded modules seem to come from a copy of it."""
    copy = tmp_path / "copy"
    for name in ("logpx/weights.py", "pipeline/config.py", "pipeline/tracking/provenance.py"):
        __import__(name.removesuffix(".py").replace("/", "."))
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
        module = sys.modules[name.removesuffix(".py").replace("/", ".")]
        monkeypatch.setattr(module, "__file__", str(copy / name))
    for module in (code, recovery):
        monkeypatch.setattr(module, "ROOT", copy)

    def append(name: str) -> None:
        with (copy / name).open("a", encoding="utf-8") as file:
            file.write("\n# edited\n")

    return append


@pytest.mark.parametrize("name", ["logpx/weights.py", "pipeline/config.py"])
def test_edited_code_finds_nothing(edit: Callable[[str], None], name: str) -> None:
    crash("x")
    assert saved_value("x") == 2
    edit(name)
    assert saved_value("x") is None


def test_edited_tracking_code_resumes(edit: Callable[[str], None]) -> None:
    """It changes no output."""
    crash("x")
    edit("pipeline/tracking/provenance.py")
    assert saved_value("x") == 2


def killed_evaluation(project: Path) -> str:
    """Run an evaluation with the code in `project`, and kill it when it has saved more parts. Return its output."""
    parts = lambda: len(list(Path(".scratch").glob("evaluate-*/parts-*")))  # noqa: E731
    before, log = parts(), Path("log")
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "stages.evaluate", *command("evaluate")[3:]],
            env=os.environ | {"PYTHONPATH": str(project)}, stdout=file, stderr=file,
        )  # fmt: skip
    deadline = time.monotonic() + 120
    while parts() == before:
        assert process.poll() is None, log.read_text(encoding="utf-8")
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    return log.read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_killed_evaluation_resumes_after_an_edit_of_tracking_but_not_of_logpx(
    small_params: Callable[..., Path], run: Run
) -> None:
    small_params(evaluate__samples=8192, evaluate__budget=8192, recovery__save_every=1e-9)
    for name in ("download", "train"):
        assert run(name) == 0
    project = Path("project").resolve()
    for name in code.CODE_ROOTS:
        shutil.copytree(ROOT / name, project / name)
    assert "resuming with" not in killed_evaluation(project)
    for name, resumes in (("pipeline/tracking/run.py", True), ("logpx/weights.py", False)):
        with (project / name).open("a", encoding="utf-8") as file:
            file.write("\n# edited\n")
        assert ("resuming with" in killed_evaluation(project)) == resumes


def test_a_damaged_state_is_replaced_by_the_one_before_it(capsys: pytest.CaptureFixture[str]) -> None:
    folder = crash("x")
    older, newest = sorted(folder.glob("state-*"))
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1  # one bit of a weight: the file is a valid one
    newest.write_bytes(content)
    assert saved_value("x") == 1
    assert f"{newest} is damaged and is ignored" in capsys.readouterr().err
    older.write_bytes(older.read_bytes()[:100])
    assert saved_value("x") is None


def test_a_finished_computation_leaves_only_its_lock_file(repository: Path) -> None:
    crash("x")
    with open_work("train", ALWAYS, "x") as work:
        work.save(state(1), {})
        work.once("part", lambda: state(2))
    assert lock_files_only(repository)


def test_parts_are_computed_once(capsys: pytest.CaptureFixture[str]) -> None:
    computed = []

    def part(number: int) -> dict[str, torch.Tensor]:
        computed.append(number)
        return {"a": torch.tensor([number / 3], dtype=torch.float64), "b": torch.tensor([True])}

    for interval in (1e9, 1e-9):  # written at the crash, or at once
        with pytest.raises(KeyboardInterrupt), open_work("evaluate", Recovery(save_every=interval), "x") as work:
            for number in range(len(computed) + 2):
                result = work.once(f"block {number}", lambda number=number: part(number))
                assert result["a"].item() == number / 3
                assert result["b"].item() is True
            raise KeyboardInterrupt
    assert computed == [0, 1, 2, 3]
    newest = sorted(work.folder.glob("parts-*"))[-1]
    newest.write_bytes(newest.read_bytes()[:-1])
    with open_work("evaluate", ALWAYS, "x") as work:
        for number in range(4):
            work.once(f"block {number}", lambda number=number: part(number))
    assert computed == [0, 1, 2, 3, 3]
    assert "is damaged" in capsys.readouterr().err


def test_a_second_process_waits_for_the_first(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events: list[str] = []

    def second() -> None:
        with open_work("train", ALWAYS, "x"):
            events.append("second starts")

    with open_work("train", ALWAYS, "x"):
        waiting = threading.Thread(target=second)
        waiting.start()
        deadline = time.monotonic() + 20
        while "another process runs the same computation; waiting for it" not in capsys.readouterr().out:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        events.append("first ends")
    waiting.join(timeout=20)
    assert events == ["first ends", "second starts"]
    assert lock_files_only(repository)


def test_abandoned_work_is_removed_after_a_week(repository: Path) -> None:
    old, used, young, own = (crash(name) for name in ("old", "used", "young", "own"))
    before = time.time() - 8 * 24 * 3600
    for folder in (old, used, own):
        os.utime(folder, (before, before))
    with FileLock(f"{used}.lock"):
        assert saved_value("own") == 2
    assert sorted(path for path in (repository / ".scratch").glob("*/")) == sorted([used, young, own])


def test_work_that_cannot_be_saved_costs_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    work = UnfinishedWork(tmp_path / "file", 0.0)
    work.save(state(1), {})
    assert work.once("part", lambda: state(2))["w"][0] == 2
    assert capsys.readouterr().err.count("warning: unfinished work was not saved") == 2
