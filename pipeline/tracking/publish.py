"""The state of `dvc.lock` as a run: for stages that DVC took from its cache, which ran and logged nothing."""

import hashlib
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

from pipeline import tables
from pipeline.checkpoint import load as load_model
from pipeline.config import load as load_params
from pipeline.config import read_yaml
from pipeline.errors import UserError
from pipeline.files import read_metrics, sha256
from pipeline.tracking import identity
from pipeline.tracking.outbox import Entry, flat
from pipeline.tracking.run import TRAINING, named
from pipeline.tracking.sink import Sink

LOCK = Path("dvc.lock")


def publish(sink: Sink) -> str:
    """Send what the run of the locked model lacks, by the way of the outbox; the run's id.

    Raises:
        UserError: when the workspace does not hold what `dvc.lock` says.
    """
    if not LOCK.is_file():
        raise UserError("there is no dvc.lock here; run this in the repository, after `dvc repro`")
    stages = read_yaml(LOCK).get("stages", {})
    if "train" not in stages:
        raise UserError("dvc.lock has no training; run `dvc repro`")
    outs = {name: _outs(stage) for name, stage in stages.items()}
    train = outs["train"]
    model = sha256(train["model"])
    _, description = load_model(train["model"])
    history = tables.read_csv(train["history"], "epoch").to_dict("records")
    metrics = [flat(read_metrics(files["metrics"])) for files in outs.values() if "metrics" in files]
    sections = load_params().model_dump(exclude={"recovery", "tracking"})
    data = {"name": description.dataset, "digest": description.data_sha256}
    name = identity.experiment_of(str(LOCK)) or identity.name()
    tags = identity.tags() | {"data.sha256": data["digest"]}

    entry = Entry.begin("sync")
    try:
        entry.append("open", stage="sync", name=name, model=model, tags=tags, missing=True)
        entry.append("data", **data)
        entry.append("params", values=named({key: sections[key] for key in sections if key in TRAINING}))
        entry.append("tags", values=named({key: sections[key] for key in sections if key not in TRAINING}))
        entry.append("model", files=entry.keep([train["model"]]), sha256=model)
        for row in history:
            values = {str(key): float(value) for key, value in row.items() if key != "epoch"}
            entry.append("metrics", values=values, step=int(row["epoch"]), data=data, of_model=False, missing=True)
        for values in metrics:
            entry.append("metrics", values=values, step=0, data=data, of_model=True, missing=True)
        if files := outs.get("render"):
            entry.append("artifacts", files=entry.keep([files["figures"], files["overview"]]), folder="figures")
        if files := outs.get("report"):
            entry.append("artifacts", files=entry.keep([files["html"], files["markdown"]]), folder="report")
        entry.append("close", status="FINISHED", missing=True)
        sink.deliver(entry)
        return entry.progress.run_id
    finally:
        entry.close(delivered=True)  # what dvc.lock says can be sent again at any time


def _outs(stage: dict[str, Any]) -> dict[str, Path]:
    """Outs by the option that names them in the stage's command, each as the lock has it."""
    words = shlex.split(stage["cmd"])
    options = {path: name.removeprefix("--") for name, path in pairwise(words) if name[:2] == "--"}
    found: dict[str, Path] = {}
    for out in stage.get("outs", []):
        path = Path(out["path"])
        if not path.exists() or (path.is_file() and _md5(path) != out["md5"]):
            raise UserError(f"{path} is not what dvc.lock says; run `dvc checkout`, or `dvc repro` after a change")
        found[options[out["path"]]] = path
    return found


def _md5(path: Path) -> str:
    """DVC's digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
