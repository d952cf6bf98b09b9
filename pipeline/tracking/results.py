"""What the files of an experiment say: at a stage's end, in the workspace, or in a git revision."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.code import CODE_ROOTS, ROOT
from pipeline.config import Params, read_yaml
from pipeline.errors import UserError
from pipeline.storage import tables
from pipeline.storage.files import read_metrics
from pipeline.storage.tensors import load_tensors
from pipeline.tracking import provenance
from pipeline.tracking.names import flatten, parameter_names

LOCK = Path("dvc.lock")
LOADER = "pipeline/tracking/pyfunc_model.py"  # older revisions do not have it, so their models cannot be packed
DOCUMENTS = ("sample", "render", "report")  # stages whose outputs besides metrics are uploaded as they are
# Sections of params.yaml that are recorded for a stage. Other stages record the section with their own name.
SECTIONS = {"download": ("data",), "train": ("model", "train", "runtime")}

Stages = Mapping[str, Mapping[str, Any]]  # of dvc.lock


@dataclass(frozen=True)
class Results:
    """Parameters, metrics and files of one experiment, and the folder with the code that made them."""

    name: str
    tags: dict[str, str]
    code: Path
    parameters: dict[str, str]
    model: Path
    dataset: str
    binarise: str
    data_sha256: str
    pixels: int
    history: list[dict[str, float]]  # a row for each epoch
    metrics: dict[str, dict[str, float]]  # by stage
    documents: dict[str, list[Path]]  # files and folders, by stage


def of_workspace() -> Results:
    """Results that the workspace's dvc.lock describes.

    Raises:
        UserError: if there are none, or a file is not what dvc.lock says.
    """
    return _read(Path(), _stages(LOCK), *provenance.workspace_tags(), ROOT)


def after_stage(stage: str, files: Iterable[Path], params: Params) -> Results:
    """Results in the workspace at the end of a stage. DVC adds its outputs to dvc.lock only when it has ended.

    Args:
        files: the stage's inputs and outputs.
    """
    others = {name: content for name, content in _stages(LOCK).items() if name != stage}
    inputs = {out["path"] for content in others.values() for out in content["outs"]}
    outs = [{"path": str(path), "md5": _md5(path)} for path in files if str(path) not in inputs]
    stages = others | {stage: {"outs": outs, "params": {"params.yaml": params.model_dump(mode="json")}}}
    # In a new clone dvc.lock describes files that do not exist yet.
    stages = {name: stages[name] for name in _published(stages, Path())}
    return _read(Path(), stages, *provenance.workspace_tags(), ROOT)


def of_revision(name: str, revision: str, folder: Path) -> Results:
    """Results of an experiment that DVC has committed. Its files and code are copied into `folder`.

    Raises:
        Exception: if any of it cannot be read any more.
    """
    from dvc.api import DVCFileSystem

    # In a revision DVC starts at the root of the git repository, and a project in a subfolder is a "subrepo" for it.
    source, prefix = DVCFileSystem(rev=revision, subrepos=True), provenance.prefix()

    def copy(*paths: str) -> None:
        for path in paths:
            source.get(prefix + path, str(folder / path), recursive=True)

    copy(str(LOCK), LOADER, "requirements.lock", *CODE_ROOTS)
    stages = _stages(folder / LOCK)
    for paths in _published(stages).values():
        copy(*paths)
    return _read(folder, stages, name, provenance.revision_tags(name, revision, f"{revision}^"), folder)


def _read(root: Path, stages: Stages, name: str, tags: dict[str, str], code: Path) -> Results:
    """Read all small files at once, so that a damaged one is found before anything is published."""
    outs = _published(stages)
    if "train" not in outs:
        raise UserError(f"{LOCK} is missing or has no training of this data; run `dvc repro` in the repository")
    for path, md5 in [item for paths in outs.values() for item in paths.items()]:
        if not _matches(root / path, md5):
            restore = f"restore it by `dvc checkout` or `git restore {path}`, or run `dvc repro` after a change"
            raise UserError(f"{path} is not what {LOCK} says; {restore}")
    files = {stage: [root / path for path in paths] for stage, paths in outs.items()}
    [model] = [file for file in files["train"] if file.suffix == ".safetensors"]
    [history] = [file for file in files["train"] if file.suffix == ".csv"]
    description = load_tensors(model)[1]  # not validated: the file may be of an older version
    rows = tables.read_csv(history, "epoch", "train_elbo").to_dict("records")
    settings = {stage: stages[stage].get("params", {}).get("params.yaml", {}) for stage in outs}
    sections = {key: settings[s][key] for s in settings for key in SECTIONS.get(s, (s,)) if key in settings[s]}
    return Results(
        name, tags, code, parameter_names(sections), model,
        dataset=description.get("dataset", "data"),
        binarise=description.get("binarise", "none"),
        data_sha256=description["data_sha256"],
        pixels=description["height"] * description["width"] * description.get("channels", 1),
        history=[{str(key): float(value) for key, value in row.items()} for row in rows],
        metrics={s: flatten(read_metrics(f)) for s, paths in files.items() for f in paths if f.suffix == ".json"},
        documents={s: [f for f in files[s] if f.suffix != ".json"] for s in DOCUMENTS if s in files},
    )  # fmt: skip


def _stages(lock: Path) -> dict[str, dict[str, Any]]:
    return dict(read_yaml(lock)["stages"]) if lock.is_file() else {}


def _published(stages: Stages, root: Path | None = None) -> dict[str, dict[str, str]]:
    """Outputs that MLflow gets, and their digests, by stage.

    A stage is left out if its inputs were regenerated later, or if an output in `root` is missing or different.
    """
    makers = {out["path"]: (name, out["md5"]) for name, content in stages.items() for out in content["outs"]}

    def outputs(name: str) -> dict[str, str]:
        every = name in ("train", *DOCUMENTS)
        return {out["path"]: out["md5"] for out in stages[name]["outs"] if every or out["path"].endswith(".json")}

    def current(name: str) -> bool:
        inputs = [(dep["md5"], *makers[dep["path"]]) for dep in stages[name].get("deps", []) if dep["path"] in makers]
        unchanged = all(used == made and current(maker) for used, maker, made in inputs)
        return unchanged and (root is None or all(_matches(root / path, md5) for path, md5 in outputs(name).items()))

    return {name: outputs(name) for name in stages if current(name)}


def _matches(path: Path, md5: str) -> bool:
    """Whether a file has DVC's digest. The content of a folder is not compared."""
    return path.is_dir() or (path.is_file() and _md5(path) == md5)


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() if path.is_file() else ""
