"""MLflow, and the only file that imports it: a sink for what the pipeline made, never a source.

One run for each trained model, found by the digest of the model's file (tag `model.sha256`). The store is
`MLFLOW_TRACKING_URI` where that is set, else an SQLite file under the main repository. Nothing here can fail
a stage: the first error is told in one line, and the stage goes on without tracking.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from pipeline.files import main_repository

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "measured-vae"
MODEL_TAG = "model.sha256"

# MLflow reads these when it is imported. A dead server costs seconds instead of minutes.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "3",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


class Run:
    """What a stage adds to the run of a model; as a context it ends the run when it closes.

    Args:
        stage: name of the stage, kept as a tag.
        model_sha256: digest of the model file whose run this is. Without one a new run is opened, and
            `model` says later whose it is.
    """

    def __init__(self, stage: str, model_sha256: str | None = None) -> None:
        self._client: MlflowClient | None = None
        self._broken = False
        self._id = ""
        self._attempt(lambda client: self._open(client, stage, model_sha256))

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        status = "FINISHED" if kind is None else "KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED"
        self._attempt(lambda client: client.set_terminated(self._id, status))

    def params(self, sections: Mapping[str, Mapping[str, Any]]) -> None:
        """Log parameters as `section.key`."""

        def log(client: "MlflowClient") -> None:
            from mlflow.entities import Param

            flat = [Param(f"{name}.{key}", str(v)) for name, section in sections.items() for key, v in section.items()]
            client.log_batch(self._id, params=flat)

        self._attempt(log)

    def metrics(self, values: Mapping[str, float | int], step: int = 0) -> None:
        """Log the metrics of one step in one call."""

        def log(client: "MlflowClient") -> None:
            from mlflow.entities import Metric

            now = int(time.time() * 1000)
            client.log_batch(self._id, [Metric(key, value, now, step) for key, value in values.items()])

        self._attempt(log)

    def model(self, path: Path, sha256: str) -> None:
        """Log the model's file, and make this the run of that model."""
        self.artifacts("model", path)
        self._attempt(lambda client: client.set_tag(self._id, MODEL_TAG, sha256))

    def artifacts(self, folder: str, *paths: Path) -> None:
        """Log files, and all files in folders, into a folder of the run."""

        def log(client: "MlflowClient") -> None:
            for path in paths:
                (client.log_artifacts if path.is_dir() else client.log_artifact)(self._id, str(path), folder)

        self._attempt(log)

    def _open(self, client: "MlflowClient", stage: str, model_sha256: str | None) -> None:
        experiment = _experiment_id(client)
        found = []
        if model_sha256:
            found = client.search_runs([experiment], f"tags.`{MODEL_TAG}` = '{model_sha256}'", max_results=1)
        if found:
            self._id = found[0].info.run_id
            client.update_run(self._id, status="RUNNING")
        else:
            name = os.environ.get("DVC_EXP_NAME") or "workspace"
            tags = {MODEL_TAG: model_sha256} if model_sha256 else {}
            self._id = client.create_run(experiment, tags=tags, run_name=name).info.run_id
        client.set_tag(self._id, "stage", stage)
        if revision := os.environ.get("DVC_EXP_BASELINE_REV"):
            client.set_tag(self._id, "dvc.baseline_rev", revision)

    def _attempt(self, action: Callable[["MlflowClient"], Any]) -> None:
        """Do it; at the first failure say so once, and track no more in this stage."""
        if self._broken:
            return
        try:
            self._client = self._client or _connect()
            action(self._client)
        except Exception as error:  # whatever the tracker does, the experiment goes on
            self._broken = True
            reason = (str(error) or type(error).__name__).splitlines()[0]
            print(f"warning: this stage is not tracked in MLflow at {_store()}: {reason}", file=sys.stderr)


def _store() -> str:
    """The tracking URI: `MLFLOW_TRACKING_URI`, else the embedded store, absolute, under the main repository."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{_folder() / 'mlflow.db'}"


def _folder() -> Path:
    return main_repository() / "mlruns"


def _lock() -> FileLock:
    """Two processes that open a fresh store at once break each other's migrations: one makes it, alone."""
    _folder().mkdir(parents=True, exist_ok=True)
    return FileLock(_folder() / "create.lock")


def _connect() -> "MlflowClient":
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for talkative in ("alembic", "mlflow"):  # they tell of every table of a fresh store
        logging.getLogger(talkative).setLevel(logging.WARNING)
    with _lock():
        return MlflowClient(_store())


def _experiment_id(client: "MlflowClient") -> str:
    """The id of the experiment, which is made with an absolute artifact root where it does not exist."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    with _lock():
        if experiment := client.get_experiment_by_name(name):
            return experiment.experiment_id
        embedded = _store().startswith("sqlite:")
        return client.create_experiment(name, (_folder() / "artifacts").as_uri() if embedded else None)


def main() -> None:
    """`python -m pipeline.tracking`: MLflow's pages for the store in use, on the loopback interface."""
    if not (uri := _store()).startswith("sqlite:"):
        print(f"runs are kept by {uri}: open that address")
        return
    _folder().mkdir(parents=True, exist_ok=True)
    os.environ.update(_ENVIRONMENT)
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "ui",
        "--backend-store-uri",
        uri,
        "--host",
        "127.0.0.1",
        "--port",
        "5000",
    ]
    os.execv(sys.executable, command)  # noqa: S606


if __name__ == "__main__":
    main()
