"""MLflow as a sink: events in, runs out. The only file that imports mlflow.

Every event can be delivered twice and is there once: a run is found by the entry that opened it, or by the digest of
its model; a metric has the time of its event; files have a digest among the run's tags.
"""

import logging
import os
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from pipeline.files import main_repository, sha256
from pipeline.tracking import outbox
from pipeline.tracking.outbox import Entry, Event, Progress

if TYPE_CHECKING:
    from mlflow.entities import Run

EXPERIMENT = "measured-vae"
MODEL_TAG, ENTRY_TAG = "model.sha256", "outbox.entry"

# MLflow reads these when it is imported. A dead server costs seconds instead of minutes.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "3",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def store() -> str:
    """The tracking URI: `MLFLOW_TRACKING_URI`, else the embedded store, absolute, under the main repository."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{_folder() / 'mlflow.db'}"


def _folder() -> Path:
    return main_repository() / "mlruns"


def _lock() -> FileLock:
    """Two processes that open a fresh store at once break each other's migrations: one makes it, alone."""
    _folder().mkdir(parents=True, exist_ok=True)
    return FileLock(_folder() / "create.lock")


class Sink:
    """A connection to the store, and the experiment in it."""

    def __init__(self) -> None:
        """Connect, and make the store and the experiment where they do not exist.

        Raises:
            Exception: whatever MLflow raises.
        """
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        for talkative in ("alembic", "mlflow"):  # they tell of every table of a fresh store
            logging.getLogger(talkative).setLevel(logging.ERROR)
        self.uri = store()
        with _lock():
            self.client: MlflowClient = MlflowClient(self.uri)
            self.experiment = self._experiment()
        self.changes = 0  # what deliveries have added to the store

    def _experiment(self) -> str:
        """The id of the experiment; the embedded store's has an absolute artifact root."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        if experiment := self.client.get_experiment_by_name(name):
            return experiment.experiment_id
        embedded = self.uri.startswith("sqlite:")
        return self.client.create_experiment(name, (_folder() / "artifacts").as_uri() if embedded else None)

    def deliver(self, entry: Entry) -> bool:
        """Send what the store does not have yet; whether the entry is closed and the store has all of it."""
        events, progress = entry.events(), entry.progress
        if progress.uri != self.uri:
            progress = Progress(self.uri)
        for number, event in enumerate(events[progress.delivered :], start=progress.delivered + 1):
            if event["do"] == "open":
                progress = progress._replace(run_id=self._open(entry, event))
            else:
                getattr(self, f"_{event['do']}")(progress.run_id, entry, event)
            progress = progress._replace(delivered=number)
            entry.progress = progress
        return bool(events) and events[-1]["do"] == "close"

    def catch_up(self) -> int:
        """Deliver what dead stages and outages have left; the number of entries."""
        count = 0
        for entry in outbox.pending():
            events = entry.events()
            if events and events[-1]["do"] != "close":  # its stage was killed before it could say so
                entry.append("close", status="KILLED", at=events[-1]["time"])
            if not events or self.deliver(entry):
                entry.close(delivered=True)
                count += 1
        return count

    def _open(self, entry: Entry, event: Event) -> str:
        """The run of this entry: that of the model which it reads; for a training, a new one."""
        run = self._find(ENTRY_TAG, entry.folder.name)
        if not run and event["model"]:
            run = self._find(MODEL_TAG, event["model"])
        tags = event["tags"] | {"stage": event["stage"]}
        if run:
            run_id = run.info.run_id
            if not event["missing"]:
                self.client.update_run(run_id, status="RUNNING")
            self._set_tags(run, tags)
            return run_id
        if event["model"]:
            tags |= {MODEL_TAG: event["model"], "cached": "true"}  # it was trained elsewhere, or for another store
        tags[ENTRY_TAG] = entry.folder.name
        self.changes += 1
        return self.client.create_run(self.experiment, event["time"], tags, event["name"]).info.run_id

    def _find(self, tag: str, value: str) -> "Run | None":
        newest = ["attributes.start_time DESC"]
        found = self.client.search_runs([self.experiment], f"tags.`{tag}` = '{value}'", max_results=1, order_by=newest)
        return found[0] if found else None

    def _tags(self, run_id: str, entry: Entry, event: Event) -> None:
        self._set_tags(self.client.get_run(run_id), event["values"])

    def _set_tags(self, run: "Run", tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        new = [RunTag(key, value) for key, value in tags.items() if run.data.tags.get(key) != value]
        if new:
            self.client.log_batch(run.info.run_id, tags=new)
            self.changes += len(new)

    def _params(self, run_id: str, entry: Entry, event: Event) -> None:
        from mlflow.entities import Param

        there = self.client.get_run(run_id).data.params
        new = [Param(key, value) for key, value in event["values"].items() if key not in there]
        if new:
            self.client.log_batch(run_id, params=new)
            self.changes += len(new)

    def _metrics(self, run_id: str, entry: Entry, event: Event) -> None:
        """Metrics of one step, joined to the data, and to the run's model where they are of that."""
        from mlflow.entities import Metric

        values = event["values"]
        if event["missing"]:
            values = self._missing(run_id, values, event["step"])
        if not values:
            return
        outputs = self.client.get_run(run_id).outputs
        models = outputs.model_outputs if outputs else []
        joined: dict[str, Any] = {"dataset_name": event["data"]["name"], "dataset_digest": event["data"]["digest"][:36]}
        if event["of_model"] and models:
            joined |= {"model_id": models[0].model_id, "run_id": run_id}
        metrics = [Metric(key, value, event["time"], event["step"], **joined) for key, value in values.items()]
        self.client.log_batch(run_id, metrics)
        self.changes += len(metrics)

    def _missing(self, run_id: str, values: dict[str, float], step: int | None) -> dict[str, float]:
        """Those that the run does not have: of an epoch by its number, else by the latest value."""
        if not step:
            latest = self.client.get_run(run_id).data.metrics
            return {key: value for key, value in values.items() if latest.get(key) != value}
        steps = {key: {metric.step for metric in self.client.get_metric_history(run_id, key)} for key in values}
        return {key: value for key, value in values.items() if step not in steps[key]}

    def _data(self, run_id: str, entry: Entry, event: Event) -> None:
        """The data set as an input of the run."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = self.client.get_run(run_id).inputs
        if inputs and inputs.dataset_inputs:
            return
        dataset = Dataset(event["name"], event["digest"][:36], "local", event["name"])
        self.client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
        self.changes += 1

    def _model(self, run_id: str, entry: Entry, event: Event) -> None:
        """The trained model as an output of the run, of MLflow's format; and this as the run of that model."""
        from mlflow.entities import LoggedModelOutput

        run = self.client.get_run(run_id)
        self._set_tags(run, {MODEL_TAG: event["sha256"]})
        if run.outputs and run.outputs.model_outputs:
            return
        [file] = (entry.folder / event["files"]).iterdir()
        tags = {MODEL_TAG: event["sha256"]}
        model = self.client.create_logged_model(self.experiment, "vae", run_id, tags, model_type="VAE")
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow's, about type hints of its own classes
            _pack(file, Path(folder) / "model", model.model_id, run_id)
            self.client.log_model_artifacts(model.model_id, f"{folder}/model")
        self.client.finalize_logged_model(model.model_id, "READY")
        self.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
        self.changes += 1

    def _artifacts(self, run_id: str, entry: Entry, event: Event) -> None:
        """Files into a folder of the run, unless they are there."""
        run, files = self.client.get_run(run_id), entry.folder / event["files"]
        digest = {f"artifacts.{event['folder']}": sha256(*sorted(files.iterdir()))}
        if digest.items() <= run.data.tags.items():
            return
        self.client.log_artifacts(run_id, str(files), event["folder"])
        self._set_tags(run, digest)

    def _close(self, run_id: str, entry: Entry, event: Event) -> None:
        if event.get("missing") and self.client.get_run(run_id).info.status == "FINISHED":
            return
        self.client.set_terminated(run_id, event["status"], event.get("at", event["time"]))


def _pack(weights: Path, folder: Path, model_id: str, run_id: str) -> None:
    """A model folder that loads with `mlflow.pyfunc` wherever the pinned packages are: weights, code, signature."""
    import numpy as np
    from mlflow import pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

    from pipeline.tracking.served import OUTPUTS, Served, requirements

    rows = Schema([TensorSpec(np.dtype(np.float32), (-1, -1))])
    pyfunc.save_model(
        str(folder),
        mlflow_model=Model(model_id=model_id, run_id=run_id),
        loader_module="pipeline.tracking.served",
        data_path=str(weights),
        code_paths=[str(Path(__file__).parents[1])],
        pip_requirements=requirements(),
        signature=ModelSignature(rows, rows, ParamSchema([ParamSpec("output", "string", OUTPUTS[0])])),
        input_example=Served(weights).example(),
    )
