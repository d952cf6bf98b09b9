"""Logging to MLflow: `train` logs each epoch when it ends, and the load of the machine; train, evaluate, verify,
compare, sample and report publish.

The files are the truth, and MLflow is computed from them. After its first failure a stage sends nothing more. The next
stage that reaches the store, or `python -m pipeline.tracking sync`, publishes what is missing.
"""

import argparse
import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from pipeline.config import Params
from pipeline.errors import UserError
from pipeline.tracking import provenance
from pipeline.tracking.mlflow_store import Store, explain, is_refusal
from pipeline.tracking.names import parameter_names
from pipeline.tracking.publish import TRAINING, epoch_points, publish
from pipeline.tracking.results import after_stage


class Run:
    """The context of a stage's work. If it ends without an error, the stage's files are published.

    `train` opens an MLflow run when it starts. The other stages add to the run of their model when they end, so a stage
    that fails changes nothing in the store.

    Args:
        arguments: the stage's command line, which names its files.
        active: False in all but one of a stage's processes.

    Raises:
        UserError: with `tracking.mode` required, if the store cannot be used.
    """

    def __init__(self, stage: str, params: Params, arguments: argparse.Namespace, *, active: bool = True) -> None:
        self._stage, self._params, self._arguments = stage, params, arguments
        self._store: Store | None = None
        self._training: str | None = None  # id of its run
        self._monitor = ExitStack()  # logs the machine's load while it trains
        if not active or params.tracking.mode == "off":
            return
        try:
            self._open()
        except Exception as error:  # whatever it is, the experiment continues
            if params.tracking.mode == "required":
                raise UserError(
                    f"tracking.mode = required, but {explain(error)}; or use tracking.mode = best_effort"
                ) from None
            self._give_up(error)

    def _open(self) -> None:
        store = Store()
        if self._stage == "train":
            name, tags = provenance.workspace_tags()
            self._training = store.create_run(name, tags | provenance.process_tags())
            params = parameter_names(self._params.model_dump(mode="json", include=set(TRAINING)))
            store.send(self._training, params, {}, [])
        self._store = store

    def __enter__(self) -> "Run":
        if self._store and self._training:
            try:
                self._monitor.enter_context(self._store.system_metrics(self._training))
            except Exception as error:
                self._give_up(error)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._monitor.close()
        if self._store:
            try:
                self._close(self._store, kind)
            except Exception as problem:
                self._give_up(problem)

    def _close(self, store: Store, kind: type[BaseException] | None) -> None:
        # A stage that a person runs by hand may have other files than dvc.yaml.
        if kind is None and "DVC_STAGE" in os.environ:
            publish(store, after_stage(self._stage, vars(self._arguments).values(), self._params), self._training)
        elif self._training:
            status = "FINISHED" if kind is None else "KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED"
            store.end_run(self._training, status)

    def log_epoch(self, row: Mapping[str, Any]) -> None:
        """Log a row of the training history. At the first failure warn, and send no more epochs."""
        if not (self._store and self._training):
            return
        try:
            self._store.send(self._training, {}, {}, epoch_points(row))
        except Exception as error:
            if not is_refusal(error):
                self._give_up(error)
                return
            self._training = None  # it was deleted, for example: the store works, so the end goes to another run
            print(f"warning: this training is logged when it ends, in another run: {explain(error)}", file=sys.stderr)

    def _give_up(self, error: Exception) -> None:
        self._store = None
        later = "`python -m pipeline.tracking sync` publishes its files later"
        print(f"warning: this stage logs nothing more: {explain(error)}; {later}", file=sys.stderr)
