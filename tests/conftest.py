"""What the tests share: a linear-Gaussian model with closed forms, and a tiny data set."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from benchmarks import queue
from pipeline.config import Model, Params, load
from pipeline.datasets import Dataset
from pipeline.observations import GaussianObservation
from pipeline.vae import VAE

ROOT = Path(__file__).parents[1]

# The whole pipeline in seconds.
SMALL = {
    "data": {"name": "digits"},
    "model": {"latent": 3, "encoder": [16], "decoder": [16]},
    "train": {"epochs": 2},
    "evaluate": {"samples": 32, "budget": 128, "prior_samples": 20, "comparison": 20},
    "verify": {
        "images": 4,
        "chains": 4,
        "temperatures": 4,
        "curve_images": 3,
        "curve_samples": 16,
        "curve_temperatures": [3, 5],
        "gap_steps": 3,
        "gap_samples": 2,
    },
    "compare": {"images": 20, "samples": 32},
    "runtime": {"device": "cpu"},
}


@pytest.fixture(scope="session")
def _repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working tree, committed with a small experiment that has run: made once."""
    from ruamel.yaml import YAML

    folder = tmp_path_factory.mktemp("repository")
    queue.clone(folder)
    yaml = YAML()
    content = yaml.load(folder / "params.yaml")
    for section, values in SMALL.items():
        content[section].update(values)
    yaml.dump(content, folder / "params.yaml")
    queue.sh(folder, "dvc", "repro")
    queue.sh(folder, "git", "add", ".")
    queue.sh(folder, "git", "commit", "-q", "-m", "small experiment")
    return folder


@pytest.fixture(scope="module")
def clone(_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of that repository for one module, with no MLflow store yet."""
    folder = tmp_path_factory.mktemp("clone") / "project"
    shutil.copytree(_repository, folder, symlinks=True, ignore=shutil.ignore_patterns("mlruns"))
    return folder


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the caller's mirror, tracking server or DVC repository, nor leaves a global seed behind."""
    for name in [n for n in os.environ if n.startswith(("DVC_", "MLFLOW_")) or n == "DATA_MIRROR"]:
        monkeypatch.delenv(name)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)


class Identity(GaussianObservation):
    """f(z) = the network's output itself: with one linear layer the decoder is linear."""

    def __init__(self, sigma: float) -> None:
        super().__init__(sigma)
        self.link = nn.Identity()


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

    def vae(self, scale: float = 1.0, shift: float = 0.0) -> VAE:
        """The model with a mean-field encoder at the posterior, its s times `scale` and its μ moved by `shift`.

        With orthogonal columns of W, scale 1 and shift 0 it is the exact posterior.
        """
        pixels, latent = self.w.shape
        settings = Model(latent=latent, encoder=(), decoder=(), activation="relu", sigma=self.sigma)
        vae = VAE(settings, pixels).double()
        vae.decoder.observation = Identity(self.sigma)
        decoder, encoder = vae.decoder.network[0], vae.encoder.network[0]
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
    return load(ROOT / "params.yaml")


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
def small_params(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write a params.yaml of the smallest size into an empty current folder; `section__key=value` changes it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))

    def write(**changes: object) -> Path:
        from ruamel.yaml import YAML

        content = params.model_dump(mode="json")
        content["data"]["name"] = "digits"
        content["model"] |= {"latent": 3, "encoder": [16], "decoder": [16]}
        content["train"] |= {"epochs": 2, "batch_size": 32}
        content["evaluate"] |= {"samples": 32, "budget": 128, "prior_samples": 50, "comparison": 20, "chunk": 256}
        content["verify"] |= {
            "images": 4, "chains": 4, "temperatures": 4, "leapfrog": 2, "curve_images": 3, "curve_samples": 16,
            "curve_temperatures": [3, 5], "gap_steps": 3, "gap_samples": 2,
        }  # fmt: skip
        content["compare"] |= {"images": 20, "samples": 32}
        content["render"] |= {"columns": 4, "steps": 5}
        content["runtime"]["device"] = "cpu"
        content["tracking"]["mode"] = "off"  # test_tracking.py and test_server.py have that
        for name, value in changes.items():
            section, key = name.split("__")
            content[section][key] = value
        path = tmp_path / "params.yaml"
        with path.open("w", encoding="utf-8") as file:
            YAML().dump(content, file)
        return path

    return write
