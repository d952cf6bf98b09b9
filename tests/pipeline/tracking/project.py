"""A small project: files as the stages write them, dvc.lock as DVC does, and the runs in its MLflow store."""

import argparse
import hashlib
import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from mlflow import MlflowClient
from mlflow.entities import Run as StoredRun
from ruamel.yaml import YAML

from pipeline.config import Params, Tracking, load_params
from pipeline.model import checkpoint
from pipeline.model.vae import VAE
from pipeline.storage.files import write_json, write_text
from pipeline.storage.tables import write_csv
from pipeline.tracking.mlflow_store import EXPERIMENT
from pipeline.tracking.run import Run
from tests.support import ROOT, STAGES, command, flat_format, model_settings, write_params
from tools.clones import sh

# Stages and metrics.
MEASURED = {
    "evaluate": "test.log_px",
    "verify": "verify.difference",
    "compare": "compare.ppca",
    "judge": "judge.accuracy",
    "sample": "sample.recognised",
}
AFTER_TRAINING = ("evaluate", "verify", "compare", "judge", "sample", "render", "report")
AFTER_EVALUATION = ("verify", "compare", "render", "report")  # judge and sample do not depend on it
UNLOGGED = ("judge", "render")


class Project:
    """The current folder: dvc.yaml, params.yaml, dvc.lock and the files that they name, without DVC."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock: dict[str, Any] = {}
        shutil.copy(ROOT / "dvc.yaml", folder)
        write_params(folder / "params.yaml")
        self.write("download", 0.0)
        self.commit("download")

    @property
    def params(self) -> Params:
        return load_params(self.folder / "params.yaml")

    def arguments(self, stage: str) -> argparse.Namespace:
        """The files of a stage by the options of its command."""
        words = command(stage)[3:]
        return argparse.Namespace(
            **{k[2:].replace("-", "_"): Path(v) for k, v in zip(words[::2], words[1::2], strict=True)}
        )

    def write_training(self, epochs: int = 2, seed: int = 0) -> None:
        """The outputs of a training with ELBO 10, 20, ... + seed."""
        torch.manual_seed(seed)
        settings = model_settings(latent=2, encoder=[8], decoder=[8], activation="relu", sigma=0.1)
        description = checkpoint.Description(
            model=settings,
            height=3,
            width=4,
            grey_levels=17,
            binarise="none",
            shares=(),
            dataset="digits",
            data_sha256="d" * 64,
            epoch=2,
            validation=0.1,
            seed=seed,
        )
        files = self.arguments("train")
        checkpoint.save_checkpoint(files.model, VAE(settings, flat_format(12)).state_dict(), description)
        write_csv(files.history, pd.DataFrame([self.epoch(number + 1, seed) for number in range(epochs)]))
        write_json(files.metrics, {"epoch": epochs, "validation": {"elbo": 19.5 + seed}, "environment": ["a machine"]})

    def epoch(self, number: int, seed: int = 0) -> dict[str, Any]:
        """A row of the history, with more digits than the file has."""
        return {
            "epoch": number,
            "train_elbo": 10.0 * number + seed + 1e-6,
            "validation_elbo": 9.5 * number,
            "best": True,
        }

    def write(self, stage: str, value: float) -> None:
        """The outputs of another stage, which differ with the value; it is the metric of a stage that measures."""
        for path in self.outputs(stage):
            write_text(path if path.suffix else path / "a.png", f"{path} {value}")
        if stage in MEASURED:
            section, key = MEASURED[stage].split(".")
            write_json(self.arguments(stage).metrics, {section: {key: value}, "environment": ["a machine"]})

    def train(self, epochs: int = 2, seed: int = 0, *, logged: int | None = None) -> None:
        """Run a training. While it runs all epochs are logged, or the first ones."""
        with self.run("train") as run:
            for number in range(1, 1 + (epochs if logged is None else logged)):
                run.log_epoch(self.epoch(number, seed))
            self.write_training(epochs, seed)
        self.commit("train")

    def evaluate(self, value: float, *others: str) -> None:
        """Run evaluate and other stages."""
        for stage in ("evaluate", *others):
            with self.run(stage) if stage not in UNLOGGED else nullcontext():
                self.write(stage, value)
            self.commit(stage)

    def restore(self, value: float, seed: int = 0) -> None:
        """The outputs of all stages, as from DVC's cache: nothing runs."""
        self.write_training(seed=seed)
        self.commit("train")
        for stage in AFTER_TRAINING:
            self.write(stage, value)
            self.commit(stage)

    def outputs(self, stage: str) -> set[Path]:
        entries = [entry for kind in ("outs", "metrics", "plots") for entry in STAGES[stage].get(kind, [])]
        return {Path(entry if isinstance(entry, str) else next(iter(entry))) for entry in entries}

    def commit(self, stage: str) -> None:
        """Write the stage's entry of dvc.lock, as DVC does when the stage has ended."""
        made = {Path(out["path"]) for entry in self.lock.values() for out in entry["outs"]}
        inputs = set(vars(self.arguments(stage)).values()) & made - self.outputs(stage)
        params = {k: v for k, v in self.params.model_dump(mode="json").items() if k in STAGES[stage]["params"]}
        self.lock[stage] = {
            "cmd": STAGES[stage]["cmd"],
            "deps": [{"path": str(path), "hash": "md5", "md5": self.md5(path)} for path in sorted(inputs)],
            "params": {"params.yaml": params},
            "outs": [{"path": str(path), "hash": "md5", "md5": self.md5(path)} for path in sorted(self.outputs(stage))],
        }
        with (self.folder / "dvc.lock").open("w", encoding="utf-8") as file:
            YAML().dump({"schema": "2.0", "stages": self.lock}, file)

    def cached(self, path: Path) -> Path:
        """The copy of a file in DVC's cache."""
        digest = self.md5(path)
        return self.folder / ".dvc/cache/files/md5" / digest[:2] / digest[2:]

    def md5(self, path: Path) -> str:
        """DVC's digest. The file is copied into DVC's cache."""
        if path.is_dir():
            files = [{"md5": self.md5(file), "relpath": file.name} for file in sorted(path.iterdir())]
            content, suffix = json.dumps(files).encode(), ".dir"
        else:
            content, suffix = path.read_bytes(), ""
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest() + suffix
        cached = self.folder / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
        cached.parent.mkdir(parents=True, exist_ok=True)
        cached.write_bytes(content)
        return digest

    def save_experiment(self, name: str, code: str | None, top: Path | None = None) -> str:
        """Commit the folder as an experiment of DVC; return the revision.

        Args:
            code: content of a file of the code; None for code of an older layout.
            top: the root of the git repository, if it is not this folder.
        """
        files = {"logpx/code.py": code, "pipeline/tracking/pyfunc_model.py": "", "stages/code.py": ""}
        shutil.rmtree(self.folder / "pipeline", ignore_errors=True)
        for path, text in files.items():
            write_text(self.folder / path, text or "")
        if code is None:
            shutil.rmtree(self.folder / "pipeline")
        shutil.copy(ROOT / "requirements.lock", self.folder)
        if not (self.folder / ".dvc/config").exists():
            sh(self.folder, "git", "init", "-q", str(top or self.folder))
            sh(self.folder, "git", "config", "user.name", "nobody")
            sh(self.folder, "git", "config", "user.email", "nobody@example.org")
            write_text(self.folder / ".dvc/config", "")
            write_text(self.folder / ".gitignore", "mlruns\n.dvc/cache\nmodels\nreports/figures\nreports/*.html\n")
            sh(self.folder, "git", "commit", "-q", "--allow-empty", "-m", "baseline")
        sh(self.folder, "git", "add", ".")
        sh(self.folder, "git", "commit", "-q", "-m", name)
        sh(self.folder, "git", "update-ref", f"refs/exps/ab/{'c' * 38}/{name}", "HEAD")
        return sh(self.folder, "git", "rev-parse", "HEAD").strip()

    def run(self, stage: str, mode: Literal["off", "best_effort", "required"] = "best_effort") -> Run:
        """The context of a stage."""
        return Run(stage, self.params.model_copy(update={"tracking": Tracking(mode=mode)}), self.arguments(stage))


def client(project: Project) -> MlflowClient:
    return MlflowClient(f"sqlite:///{project.folder}/mlruns/mlflow.db")


def runs(project: Project) -> list[StoredRun]:
    """All runs, oldest first."""
    experiment = client(project).get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return list(client(project).search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"]))


def steps(project: Project, run: StoredRun) -> list[int]:
    """The epochs of a run, each as often as it was logged."""
    return [point.step for point in client(project).get_metric_history(run.info.run_id, "train_elbo")]
