"""A test leaves no global state behind."""

import os
import random

import numpy as np
import pytest
import torch

from tests.support import isolated


def test_seeds_settings_and_variables_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    matmul = torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:1")

    def state() -> list[object]:
        settings = torch.get_deterministic_debug_mode(), torch.get_num_threads(), matmul.fp32_precision
        numbers = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # pyright: ignore
        return [*settings, *numbers, dict(os.environ)]

    before = state()
    with isolated() as patch:
        assert "MLFLOW_TRACKING_URI" not in os.environ
        patch.setenv("DVC_ROOT", "elsewhere")
        torch.manual_seed(5)
        np.random.seed(5)
        random.seed(5)
        torch.set_num_threads(torch.get_num_threads() + 1)
        torch.set_deterministic_debug_mode("default")
        matmul.fp32_precision = "bf16" if matmul.fp32_precision != "bf16" else "ieee"
        assert all(now != then for now, then in zip(state()[1:], before[1:], strict=True))
    assert state() == before
