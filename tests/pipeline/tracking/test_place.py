"""The store and its artifacts follow the main repository: in temporary workspaces, and when it is moved or copied."""

import contextlib
import shutil
import sqlite3
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.errors import UserError
from pipeline.storage.files import sha256
from pipeline.tracking.mlflow_store import Store
from pipeline.tracking.place import artifacts, store_uri
from tests.pipeline.tracking.project import AFTER_EVALUATION, AFTER_TRAINING, Project, client, runs


@pytest.fixture
def main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository; the current folder is a temporary workspace of it."""
    workspace = tmp_path / "main/.dvc/tmp/exps/standalone/tmp1"
    for folder in (tmp_path / "main", workspace):
        (folder / ".git").mkdir(parents=True)
    monkeypatch.chdir(workspace)
    return tmp_path / "main"


@pytest.mark.parametrize(
    ("address", "absolute"),
    [
        ("", "sqlite:///{}/mlruns/mlflow.db"),
        ("sqlite:///mlflow.db", "sqlite:///{}/mlflow.db"),
        ("sqlite:///./stores/../a%20b.db?timeout=30", "sqlite:///{}/a b.db?timeout=30"),
        ("sqlite:///a%3Fb/mlflow.db", "sqlite+pysqlite:///{}/a%3Fb/mlflow.db"),
        ("sqlite+pysqlite:///mlflow.db", "sqlite+pysqlite:///{}/mlflow.db"),
        ("sqlite:////elsewhere/mlflow.db", "sqlite:////elsewhere/mlflow.db"),
        ("runs of all", "file://{}/runs%20of%20all"),
        ("file:runs%20of%20all", "file://{}/runs%20of%20all"),
        ("file:///elsewhere", "file:///elsewhere"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("postgresql://u:p@host/db", "postgresql://u:p@host/db"),
    ],
)
def test_a_relative_address_means_the_main_repository(
    main: Path, address: str, absolute: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert store_uri() == absolute.format(main)


@pytest.mark.parametrize(
    "address",
    ["sqlite://", "sqlite:mlflow.db", "sqlite://mlflow.db", "sqlite:///:memory:", "sqlite:///file:m.db?uri=true",
     "sqlite:///a?b/mlflow.db"],
)  # fmt: skip
def test_an_address_that_names_no_file_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(UserError, match="names no file; write sqlite:///PATH"):
        store_uri()


def test_a_database_elsewhere_has_its_artifacts_beside_it_and_a_server_keeps_them_itself(
    main: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for address, folder in {
        "sqlite:///mlflow.db": main / "mlruns/artifacts",
        "sqlite:////elsewhere/mlflow.db": Path("/elsewhere/mlruns/artifacts"),
        "http://127.0.0.1:5000": None,
    }.items():
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        assert artifacts() == folder


def select(folder: Path, query: str) -> list[str]:
    with contextlib.closing(sqlite3.connect(folder / "mlruns/mlflow.db")) as store, store:
        return [value for (value,) in store.execute(query).fetchall()]


def test_a_relative_database_that_a_workspace_creates_is_in_the_main_repository(
    main: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlruns/mlflow.db")
    Store()
    assert [path.name for path in Path().iterdir()] == [".git"]
    locations = select(main, "select artifact_location from experiments order by experiment_id")
    assert locations == [f"{main}/mlruns/0", f"file://{main}/mlruns/artifacts"]  # `Default` and ours


@pytest.mark.parametrize("name", ["a b", "a%20b", "a?b", "ä 日%3F", "a#b"])
def test_any_name_of_the_folder_will_do(project: Project, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    home = project.folder.parent / "home"
    shutil.copytree(project.folder, home / name)
    monkeypatch.chdir(home / name)
    store = Store()
    run = store.create_run("one", {})
    store.client.log_artifact(run, "params.yaml")
    assert select(Path(), "select name from runs") == ["one"]
    assert [path.name for path in Path().glob("mlruns/artifacts/*/artifacts/*")] == ["params.yaml"]
    assert Path(store.client.download_artifacts(run, "params.yaml")).read_bytes() == Path("params.yaml").read_bytes()
    assert [path.name for path in home.iterdir()] == [name]


def everything(folder: Path) -> dict[str, str]:
    """The digest of each file, by name."""
    return {str(path.relative_to(folder)): sha256(path) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("moved", [True, False], ids=["moved", "copied"])
def test_artifacts_are_found_and_made_where_the_repository_is_now(
    project: Project, moved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.train()
    project.evaluate(5.0, *AFTER_TRAINING[1:])
    old, new = project.folder, project.folder.parent / "other place"
    place = f"file://{old}/mlruns/artifacts/t"
    for row in (
        "trace_info (request_id, experiment_id, timestamp_ms, status) values ('t', 1, 0, 'OK')",
        f"trace_tags (key, value, request_id) values ('mlflow.artifactLocation', '{place}', 't')",
        "registered_models (workspace, name) values ('default', 'm')",
        "model_versions (workspace, name, version, source, storage_location) "
        f"values ('default', 'm', 1, '{place}', '{old}/mlruns/0/t')",
    ):
        select(old, f"insert into {row}")
    shutil.copytree(old, new)
    if moved:
        shutil.rmtree(old)
    before = everything(old)
    project.folder = new
    monkeypatch.chdir(new)
    monkeypatch.setenv("DVC_EXP_NAME", "second")
    project.evaluate(6.0, *AFTER_EVALUATION)

    assert (old.exists(), everything(old)) == (not moved, before)
    for run, value in zip(runs(project), (5.0, 6.0), strict=True):
        report = Path(client(project).download_artifacts(run.info.run_id, "reports/report.md"))
        assert report.read_text(encoding="utf-8") == f"reports/report.md {value}"
    text = "".join(sqlite3.connect(new / "mlruns/mlflow.db").iterdump())
    assert f"{old}/" not in text
    assert text.count(f"'{(new / 'mlruns/artifacts/t').as_uri()}'") == 2
    assert f"'{new}/mlruns/0/t'" in text


def test_a_place_that_the_user_chose_stays(project: Project) -> None:
    MlflowClient(store_uri()).create_experiment("chosen", "file:///chosen/artifacts")
    select(project.folder, "update experiments set artifact_location = '/old/mlruns/0' where experiment_id = 0")
    Store()
    found = select(project.folder, "select artifact_location from experiments order by experiment_id")
    assert found == ["/old/mlruns/0", f"file://{project.folder}/mlruns/artifacts", "file:///chosen/artifacts"]
