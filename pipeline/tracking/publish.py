"""Make the store equal to the files: one run for each training, and a child run for each further measurement.

A training's run is found by the digest of its model. The metrics of the stages after it are a measurement. It belongs
to the training's run, or to a child if that run has another measurement: experiments never overwrite each other.
"""

import hashlib
import json
import math
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.storage.files import sha256
from pipeline.tracking import champion, provenance
from pipeline.tracking.mlflow_store import Point, Store, is_refusal
from pipeline.tracking.results import Results, of_revision

MODEL, PARENT = "model.sha256", "mlflow.parentRunId"
# Sections of the parameters that make a model: parameters of its run. Those of later stages are tags, since a model
# may be measured again with other settings.
TRAINING = ("data", "model", "train", "runtime")


def publish(store: Store, results: Results, training: str | None = None) -> None:
    """Add to the store what it lacks of these results.

    Args:
        training: id of the run that logged the training, if known.

    Raises:
        Exception: whatever MLflow raises. If it refuses something for good, the runs end as FAILED. They stay FINISHED
            if it refuses the champion only.
    """
    digest = sha256(results.model)
    measured = {stage: values for stage, values in results.metrics.items() if stage != "train"}
    keys = {f"{stage}.sha256": _digest(values) for stage, values in measured.items()}
    with store.lock:  # whoever publishes the same model at the same time must see these tags
        if not (training and store.search(f"attributes.run_id = '{training}'")):  # it may have been deleted meanwhile
            training = _training(store, results, digest)
        store.log(training, _sections(results, TRAINING), {MODEL: digest, "data.sha256": results.data_sha256})
        measurement = _measurement(store, results, training, keys)
        try:
            store.log(measurement, {}, keys | _sections(results, measured))

            store.log(training, {}, {}, [point for row in results.history for point in epoch_points(row)])
            model = store.log_model(training, results.model, results.pixels, results.code, {MODEL: digest})
            for run, stages in ((training, ["train"]), (measurement, measured)):
                points = [(key, value, 0) for stage in stages for key, value in results.metrics[stage].items()]
                store.log(run, {}, {}, points, model)
            for stage, paths in results.documents.items():
                store.log_files(measurement, stage, paths, results.name)
        except Exception as error:
            for run in {training, measurement} if is_refusal(error) else ():
                store.end_run(run, "FAILED", running=True)
            raise
        for run in {training, measurement}:
            store.end_run(run, "FINISHED")
        champion.update(store, results, digest, training, model)


def epoch_points(row: Mapping[str, Any]) -> list[Point]:
    """A row of the training history as points of metrics."""
    return [(key, float(value), int(row["epoch"])) for key, value in row.items() if key != "epoch"]


def experiments() -> Iterator[Results]:
    """Results of every experiment that DVC keeps. One that cannot be read any more is reported and skipped."""
    for name, revision in provenance.experiments():
        with tempfile.TemporaryDirectory() as folder:
            try:
                results = of_revision(name, revision, Path(folder))
            except Exception as error:  # an older project may lack anything
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                print(f"skipped {name} ({revision[:7]}), which cannot be read any more: {reason}")
            else:
                yield results


def _training(store: Store, results: Results, digest: str) -> str:
    """The run of the model; if there is none, a run that an outage cut off, or a new one."""
    for run in store.search(f"tags.`{MODEL}` = '{digest}'"):
        return run.info.run_id
    expected = {row["epoch"]: row["train_elbo"] for row in results.history}  # to six digits
    for run in store.search("attributes.status != 'RUNNING'"):
        if MODEL not in run.data.tags and "train_elbo" in run.data.metrics:
            points = store.history(run, "train_elbo")
            if all(math.isclose(p.value, expected.get(p.step, math.nan), rel_tol=1e-5) for p in points):
                return run.info.run_id
    return store.create_run(results.name, results.tags | {"cached": "true"})


def _measurement(store: Store, results: Results, training: str, keys: Mapping[str, str]) -> str:
    """The run of these metrics: the training's run or a child that has no other metrics of these stages."""
    children = store.search(f"tags.`{PARENT}` = '{training}'")
    for run in (*store.search(f"attributes.run_id = '{training}'"), *reversed(children)):
        if all(run.data.tags.get(key, digest) == digest for key, digest in keys.items()):
            return run.info.run_id
    return store.create_run(results.name, results.tags | {PARENT: training})


def _sections(results: Results, names: Collection[str]) -> dict[str, str]:
    return {key: value for key, value in results.parameters.items() if key.partition(".")[0] in names}


def _digest(metrics: Mapping[str, float]) -> str:
    return hashlib.sha256(json.dumps(metrics, sort_keys=True).encode()).hexdigest()
