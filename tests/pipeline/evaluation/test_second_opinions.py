"""Second opinions on the linear model: annealing and bounds agree with the known log p(x)."""

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.config import Params
from pipeline.evaluation import second_opinions
from pipeline.evaluation.settings import estimator
from tests.support import Linear


def test_they_agree_with_the_known_density(params: Params, linear: Linear, generator: torch.Generator) -> None:
    vae, x = linear.vae(scale=1.5), linear.sample(8, generator)
    truth = linear.log_px(x)
    measured = pd.DataFrame({"label": 0, "log_px": truth, "log_px_se": 0.0, "trusted": True, "elbo": truth - 0.3})
    verify = params.verify.model_copy(update={"images": 8, "chains": 16, "temperatures": 20, "gap_steps": 150})
    table = second_opinions.measure(vae, x, None, measured, verify, estimator(params.evaluate, vae))
    assert table["kind"].tolist() == ["test"] * 8 + ["simulated"] * 8
    found = second_opinions.summarise(table)
    # The posterior is diagonal, so no gap is left to the best Gaussian. Standard errors here are below 0.05 nats.
    assert found["difference"] == pytest.approx(0, abs=0.1)
    assert found["approximation_gap"] == pytest.approx(0, abs=0.3)
    assert found["amortisation_gap"] == pytest.approx(0.3, abs=0.3)
    assert -0.05 < found["bdmc_gap"] < 0.5
    assert found["bdmc_gap"] == pytest.approx(found["above_lower"] + found["below_upper"], abs=1e-3)
    assert (found["trusted"], found["missed"]) == (8, 0)


def test_the_seed_is_that_of_verify_and_fixes_everything(
    params: Params, linear: Linear, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae, x = linear.vae(), linear.sample(2, generator)
    measured = pd.DataFrame({"label": [0, 0], "log_px": 0.0, "log_px_se": 0.0, "trusted": True, "elbo": 0.0})
    verify = params.verify.model_copy(update={"images": 2, "temperatures": 3, "gap_steps": 1, "seed": 12})
    seeds = []
    prepare = second_opinions.prepare
    monkeypatch.setattr(
        second_opinions, "prepare", lambda vae, x, y, now: seeds.append(now.seed) or prepare(vae, x, y, now)
    )
    settings = estimator(params.evaluate, vae)
    one, same = (second_opinions.measure(vae, x, None, measured, verify, settings) for _ in range(2))
    assert seeds == [12] * 4
    pd.testing.assert_frame_equal(one, same)  # the simulated images too


def test_there_is_a_curve_for_every_method(params: Params, linear: Linear, generator: torch.Generator) -> None:
    vae, x = linear.vae(), linear.sample(4, generator)
    measured = pd.DataFrame({"log_px": linear.log_px(x)})
    changes = {"curve_images": 2, "curve_samples": 16, "curve_temperatures": (3, 5), "chains": 4}
    verify = params.verify.model_copy(update=changes)
    settings = estimator(params.evaluate, vae)
    curves = second_opinions.curves(vae, x, None, measured, verify, settings)
    assert curves["method"].value_counts().to_dict() == {
        "prior": 3, "encoder": 3, "laplace": 3, "mixture": 3, "annealed": 2,
    }  # fmt: skip
    # An image without a finite log p(x) is not among them.
    x[0], measured.loc[0, "log_px"] = torch.nan, np.nan
    pd.testing.assert_frame_equal(
        second_opinions.curves(vae, x, None, measured, verify, settings),
        second_opinions.curves(vae, x[1:], None, measured.tail(3), verify, settings),
    )
    nowhere = second_opinions.curves(vae, x * torch.nan, None, measured * np.nan, verify, settings)
    assert len(nowhere) == len(curves)
    assert not np.isfinite(nowhere["log_px"]).any()
