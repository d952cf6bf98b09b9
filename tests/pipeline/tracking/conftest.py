"""A small project with an MLflow store, and a server that is none."""

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.tracking.mlflow_store import Store
from tests.pipeline.tracking.project import Project


@pytest.fixture(scope="session")
def _empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an empty store: creating it takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Store()
    return folder


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A server that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        yield listener.getsockname()[1]


@pytest.fixture
def project(_empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with a store and no results, as a stage sees it that DVC has started."""
    folder = tmp_path / "project"
    shutil.copytree(_empty_store, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DVC_STAGE", "some")
    return Project(folder)
