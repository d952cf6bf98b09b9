"""Unfinished work: found by the same computation, by no other; damage is told and passed over."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from pipeline import scratch
from pipeline.config import Recovery
from pipeline.scratch import Scratch

ALWAYS = Recovery(save_every=1e-9)


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path


def state(value: float) -> dict[str, torch.Tensor]:
    return {"w": torch.full((1000,), value), "order": torch.arange(5)}


def crashed(*determines: object, values: int = 3) -> Path:
    """A computation that saved some states and then crashed; its folder."""
    with pytest.raises(ZeroDivisionError), scratch.opened("train", ALWAYS, *determines) as work:
        for value in range(values):
            work.save(state(value), {"value": value})
        raise ZeroDivisionError
    return work.folder


def found(*determines: object) -> int | None:
    saved = None
    with pytest.raises(ZeroDivisionError), scratch.opened("train", ALWAYS, *determines) as work:
        saved = work.load()
        assert saved is None or torch.equal(saved[0]["w"], state(saved[1]["value"])["w"])
        raise ZeroDivisionError
    return saved and saved[1]["value"]


def test_the_same_computation_goes_on_from_the_newest_state() -> None:
    crashed({"lr": 1}, "data")
    assert found({"lr": 1}, "data") == 2


@pytest.mark.parametrize("other", [({"lr": 2}, "data"), ({"lr": 1}, "atad"), ({"lr": 1},), ({"lr": 1}, "data", "GPU")])
def test_another_computation_finds_nothing(other: tuple[object, ...]) -> None:
    crashed({"lr": 1}, "data")
    assert found(*other) is None


def test_other_code_finds_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    crashed("x")
    before = scratch._key(("x",))
    edited = tmp_path / "pipeline"
    edited.mkdir()
    for name in ("scratch.py", "config.py"):
        (edited / name).write_bytes((ROOT / "pipeline" / name).read_bytes() + b"\n")
    monkeypatch.setattr(scratch, "__file__", str(edited / "scratch.py"))
    monkeypatch.setattr(sys.modules["pipeline.config"], "__file__", str(edited / "config.py"))
    assert scratch._key(("x",)) != before
    assert found("x") is None


def test_a_damaged_state_falls_back_to_the_one_before_and_then_to_none(capsys: pytest.CaptureFixture[str]) -> None:
    folder = crashed("x")
    older, newest = sorted(folder.glob("state-*"))
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1  # one bit of a weight: the file is a valid one
    newest.write_bytes(content)
    assert found("x") == 1
    assert f"{newest} is damaged; going on without it" in capsys.readouterr().err
    older.write_bytes(older.read_bytes()[:100])
    assert found("x") is None


def test_what_ends_well_leaves_nothing(repository: Path) -> None:
    crashed("x")
    with scratch.opened("train", ALWAYS, "x") as work:
        work.save(state(1), {})
        work.once("part", lambda: state(2))
    assert list((repository / ".scratch").iterdir()) == []


def test_parts_are_computed_once(capsys: pytest.CaptureFixture[str]) -> None:
    computed = []

    def part(number: int) -> dict[str, torch.Tensor]:
        computed.append(number)
        return {"a": torch.tensor([number / 3], dtype=torch.float64), "b": torch.tensor([True])}

    for interval in (1e9, 1e-9):  # written at the crash, or at once
        with pytest.raises(KeyboardInterrupt), scratch.opened("evaluate", Recovery(save_every=interval), "x") as work:
            for number in range(len(computed) + 2):
                result = work.once(f"block {number}", lambda number=number: part(number))
                assert result["a"].item() == number / 3
                assert result["b"].item() is True
            raise KeyboardInterrupt
    assert computed == [0, 1, 2, 3]
    newest = sorted(work.folder.glob("parts-*"))[-1]
    newest.write_bytes(newest.read_bytes()[:-1])
    with scratch.opened("evaluate", ALWAYS, "x") as work:
        for number in range(4):
            work.once(f"block {number}", lambda number=number: part(number))
    assert computed == [0, 1, 2, 3, 3]
    assert "is damaged" in capsys.readouterr().err


def test_a_second_process_waits_for_the_first(repository: Path) -> None:
    code = (
        "import sys, time\nfrom pipeline import scratch\nfrom pipeline.config import Recovery\n"
        "with scratch.opened('train', Recovery(save_every=1.0), 'x'):\n"
        "    print('in', flush=True); time.sleep(float(sys.argv[1])); print('out', time.time(), flush=True)"
    )
    command = [sys.executable, "-c", code]
    first = subprocess.Popen([*command, "5"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert first.stdout
    assert first.stdout.readline() == "in\n"
    second = subprocess.run([*command, "0"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    told, _ = first.communicate(timeout=60)
    assert second.startswith("another process is at the very same computation; waiting for it\nin\n")
    assert float(told.split()[-1]) < float(second.split()[-1])
    assert not list((repository / ".scratch").iterdir())


def test_abandoned_work_is_removed_after_a_week(repository: Path) -> None:
    import os

    old, young = crashed("old"), crashed("young")
    week = time.time() - 8 * 24 * 3600
    os.utime(old, (week, week))
    with scratch.opened("evaluate", ALWAYS, "x"):
        assert not old.exists()
        assert young.exists()
    assert sorted(p.name for p in (repository / ".scratch").iterdir()) == [young.name, f"{young.name}.lock"]


def test_work_that_cannot_be_kept_costs_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    work = Scratch(tmp_path / "file", 0.0)
    work.save(state(1), {})
    assert work.once("part", lambda: state(2))["w"][0] == 2
    assert capsys.readouterr().err.count("warning: this work could not be kept") == 2
