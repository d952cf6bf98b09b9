"""Fixtures: a linear-Gaussian model with closed forms, a tiny data set, and the smallest run of the pipeline."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # Several workers share the cores: more threads would wait for each other. PyTorch reads this when it is imported.
    os.environ["OMP_NUM_THREADS"] = "1"

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline.config import Params, load_params
from pipeline.data.dataset import Dataset
from tests.support import ROOT, STAGES, Linear, Run, isolated, run_stage, write_params
from tools import presets
from tools.clones import clone as clone_into
from tools.clones import configure, sh


@pytest.fixture(autouse=True)
def _isolated() -> Iterator[None]:
    with isolated():
        yield


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def linear(generator: torch.Generator) -> Linear:
    """Seven pixels, three latent dimensions, W with orthogonal columns of different lengths."""
    q, _ = torch.linalg.qr(torch.randn(7, 3, generator=generator, dtype=torch.float64))
    w = q * torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    return Linear(w, torch.randn(7, generator=generator, dtype=torch.float64), 0.3)


@pytest.fixture
def params() -> Params:
    """The repository's own parameters."""
    return load_params(ROOT / "params.yaml")


@pytest.fixture
def tiny() -> Dataset:
    """Sixty training and twenty test images of 6 × 5 pixels with 17 grey levels: bars whose place is the class."""
    generator = torch.Generator().manual_seed(1)

    def images(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(count) % 5
        bars = torch.zeros(count, 6, 5, dtype=torch.uint8)
        bars[torch.arange(count), :, labels] = 12
        return bars + torch.randint(0, 5, bars.shape, generator=generator, dtype=torch.uint8), labels.to(torch.uint8)

    return Dataset("tiny", 17, *images(60), *images(20))


@pytest.fixture
def run() -> Run:
    """Run a stage as dvc.yaml does, but in this process; returns its exit code."""
    return run_stage


@pytest.fixture
def small_params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write the params.yaml of the preset `tiny` into an empty current folder; `section__key=value` changes it."""
    monkeypatch.chdir(tmp_path)
    return lambda **changes: write_params(tmp_path / "params.yaml", **changes)


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with params.yaml and all outputs of the smallest run, made once: copy it before you change it."""
    folder = tmp_path_factory.mktemp("results")
    with isolated() as patch:
        patch.chdir(folder)
        write_params(folder / "params.yaml")
        for stage in STAGES:
            assert run_stage(stage) == 0
    return folder


@pytest.fixture
def workspace(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `results`, which is the current folder."""
    shutil.copytree(results, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def _repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working tree with the preset `tiny`, run by DVC and committed: made once."""
    folder = tmp_path_factory.mktemp("repository")
    clone_into(folder)
    configure(folder, presets.load("tiny"))
    sh(folder, "dvc", "repro")
    sh(folder, "git", "add", ".")
    sh(folder, "git", "commit", "-q", "-m", "tiny experiment")
    return folder


@pytest.fixture(scope="module")
def clone(_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of that repository for one module, without an MLflow store."""
    folder = tmp_path_factory.mktemp("clone") / "project"
    shutil.copytree(_repository, folder, symlinks=True, ignore=shutil.ignore_patterns("mlruns"))
    return folder
