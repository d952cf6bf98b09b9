"""The MLflow store: the only file that imports mlflow.

The `log` methods add what a run lacks and change nothing that it has, so each can be repeated.
"""

import json
import logging
import os
import shlex
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from pipeline.code import CODE_ROOTS
from pipeline.errors import UserError, redacted
from pipeline.storage.files import main_repository, sha256
from pipeline.tracking.place import FOLDER, artifacts, database, follow_repository, store_uri
from pipeline.tracking.provenance import is_dead

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as StoredRun

EXPERIMENT = "measured-vae"
LOCK_SECONDS = 60  # creating a SQLite store takes 7
BATCH = 1000  # metrics that MLflow takes in one call
CHAMPION = "champion"  # alias of the best model in MLflow's registry

# MLflow reads these when it is imported. A dead server then costs seconds instead of minutes.
ENVIRONMENT = {
    "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "3",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}

# What MLflow's pages show of this experiment. The kind opens them on runs instead of traces of language models. The
# view, a tag that the table of runs reads (MLflow 3.17), has these columns in this order, and the best run first.
VIEW = "results"
COLUMNS = (
    "validation.log_px", "test.log_px", "test.bits_per_dim", "test.trusted", "sample.recognised", "test.elbo",
)  # fmt: skip


def _view() -> str:
    columns = [f"metrics.`{key}`" for key in COLUMNS]
    state = {
        "selectedColumns": columns,
        "columnOrder": ["attributes.`Run Name`", *columns],
        "orderByKey": columns[0],
        "orderByAsc": False,
    }
    return json.dumps({"name": VIEW, "createdAt": 0, "updatedAt": 0, "state": json.dumps(state)})


EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development", f"mlflow.sharedViewState.{VIEW}": _view()}

Texts = Mapping[str, str]
Point = tuple[str, float, int]  # key, value and step of a metric; a value of the whole run has step 0


def explain(error: Exception) -> str:
    """What is wrong with the store and what to do, without passwords. It says more than `str(error)`."""
    if isinstance(error, UserError):
        return str(error)
    uri = redacted(store_uri())
    reason = redacted(" ".join(str(error).partition("[SQL:")[0].split()))[:300].rstrip(".") or type(error).__name__
    if "Current state is deleted" in reason:
        return (
            f"MLflow at {uri} refuses this: {reason}; restore it there, or set MLFLOW_EXPERIMENT_NAME to another name"
        )
    if is_refusal(error):
        return f"MLflow at {uri} refuses this: {reason}; correct that, or set MLFLOW_TRACKING_URI to another store"
    remedy = "start" if uri.startswith("http") else "repair"
    return f"MLflow at {uri} cannot be used: {reason}; {remedy} it, or set MLFLOW_TRACKING_URI to another store"


def is_refusal(error: Exception) -> bool:
    """Whether the store works and will refuse the same again: what was deleted, is forbidden or not valid."""
    if getattr(error, "error_code", "") == "BAD_REQUEST":  # also MLflow's code for a database that is damaged
        return False
    # MLflow's exceptions have a method, those of the transfer of files have a response.
    response = getattr(error, "response", None)
    status = getattr(error, "get_http_status_code", lambda: getattr(response, "status_code", 0))()
    return 400 <= status < 500 and status not in (429, 499)  # too many requests, cancelled


def connect() -> tuple["MlflowClient", FileLock]:
    """A client of the store, which is created if it does not exist, and the lock that guards it.

    The lock is held while objects of the store are looked up and created: two processes that create a SQLite store at
    once break it.

    Raises:
        Exception: whatever MLflow raises.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for logger in ("alembic", "mlflow"):  # they list the tables of a new store, and show tracebacks of failures
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    folder = main_repository() / FOLDER
    folder.mkdir(exist_ok=True)
    if file := database():
        file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock", timeout=LOCK_SECONDS)
    with lock:
        client = MlflowClient(store_uri())
        follow_repository()
    return client, lock


class Store:
    """A connection to the store, and the project's experiment in it."""

    def __init__(self) -> None:
        """Connect, create the experiment if it does not exist, and close runs of dead processes.

        Raises:
            UserError: if the experiment was deleted.
            Exception: whatever MLflow raises.
        """
        self.changes = 0  # what this connection has added
        self.client, self.lock = connect()
        with self.lock:
            self.experiment = self._experiment()
        self._close_dead_runs()

    def _experiment(self) -> str:
        """The experiment's id."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        if not (experiment := self.client.get_experiment_by_name(name)):
            folder = artifacts()
            return self.client.create_experiment(name, folder.as_uri() if folder else None, dict(EXPERIMENT_TAGS))
        if experiment.lifecycle_stage == "deleted":
            raise UserError(
                f"the experiment {name} was deleted in MLflow; set MLFLOW_EXPERIMENT_NAME to another name, or restore "
                f"it: MLFLOW_TRACKING_URI={shlex.quote(store_uri())} mlflow experiments restore "
                f"--experiment-id {experiment.experiment_id}"
            )
        for key, value in EXPERIMENT_TAGS.items():
            if key not in experiment.tags:  # a store of older code; what a user chose stays
                self.client.set_experiment_tag(experiment.experiment_id, key, value)
        return experiment.experiment_id

    @property
    def page(self) -> str:
        """The path of the experiment's runs in MLflow's pages, with the columns of `COLUMNS`."""
        return f"#/experiments/{self.experiment}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"

    def _close_dead_runs(self) -> None:
        """Runs whose process has ended on this machine become KILLED, at the time of their last metric."""
        for run in self.search("attributes.status = 'RUNNING'"):
            if is_dead(run.data.tags):
                points = [p for key in list(run.data.metrics)[:1] for p in self.history(run, key)]
                end = max((point.timestamp for point in points), default=run.info.start_time)
                self.client.set_terminated(run.info.run_id, "KILLED", end)
                self.changes += 1

    def search(self, query: str) -> "list[StoredRun]":
        """Runs that match and were not deleted, newest first."""
        return list(self.client.search_runs([self.experiment], query, order_by=["attributes.start_time DESC"]))

    def history(self, run: "StoredRun", key: str) -> list[Any]:
        """All points of a metric, with step, value and timestamp."""
        return list(self.client.get_metric_history(run.info.run_id, key))

    def create_run(self, name: str, tags: Texts) -> str:
        """The id of a new run, which is RUNNING."""
        self.changes += 1
        return self.client.create_run(self.experiment, tags=dict(tags), run_name=name).info.run_id

    def end_run(self, run_id: str, status: str, *, running: bool = False) -> None:
        """Set the final status, FINISHED, FAILED or KILLED, unless the run was deleted.

        Args:
            running: change only a run that has not ended.
        """
        other = "= 'RUNNING'" if running else f"!= '{status}'"
        if self.search(f"attributes.run_id = '{run_id}' and attributes.status {other}"):
            self.client.set_terminated(run_id, status)
            self.changes += 1

    @contextmanager
    def system_metrics(self, run_id: str) -> Iterator[None]:
        """Log the machine's load to a run every ten seconds, in a thread that ends with the block or its first failure.

        `MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=false` turns it off.
        """
        from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        if not MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get():
            yield
            return
        monitor = SystemMetricsMonitor(run_id, tracking_uri=self.client.tracking_uri)
        monitor.start()
        try:
            yield
        finally:
            monitor.finish()

    def log(self, run_id: str, params: Texts, tags: Texts, points: Sequence[Point] = (), model_id: str = "") -> None:
        """Add the parameters, tags and points of metrics that the run lacks; join the metrics to a model."""
        run = self.client.get_run(run_id)
        keys = {key for key, _, step in points if step} & run.data.metrics.keys()
        logged = {(key, 0) for key in run.data.metrics}
        logged |= {(key, point.step) for key in keys for point in self.history(run, key)}
        self.send(
            run_id,
            {key: value for key, value in params.items() if key not in run.data.params},
            {key: value for key, value in tags.items() if key not in run.data.tags},
            [point for point in points if (point[0], point[2]) not in logged],
            model_id,
        )

    def send(self, run_id: str, params: Texts, tags: Texts, points: Sequence[Point], model_id: str = "") -> None:
        """Log what the run is known to lack."""
        from mlflow.entities import Metric, Param, RunTag

        new_params, new_tags = [Param(*item) for item in params.items()], [RunTag(*item) for item in tags.items()]
        if new_params or new_tags:
            self.client.log_batch(run_id, params=new_params, tags=new_tags)
        now, model = int(time.time() * 1000), {"model_id": model_id, "run_id": run_id} if model_id else {}
        metrics = [Metric(key, value, now, step, **model) for key, value, step in points]
        for start in range(0, len(metrics), BATCH):
            self.client.log_batch(run_id, metrics[start : start + BATCH])
        self.changes += len(params) + len(tags) + len(points)

    def log_model(self, run_id: str, weights: Path, pixels: int, code: Path, tags: Texts) -> str:
        """Add the trained model as the run's output, in MLflow's format; returns the model's id."""
        from mlflow.entities import LoggedModelOutput

        run = self.client.get_run(run_id)
        if run.outputs and run.outputs.model_outputs:
            return run.outputs.model_outputs[0].model_id
        model = self.client.create_logged_model(self.experiment, "vae", run_id, dict(tags), model_type="VAE")
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow's, about type hints of its own classes
            _pack(weights, pixels, code, Path(folder) / "model", model.model_id, run_id)
            self.client.log_model_artifacts(model.model_id, f"{folder}/model")
        self.client.finalize_logged_model(model.model_id, "READY")
        self.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
        self.changes += 1
        return model.model_id

    def champion(self, name: str) -> dict[str, str] | None:
        """Tags of the version of a registered model that has the alias; None if no version has it."""
        for found in self.client.search_registered_models(f"name = '{name}'"):
            if CHAMPION in found.aliases:
                return dict(self.client.get_model_version_by_alias(name, CHAMPION).tags)
        return None

    def register_champion(self, name: str, model_id: str, run_id: str, tags: Texts) -> None:
        """Make a logged model a new version of a registered model, and move the alias to it."""
        if not self.client.search_registered_models(f"name = '{name}'"):
            self.client.create_registered_model(name)
        # Not "models:/MODEL_ID" as the source: MLflow would look that up in its global store instead of this one.
        source = self.client.get_logged_model(model_id).artifact_location
        version = self.client.create_model_version(name, source, run_id, dict(tags), model_id=model_id)
        self.client.set_registered_model_alias(name, CHAMPION, str(version.version))
        self.changes += 1

    def has_model(self, model_id: str) -> bool:
        """Whether a logged model was not deleted."""
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_logged_model(model_id).status == "READY"
        except MlflowException as error:
            if is_refusal(error):
                return False
            raise

    def log_files(self, run_id: str, stage: str, paths: Sequence[Path], name: str) -> None:
        """Upload a stage's files. Earlier ones are replaced only if `name` is the run's name."""
        # Sorted, since a stage and dvc.lock name them in different orders.
        files = [file for path in sorted(paths) for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
        run, tag, digest = self.client.get_run(run_id), f"artifacts.{stage}", sha256(*files)
        logged = run.data.tags.get(tag)
        if logged == digest or (logged and run.info.run_name != name):
            return
        for file in files:
            self.client.log_artifact(run_id, str(file), file.parent.name)
        self.client.set_tag(run_id, tag, digest)
        self.changes += 1


def _pack(weights: Path, pixels: int, code: Path, folder: Path, model_id: str, run_id: str) -> None:
    """A model folder for `mlflow.pyfunc`: weights, code, requirements, signature and an example."""
    import numpy as np
    from mlflow import pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

    from pipeline.tracking.pyfunc_model import OUTPUTS, requirements

    params = ParamSchema([ParamSpec("output", "string", OUTPUTS[0]), ParamSpec("labels", "long", [], (-1,))])
    rows = Schema([TensorSpec(np.dtype(np.float32), (-1, -1))])
    pyfunc.save_model(
        str(folder),
        mlflow_model=Model(model_id=model_id, run_id=run_id),
        loader_module="pipeline.tracking.pyfunc_model",
        data_path=str(weights),
        code_paths=[str(code / name) for name in CODE_ROOTS],
        pip_requirements=requirements(code / "requirements.lock"),
        signature=ModelSignature(rows, rows, params),
        input_example=np.full((1, pixels), 0.5, np.float32),  # a grey image
    )
