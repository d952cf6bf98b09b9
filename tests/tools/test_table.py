"""The table of experiments: numbers, what differs, order, and width."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.process.exit import run_cli
from tools import presets, table

PARAMS = {
    "data": {"name": "mnist", "binarise": "none"},
    "model": {"latent": 16, "encoder": [512, 512]},
    "train": {"seed": 0, "epochs": 18},
    "evaluate": {"seed": 1},
}


def data(log_px: float, changes: dict[str, dict[str, Any]] | None = None, **sample: float) -> dict[str, Any]:
    """What `dvc exp show --json` has of a revision."""
    params = {name: values | (changes or {}).get(name, {}) for name, values in PARAMS.items()}
    test = {"log_px": log_px, "log_px_se": 3.14, "bits_per_dim": 6.4235, "trusted": 0.9942}
    metrics = {"a.json": {"data": {"test": test}}, "b.json": {"data": {"sample": {"recognised": 0.3682} | sample}}}
    return {"params": {"params.yaml": {"data": params}}, "metrics": metrics}


def show(experiments: dict[str, dict[str, Any] | None], workspace: float = 857.0) -> str:
    entries = [
        {"name": name, "revs": [{"rev": "abc", "data": found}], "executor": None if found else {"state": "queued"}}
        for name, found in experiments.items()
    ]
    commit = {"rev": "0123456789", "name": "main", "data": data(857.0), "experiments": entries}
    return json.dumps([{"rev": "workspace", "data": data(workspace)}, commit])


def lines(text: str, width: int = 120) -> list[str]:
    return table.table(table.read(text), width).splitlines()


def test_a_row_has_the_results_and_what_differs() -> None:
    found = lines(show({"wide": data(901.25, {"model": {"latent": 32, "encoder": [64, 8]}}, asked_for=0.905)}))
    assert " ".join(found[0].split()) == "experiment log p(x) bits/dim trusted recognised asked for what differs"
    best, other = found[1:3]
    assert best.split() == [
        "wide",
        "901.2",
        "±",
        "3.1",
        "6.423",
        "99.4",
        "36.8",
        "90.5",
        "latent=32,",
        "encoder=[64,8]",
    ]
    assert other.split() == ["main", "857.0", "±", "3.1", "6.423", "99.4", "36.8", "–"]


def test_the_section_is_named_only_if_several_have_the_key() -> None:
    found = lines(show({"a": data(1.0, {"train": {"seed": 3, "epochs": 5}})}))
    assert found[2].endswith("train.seed=3, epochs=5")


def test_the_best_is_first_among_experiments_of_the_same_data() -> None:
    binarised = {"data": {"binarise": "dynamic"}}
    experiments = {"low": data(-700.0), "b1": data(-95.5, binarised), "b2": data(-85.5, binarised), "high": data(900.0)}
    found = lines(show({**experiments, "waits": None}))
    assert [line.split()[0] for line in found[1:7]] == ["high", "main", "low", "b2", "b1", "waits"]
    assert "−700.0" in found[3]
    assert found[6].split() == ["waits", *"–––––", "(queued)"]


def test_the_workspace_is_listed_if_it_has_other_results() -> None:
    assert not any(line.startswith("workspace") for line in lines(show({})))
    assert any(line.startswith("workspace") for line in lines(show({}, workspace=900.0)))


@pytest.mark.parametrize("width", [100, 120])
def test_no_line_is_longer_than_the_terminal_and_nothing_is_lost(width: int) -> None:
    """With a name and a number of differences that need several lines."""
    changes = {"model": {"latent": 64, "encoder": list(range(100, 130))}, "train": {"seed": 9, "epochs": 1000}}
    name = "an-experiment-with-a-very-long-name-of-someone-who-likes-names"
    found = lines(show({name: data(-12345.678, changes, asked_for=1.0)}), width)
    assert max(len(line) for line in found) <= width
    text = "".join("".join(found).split())
    for value in (*range(100, 130), "latent=64", "epochs=1000", "train.seed=9"):
        assert str(value) in text
    assert "".join(line[:24].strip() for line in found[2:-2]).endswith(name)


def test_the_command_reads_what_dvc_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "show.json").write_text(show({"wide": data(901.25)}), encoding="utf-8")
    dvc = tmp_path / "dvc"
    dvc.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/words\ncat {tmp_path}/show.json\n')
    dvc.chmod(0o755)
    monkeypatch.setattr(presets, "DVC", [str(dvc)])
    monkeypatch.setattr("sys.argv", ["table", "--all-commits"])
    monkeypatch.setenv("COLUMNS", "120")
    assert run_cli(table.main) == 0
    assert (tmp_path / "words").read_text().split() == ["exp", "show", "--json", "-A"]
    printed = capsys.readouterr().out
    assert max(len(line) for line in printed.splitlines()) <= 120
    assert "wide" in printed


def test_a_dvc_that_fails_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "DVC", [sys.executable, "-c", "import sys; sys.exit('you are not inside a DVC repo')"])
    with pytest.raises(UserError, match="dvc exp show failed: you are not inside a DVC repo"):
        table.show([])


@pytest.mark.slow
def test_the_table_of_a_repository_has_its_experiments(clone: Path) -> None:
    command = [sys.executable, "-m", "tools.table"]
    printed = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=True).stdout
    assert len(printed.splitlines()) >= 3
    assert "%" in printed.splitlines()[-1]
