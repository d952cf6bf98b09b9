"""Every stage on a device with the rules of a GPU (tests/simulated.py): no mixed operations, and the CPU's numbers."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from logpx import batching
from logpx.batching import CACHED, chunk_size
from pipeline.config import Params
from pipeline.evaluation.settings import estimator, joint
from pipeline.model.vae import VAE
from pipeline.process import device
from tests.simulated import DEVICE, Simulated
from tests.support import Run, flat_format


def test_the_simulated_device_has_the_rules_of_a_gpu() -> None:
    with Simulated() as simulated:
        remote = torch.ones(3, device=DEVICE)
        with pytest.raises(RuntimeError, match="same device"):
            remote.add(torch.ones(3))
        assert simulated.crossings == []
        assert (remote * torch.tensor(2.0)).sum().item() == 6
        remote[torch.tensor([0, 2])] = 0.0
        before = len(simulated.crossings)
        assert remote[remote > 0].shape == (1,)
        assert remote.nonzero().shape == (1, 1)
        assert len(simulated.crossings) == before + 2
        host = remote.cpu()
        remote.add_(1)
        assert (host.tolist(), remote.cpu().tolist()) == ([0, 1, 0], [1, 2, 1])
    crossings = [name.rpartition(".")[0] or name for name in simulated.crossings]
    assert crossings[0] == "aten::mul"
    assert "aten::_local_scalar_dense" in crossings
    assert crossings[-1] == "aten::_to_copy"


@pytest.mark.slow
def test_all_stages_give_the_numbers_of_the_cpu(
    small_params: Callable[..., Path], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_params(evaluate__images=40)
    stages = ("train", "evaluate", "verify", "compare", "judge", "sample", "render")
    for name in ("download", *stages):
        assert run(name) == 0
    expected = numbers()

    monkeypatch.setattr(device, "choose_device", lambda name: DEVICE)
    monkeypatch.setattr(torch, "Generator", cpu_generator)
    for name in stages:
        with Simulated() as simulated:
            assert run(name) == 0
        assert simulated.crossings
    for name, value in numbers().items():
        shape = "khat" in name  # fitted to a few weights, so rounding changes it most
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=0.02 if shape else 1e-3, err_msg=name)


Generator = torch.Generator


def cpu_generator(device: Any = "cpu") -> Generator:
    """The simulated device has no generator."""
    return Generator()


def numbers() -> dict[str, Any]:
    """All numbers in the metrics and tables that the stages have written."""
    found: dict[str, Any] = {}
    for path in Path("reports").rglob("*"):
        if path.suffix == ".json":
            table = pd.json_normalize(json.loads(path.read_text(encoding="utf-8")))
        elif path.suffix in (".parquet", ".csv"):
            table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
        else:
            continue
        found |= {f"{path} {name}": table[name].to_numpy(float) for name in table.select_dtypes("number")}
    return found


def test_the_chunk_fits_the_cache_of_a_cpu_or_the_memory_of_a_gpu(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU the layers of a chunk and their derivatives take an eighth of the memory."""
    assert estimator(params.evaluate, VAE(params.model, flat_format(784))).chunk == CACHED // 784 // 128 * 128
    gigabytes = SimpleNamespace(total_memory=80 * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gigabytes)
    vae = VAE(params.model, flat_format(784))
    with monkeypatch.context() as patch:
        patch.setattr(batching, "device_of", lambda x: torch.device("cuda"))
        chunk = chunk_size(joint(vae), torch.zeros(1, 784), params.model.latent)
    assert chunk % 128 == 0
    # The image, and what layers and the functions after them compute: twice 512 units, twice again, twice the pixels.
    assert 0.9 < chunk * (784 + 2 * 512 + 2 * 512 + 2 * 784) * 4 * 4 / (80e9 / 8) <= 1
    assert estimator(params.evaluate.model_copy(update={"chunk": 1000}), vae).chunk == 1000
