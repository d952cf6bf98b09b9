"""`python -m pipeline.tracking ui`, which `make ui` runs: MLflow's pages on a free port, and the runs' address."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import requests

from pipeline.errors import UserError
from pipeline.process.exit import run_cli
from pipeline.tracking.__main__ import free_port, main
from pipeline.tracking.mlflow_store import COLUMNS, EXPERIMENT, EXPERIMENT_TAGS, Store
from tests.pipeline.tracking.project import Project, client
from tests.support import ROOT


def ui(port: int | None, monkeypatch: pytest.MonkeyPatch) -> tuple[int, list[str]]:
    """Exit code and message of the command."""
    messages: list[str] = []
    monkeypatch.setattr("sys.argv", ["tracking", "ui", *(() if port is None else ("--port", str(port)))])
    return run_cli(main, messages.append), messages


def test_a_port_that_is_taken_or_none_is_one_message(
    silent_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for port, reason in ((silent_port, "[Errno 98] Address already in use"), (70000, "port must be 0-65535")):
        code, [message] = ui(port, monkeypatch)
        assert code == 1
        assert message.startswith(f"error: port {port} cannot be used (")
        assert reason in message
        assert message.endswith("; `make ui` without PORT takes the first free one")
    assert not list(tmp_path.iterdir())


def test_the_first_free_port_is_taken(silent_port: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert free_port([silent_port, port, silent_port]) == port
    with pytest.raises(UserError, match=f"port {silent_port} cannot be used"):
        free_port([silent_port])
    with pytest.raises(UserError, match=rf"ports {silent_port} to {silent_port} .*; name another: make ui PORT="):
        free_port([silent_port, silent_port])


def test_the_printed_address_has_the_port_and_opens_the_runs(
    project: Project, silent_port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """MLflow's own page is about language models. The view that the address names is a tag of the experiment."""
    started: list[list[str]] = []
    monkeypatch.setattr("os.execve", lambda _, command, environment: started.append(command))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr("pipeline.tracking.__main__.PORTS", [silent_port, port])
    assert ui(None, monkeypatch) == (0, [])
    [address] = [line.removeprefix("open ") for line in capsys.readouterr().out.splitlines()]
    assert address.startswith(f"http://127.0.0.1:{port}/#/experiments/1/runs?workflowType=machine_learning")
    assert started[0][-3:] == [str(port), "--workers", "1"]
    tags = client(project).get_experiment("1").tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    name = address.partition("viewStateShareKey=")[2]
    state = json.loads(json.loads(tags[f"mlflow.sharedViewState.{name}"])["state"])
    columns = [column.removeprefix("metrics.").strip("`") for column in state["selectedColumns"]]
    assert columns[:5] == [
        "validation.log_px", "test.log_px", "test.bits_per_dim", "test.trusted", "sample.recognised"
    ]  # fmt: skip
    assert columns[5] == "test.elbo"
    assert state["columnOrder"][1:] == state["selectedColumns"]


def test_the_columns_are_metrics_of_the_stages() -> None:
    """A misspelt one would be an empty column."""
    for column in COLUMNS:
        part, _, key = column.partition(".")
        assert any(
            key in json.loads(path.read_text(encoding="utf-8")).get(part, {})
            for path in (ROOT / "reports/metrics").glob("*.json")
        ), column


def test_an_experiment_of_older_code_gets_the_view_and_a_view_that_a_user_changed_stays(project: Project) -> None:
    store = client(project)
    for key in list(store.get_experiment("1").tags):
        store.delete_experiment_tag("1", key)
    store.set_experiment_tag("1", "mlflow.experimentKind", "regression")
    Store()
    tags = store.get_experiment("1").tags
    assert tags.keys() == EXPERIMENT_TAGS.keys()
    assert tags["mlflow.experimentKind"] == "regression"


def test_the_pages_open_although_the_experiment_was_deleted(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.execve", lambda *_: None)
    client(project).delete_experiment("1")
    assert ui(None, monkeypatch) == (0, [])
    printed = capsys.readouterr()
    assert "was deleted in MLflow" in printed.err
    assert printed.out.startswith("open http://127.0.0.1:")


def test_make_passes_the_port_on() -> None:
    for words, options in ((["PORT=5001"], ' --port "5001"'), ([], "")):
        command = ["make", "--no-print-directory", "--dry-run", "--old-file=.venv/.ready", "ui", *words]
        environment = {name: value for name, value in os.environ.items() if name != "PORT"}
        found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        assert found.stdout.splitlines()[-1].rstrip() == f"python -m pipeline.tracking ui{options}"


def test_the_address_of_a_database_is_not_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other users could read it there, with its password."""
    calls: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@127.0.0.1:9/runs")
    monkeypatch.setattr("pipeline.tracking.__main__.Store", lambda: SimpleNamespace(page=""))
    monkeypatch.setattr("os.execve", lambda _, command, environment: calls.append((command, environment)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert ui(port, monkeypatch) == (0, [])
    [(command, environment)] = calls
    assert command[2:] == ["mlflow", "ui", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    assert environment["MLFLOW_BACKEND_STORE_URI"] == "postgresql://me:secret@127.0.0.1:9/runs"


@pytest.mark.slow
def test_the_pages_open_before_anything_was_logged_in_any_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a%20b c?d"
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "pipeline.tracking", "ui", "--port", port]
    log = tmp_path / "log"
    with log.open("w", encoding="utf-8") as file:
        server = subprocess.Popen(
            command, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=file, stderr=file
        )
    try:
        deadline, page = time.monotonic() + 300, None
        while page is None:
            assert server.poll() is None, log.read_text(encoding="utf-8")
            assert time.monotonic() < deadline
            try:
                page = requests.get(f"http://127.0.0.1:{port}/", timeout=60)
            except requests.ConnectionError:
                time.sleep(0.2)
        assert "MLflow" in page.text
        query = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search?max_results=9"
        found = {item["name"]: item for item in requests.get(query, timeout=60).json()["experiments"]}
        assert found["Default"]["artifact_location"].endswith("mlruns/0")
        assert found.keys() == {"Default", EXPERIMENT}
        assert (folder / "mlruns/mlflow.db").is_file()
        assert {path.name for path in tmp_path.iterdir()} == {folder.name, "log"}
    finally:
        processes = [*psutil.Process(server.pid).children(recursive=True), psutil.Process(server.pid)]
        for process in processes:
            process.kill()
        server.wait()
