"""What the tests share: stages as dvc.yaml runs them, their outputs, and a linear-Gaussian model with closed forms."""

import importlib
import json
import os
import random
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from jaxtyping import Float
from ruamel.yaml import YAML
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from pipeline.code import ROOT
from pipeline.config import Model, Section, Train, read_yaml
from pipeline.data.dataset import Dataset
from pipeline.data.image_format import ImageFormat
from pipeline.model.vae import VAE
from pipeline.process.exit import run_cli
from tools import presets

STAGES: dict[str, Any] = read_yaml(ROOT / "dvc.yaml")["stages"]

Run = Callable[[str], int]
S = TypeVar("S", bound=Section)
M = TypeVar("M", bound=nn.Module)


@contextmanager
def isolated() -> Iterator[pytest.MonkeyPatch]:
    """Hide the caller's data mirror, tracking server and DVC repository; restore all seeds and PyTorch's settings.

    Within it, initial weights are the same for every order of tests.
    """
    matmul = torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    settings = torch.get_deterministic_debug_mode(), torch.get_num_threads(), matmul.fp32_precision
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith(("DVC_", "MLFLOW_")) or n == "DATA_MIRROR"]:
            patch.delenv(name)
        patch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.set_deterministic_debug_mode("error")
        patch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)  # with NaN: shows reads of it
        torch.manual_seed(0)
        yield patch
    torch.set_deterministic_debug_mode(settings[0])
    torch.set_num_threads(settings[1])
    matmul.fp32_precision = settings[2]
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


def model_settings(**changes: Any) -> Model:
    """The section `model` of params.yaml with changes."""
    return _section("model", Model, changes)


def training(**changes: Any) -> Train:
    """The section `train` of params.yaml with changes."""
    return _section("train", Train, changes)


def moved(module: M, by: float = 0.5, seed: int = 0) -> M:
    """The module with all weights moved at random: no coupling or block is the identity any longer."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += by * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return module


def in_colour(dataset: Dataset) -> Dataset:
    """The data set with three different colours: the grey values, their mirror image, and their negative."""

    def coloured(images: Tensor) -> Tensor:
        return torch.stack([images, images.flip(-1), dataset.levels - 1 - images], 1)

    return replace(dataset, train_images=coloured(dataset.train_images), test_images=coloured(dataset.test_images))


def unlabelled(dataset: Dataset) -> Dataset:
    """The data set without labels."""
    zeros = {name: torch.zeros_like(getattr(dataset, name)) for name in ("train_labels", "test_labels")}
    return replace(dataset, **zeros)


def flat_format(pixels: int) -> ImageFormat:
    """Images of one row of pixels, with 256 grey levels."""
    return ImageFormat(1, pixels, 256)


def write_params(path: Path, **changes: object) -> Path:
    """Write a params.yaml of the preset `tiny` without tracking; `section__key=value` changes it."""
    content = presets.merge(read_yaml(ROOT / "params.yaml"), presets.load("tiny"))
    content["tracking"]["mode"] = "off"
    for name, value in changes.items():
        section, key = name.split("__")
        content[section][key] = value
    with path.open("w", encoding="utf-8") as file:
        YAML().dump(content, file)
    return path


def command(stage: str) -> list[str]:
    """The words of a stage's command in dvc.yaml."""
    return shlex.split(STAGES[stage]["cmd"])


def run_in_process(stage: str, *words: str) -> int:
    """Run a stage's `main` in this process with these words as its command line; return its exit code."""
    before = sys.argv
    sys.argv = [stage, *words]
    try:
        return run_cli(importlib.import_module(f"stages.{stage}").main)
    finally:
        sys.argv = before


def run_stage(stage: str) -> int:
    """Run a stage in this process with the command line of dvc.yaml; return its exit code."""
    return run_in_process(stage, *command(stage)[3:])


def outputs(folder: Path) -> dict[str, bytes]:
    """Content of all files that stages have written in a folder, by relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.parts[len(folder.parts)] in ("data", "models", "reports")
    }


def _section(name: str, kind: type[S], changes: dict[str, Any]) -> S:
    return kind.model_validate_json(json.dumps(read_yaml(ROOT / "params.yaml")[name] | changes))


@dataclass(frozen=True)
class Linear:
    """x = W z + b + σ ε: marginal N(b, WWᵀ + σ²I), posterior precision M = I + WᵀW/σ²; float64.

    Tipping & Bishop 1999, equations 3 to 8.
    """

    w: Float[Tensor, "pixels latent"]
    b: Float[Tensor, " pixels"]
    sigma: float

    @property
    def precision(self) -> Float[Tensor, "latent latent"]:
        return torch.eye(self.w.shape[1], dtype=self.w.dtype) + self.w.T @ self.w / self.sigma**2

    def posterior_mean(self, x: Float[Tensor, "batch pixels"]) -> Float[Tensor, "batch latent"]:
        return (x - self.b) @ self.w / self.sigma**2 @ self.precision.inverse()

    def log_px(self, x: Float[Tensor, "batch pixels"]) -> Float[Tensor, " batch"]:
        noise = self.sigma**2 * torch.eye(len(self.b), dtype=self.w.dtype)
        return MultivariateNormal(self.b, self.w @ self.w.T + noise).log_prob(x)

    def vae(self, scale: float = 1.0, shift: float | Float[Tensor, " latent"] = 0.0) -> VAE:
        """The model with a mean-field encoder at the posterior, its s times `scale` and its μ moved by `shift`.

        With orthogonal columns of W, scale 1 and shift 0 it is the exact posterior.
        """
        pixels, latent = self.w.shape
        settings = model_settings(latent=latent, encoder=[], decoder=[], sigma=self.sigma)
        vae = VAE(settings, flat_format(pixels)).double()
        vae.decoder.link = nn.Identity()  # f(z) is the network's output itself
        (decoder,), (encoder,) = vae.decoder.network.children(), vae.encoder.network.children()
        assert isinstance(decoder, nn.Linear)
        assert isinstance(encoder, nn.Linear)
        gain = self.precision.inverse() @ self.w.T / self.sigma**2
        with torch.no_grad():
            decoder.weight.copy_(self.w)
            decoder.bias.copy_(self.b)
            encoder.weight[:latent] = gain
            encoder.bias[:latent] = -gain @ self.b + shift
            encoder.weight[latent:] = 0
            encoder.bias[latent:] = -0.5 * self.precision.diagonal().log() + torch.tensor(scale).double().log()
        return vae.eval()

    def sample(self, count: int, generator: torch.Generator) -> Float[Tensor, "count pixels"]:
        z = torch.randn(count, self.w.shape[1], generator=generator, dtype=self.w.dtype)
        noise = torch.randn(count, len(self.b), generator=generator, dtype=self.w.dtype)
        return z @ self.w.T + self.b + self.sigma * noise
