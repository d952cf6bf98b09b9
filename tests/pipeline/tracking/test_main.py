"""`python -m pipeline.tracking ui`, which `make ui` runs, starts MLflow's server on a free port and refuses another."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import requests

from pipeline.process.exit import run_cli
from pipeline.tracking.__main__ import main
from tests.support import ROOT


def ui(port: int, monkeypatch: pytest.MonkeyPatch) -> tuple[int, list[str]]:
    """Exit code and message of the command."""
    messages: list[str] = []
    monkeypatch.setattr("sys.argv", ["tracking", "ui", "--port", str(port)])
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
        assert message.endswith("; name another: make ui PORT=5001")
    assert not list(tmp_path.iterdir())


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
    monkeypatch.setattr("pipeline.tracking.__main__.connect", lambda: None)
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
        [default] = requests.get(query, timeout=60).json()["experiments"]
        assert default["artifact_location"].endswith("mlruns/0")
        assert (folder / "mlruns/mlflow.db").is_file()
        assert {path.name for path in tmp_path.iterdir()} == {folder.name, "log"}
    finally:
        processes = [*psutil.Process(server.pid).children(recursive=True), psutil.Process(server.pid)]
        for process in processes:
            process.kill()
        server.wait()
