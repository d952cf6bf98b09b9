"""What is measured of the test images, on the linear model."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from logpx import estimator as estimators
from logpx.block import Settings
from logpx.estimator import estimate_whole
from logpx.prior_monte_carlo import prior_monte_carlo
from pipeline.config import Params
from pipeline.evaluation.elbo import elbos
from pipeline.evaluation.settings import estimator, given_noise, prepare
from pipeline.evaluation.test_images import Columns, measure
from pipeline.process.distributed import SINGLE
from pipeline.process.recovery import UnfinishedWork
from tests.support import Linear

CHANGES = {
    "samples": 64, "budget": 256, "comparison": 4, "elbo_samples": 8, "prior_samples": 200, "chunk": 1024,
}  # fmt: skip


def test_every_column_is_that_of_its_estimator(
    params: Params, linear: Linear, generator: torch.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae, x = linear.vae(scale=1.5), linear.sample(20, generator)
    y = torch.zeros(20, dtype=torch.long)
    evaluate = params.evaluate.model_copy(update=CHANGES)
    settings = estimator(evaluate, vae)
    used: list[Settings] = []
    estimate = estimators.estimate_block
    monkeypatch.setattr(estimators, "estimate_block", lambda block: used.append(block.settings) or estimate(block))
    columns = measure(vae, x, y, evaluate, settings, UnfinishedWork(tmp_path, 1e9), SINGLE)

    main = estimate_whole(prepare(vae, x, y, settings))
    elbo = elbos(vae, x, y, samples=8, seed=settings.seed, chunk=settings.chunk)
    prior = prior_monte_carlo(
        given_noise(vae, None), x, latent=3, samples=200, seed=settings.seed, chunk=settings.chunk
    )
    expected: Columns = {
        "elbo": elbo.value, "reconstruction": elbo.reconstruction, "kl": elbo.kl, "log_px": main.log_px,
        "log_px_se": main.standard_error, "ess": main.ess, "khat": main.khat,
        "samples": main.samples, "trusted": main.trusted, "converged": main.converged,
        "rescued": main.rescued, "evaluations": main.evaluations, "prior_log_px": prior.log_px, "prior_ess": prior.ess,
    }  # fmt: skip
    for name, values in expected.items():
        torch.testing.assert_close(columns[name], values, rtol=0, atol=1e-9, msg=name)

    # The encoder as proposal, on the first images, with as many decoder evaluations: it fits nothing and has no pilots.
    equal = round(float(main.evaluations.mean()))
    first = next(found for found in used if found.proposal == "encoder")
    assert first == replace(settings, samples=equal, budget=equal, proposal="encoder")
    settings = replace(settings, samples=equal, budget=equal, proposal="encoder")
    usual = estimate_whole(prepare(vae, x[:4], y[:4], settings))
    for name, values in (("encoder_log_px", usual.log_px), ("encoder_ess", usual.ess)):
        torch.testing.assert_close(columns[name][:4], values, rtol=0, atol=1e-9)
        assert columns[name][4:].isnan().all()
        assert len(columns[name]) == 20


def test_finished_parts_are_not_measured_again(
    params: Params, linear: Linear, generator: torch.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae, x = linear.vae(scale=1.5), linear.sample(20, generator)
    y = torch.zeros(20, dtype=torch.long)
    evaluate = params.evaluate.model_copy(update=CHANGES | {"chunk": 128})  # several blocks
    settings, work = estimator(evaluate, vae), UnfinishedWork(tmp_path, 1e9)
    columns = measure(vae, x, y, evaluate, settings, work, SINGLE)
    monkeypatch.setattr(estimators, "estimate_block", None)  # calling it would be an error
    again = measure(vae, x, y, evaluate, settings, work, SINGLE)
    for name, values in columns.items():
        torch.testing.assert_close(again[name], values, equal_nan=True)
