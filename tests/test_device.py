"""Every stage on a device with a GPU's rules (simulated.py): the two sides do not mix; the numbers are the CPU's."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from simulated import DEVICE, Simulated
from test_stages import Run, run  # noqa: F401
from torch._subclasses import FakeTensorMode

from pipeline import runtime
from pipeline.config import Params
from pipeline.likelihood import importance
from pipeline.tracking.outbox import flat
from pipeline.vae import VAE


def test_what_a_gpu_refuses_is_refused() -> None:
    with Simulated() as simulated:
        there = torch.ones(3, device=DEVICE)
        with pytest.raises(RuntimeError, match="same device"):
            there.add(torch.ones(3))
        assert simulated.crossings == []
        assert (there * torch.tensor(2.0)).sum().item() == 6
        there[torch.tensor([0, 2])] = 0.0
        before = len(simulated.crossings)
        assert there[there > 0].shape == (1,)
        assert there.nonzero().shape == (1, 1)
        assert len(simulated.crossings) == before + 2
        host = there.cpu()
        there.add_(1)
        assert (host.tolist(), there.cpu().tolist()) == ([0, 1, 0], [1, 2, 1])
    crossed = [name.rpartition(".")[0] or name for name in simulated.crossings]
    assert crossed[0] == "aten::mul"
    assert "aten::_local_scalar_dense" in crossed
    assert crossed[-1] == "aten::_to_copy"


def test_all_stages_give_the_numbers_of_the_cpu(
    small_params: Callable[..., Path],
    run: Run,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small_params(evaluate__images=40)
    stages = ("train", "evaluate", "verify", "compare", "render")
    for name in ("download", *stages):
        assert run(name) == 0
    there = numbers()

    monkeypatch.setattr(runtime, "device", lambda name: DEVICE)
    monkeypatch.setattr(torch, "Generator", on_either_side)
    for name in stages:
        with Simulated() as simulated:
            assert run(name) == 0
        assert simulated.crossings
    for name, value in numbers().items():
        shape = "khat" in name  # a tail's shape is fitted to a few weights
        np.testing.assert_allclose(value, there[name], rtol=1e-4, atol=0.02 if shape else 1e-3, err_msg=name)


Generator = torch.Generator


def on_either_side(device: Any = "cpu") -> Generator:
    """The simulated device has no generator of its own."""
    return Generator()


def test_a_gpu_decides_by_its_memory_how_much_is_held_at_once(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the layers of a chunk, with their derivatives, an eighth of it."""
    vae = VAE(params.model, 784)
    cpu = importance.sized(params.evaluate, vae).chunk
    assert cpu == importance.CACHED // 784 // 128 * 128
    gigabytes = SimpleNamespace(total_memory=80 * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gigabytes)
    there = VAE(params.model, 784)
    with FakeTensorMode():
        there.zero = torch.zeros(16, device="cuda")
    gpu = importance.sized(params.evaluate, there).chunk
    assert gpu % 128 == 0
    assert 0.9 < gpu * (512 + 512 + 784) * 4 * 4 / (80e9 / 8) <= 1
    assert importance.sized(params.evaluate.model_copy(update={"chunk": 1000}), there).chunk == 1000


def numbers() -> dict[str, Any]:
    """All that the stages have measured."""
    found: dict[str, Any] = {}
    for path in Path("reports").rglob("*"):
        if path.suffix == ".json":
            found |= {f"{path} {key}": value for key, value in flat(json.loads(path.read_text("utf-8"))).items()}
        elif path.suffix in (".parquet", ".csv"):
            table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
            found |= {f"{path} {name}": table[name].to_numpy(float) for name in table.select_dtypes("number")}
    return found
