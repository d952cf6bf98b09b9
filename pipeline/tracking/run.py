"""What a stage logs: one MLflow run for each executed training, to which the stages after it add.

The pipeline's files are the truth and MLflow is a sink. Every event is written to the outbox first, then delivered;
at the first failure a stage says so in one line and delivers no more. What was not delivered is, by the next stage
that finds the store well or by `python -m pipeline.tracking sync`. This module loads mlflow only to deliver.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.config import Tracking
from pipeline.errors import UserError
from pipeline.tracking import identity
from pipeline.tracking.outbox import Entry, flat
from pipeline.tracking.sink import Sink, store

OFF = Tracking(mode="off")  # of a stage's processes all but the first
# Sections of the parameters that make a model: params of its run. Those of later stages are tags of it.
TRAINING = ("data", "model", "train", "runtime")


class Run:
    """A context that opens the run of a model, or a new one for a training, and ends it.

    Args:
        stage: name of the stage, kept as a tag.
        settings: the section `tracking`; with mode `required` a store that cannot be used is an error at once.
        model: digest of the model file whose run this is; None for a training, where `model` says it later.
        data: name and digest of the data.

    Raises:
        UserError: with mode `required`, when the store cannot be used.
    """

    def __init__(self, stage: str, settings: Tracking, data: tuple[str, str], model: str | None = None) -> None:
        self._entry: Entry | None = None
        self._sink: Sink | None = None
        self._has_model = model is not None
        self._whole = False  # whether the store has all of the entry
        self._data = dict(zip(("name", "digest"), data, strict=True))
        if settings.mode == "off":
            return
        try:
            self._entry = Entry.begin(stage)
        except OSError as error:
            _warn(f"this stage is not logged, for the outbox cannot be written: {error}")
        else:
            tags = identity.tags() | {"data.sha256": self._data["digest"]}
            self._log("open", stage=stage, name=identity.name(), model=model, tags=tags, missing=False)
            self._log("data", **self._data)
            self._attempt(self._connect)
        if settings.mode == "required" and not self._sink:
            if self._entry:
                self._entry.close(delivered=True)
            raise UserError(
                f"tracking.mode = required, and MLflow at {store()} cannot be used; start it, set MLFLOW_TRACKING_URI "
                "to another store, or use tracking.mode = best_effort"
            )

    def _connect(self) -> None:
        """What others have left is sent first: the run that this stage belongs to may be among it."""
        self._sink = Sink()
        self._sink.catch_up()
        self._deliver()

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        status = "FINISHED" if kind is None else "KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED"
        self._log("close", status=status)
        if self._entry:
            self._entry.close(delivered=self._whole)

    def params(self, sections: Mapping[str, Mapping[str, Any]]) -> None:
        """Log parameters of the training as `section.key`."""
        self._log("params", values=named(sections))

    def settings(self, sections: Mapping[str, Mapping[str, Any]]) -> None:
        """Log parameters of a later stage: as tags, since the same model may be measured again in another way."""
        self._log("tags", values=named(sections))

    def metrics(self, values: Mapping[str, Any], step: int = 0) -> None:
        """Log the metrics of one step; nested names are joined by dots."""
        self._log("metrics", values=flat(values), step=step, data=self._data, of_model=self._has_model, missing=False)

    def model(self, path: Path, sha256: str) -> None:
        """Log the model's file, and make this the run of that model."""
        self._log("model", keep=[path], sha256=sha256)
        self._has_model = True

    def artifacts(self, folder: str, *paths: Path) -> None:
        """Log files, and all files in folders, into a folder of the run."""
        self._log("artifacts", keep=paths, folder=folder)

    def _log(self, operation: str, keep: Sequence[Path] = (), **details: Any) -> None:
        if self._entry is None:
            return
        try:
            if keep:
                details["files"] = self._entry.keep(keep)
            self._entry.append(operation, **details)
        except OSError as error:
            _warn(f"what this stage logs from here on is lost, for the outbox cannot be written: {error}")
            self._entry.close(delivered=False)
            self._entry = None
        else:
            self._attempt(self._deliver)

    def _deliver(self) -> None:
        if self._sink and self._entry:
            self._whole = self._sink.deliver(self._entry)

    def _attempt(self, action: Callable[[], None]) -> None:
        """Do it; at the first failure say so, and deliver no more in this stage."""
        try:
            action()
        except Exception as error:  # whatever the tracker does, the experiment goes on
            self._sink = None
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            later = "`python -m pipeline.tracking sync` logs this stage later"
            _warn(f"MLflow at {store()} cannot be used: {reason}; {later}")


def named(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Parameters as `section.key`, text as MLflow keeps it."""
    return {f"{name}.{key}": str(value) for name, section in sections.items() for key, value in section.items()}


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)
