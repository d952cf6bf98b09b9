"""What is measured of the test images, on the linear model."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn, TypeVar

import pytest
import torch
from torch import Tensor

from logpx import estimator as estimators
from logpx import importance
from logpx.block import Block, Settings
from logpx.estimator import estimate_whole
from logpx.prior_monte_carlo import prior_monte_carlo
from logpx.weights import Diagnosis, Weights, diagnose
from pipeline.config import Params
from pipeline.evaluation import test_images
from pipeline.evaluation.elbo import elbos
from pipeline.evaluation.settings import estimator, given_noise, prepare
from pipeline.evaluation.test_images import Columns, measure
from pipeline.process.distributed import SINGLE, Group
from pipeline.process.recovery import UnfinishedWork
from tests.support import Linear

T = TypeVar("T")

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

    # The encoder as proposal, on the first images, with as many decoder evaluations: it fits nothing.
    equal = round(float(main.evaluations.mean()))
    first = next(found for found in used if found.proposal == "encoder")
    assert first == replace(settings, samples=equal, budget=equal, proposal="encoder")
    settings = replace(settings, samples=equal, budget=equal, proposal="encoder")
    usual = estimate_whole(prepare(vae, x[:4], y[:4], settings))
    for name, values in (("encoder_log_px", usual.log_px), ("encoder_ess", usual.ess)):
        torch.testing.assert_close(columns[name][:4], values, rtol=0, atol=1e-9)
        assert columns[name][4:].isnan().all()
        assert len(columns[name]) == 20


@pytest.mark.parametrize("proposal", ["mixture", "encoder"])
def test_the_kept_log_weights_are_those_of_the_table(
    params: Params, linear: Linear, generator: torch.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    proposal: str,
) -> None:  # fmt: skip
    """Of images that got more samples or were measured again too, in several blocks, and in two processes."""
    monkeypatch.setattr(test_images, "KEPT", 15)
    # The first verdict of odd images is a failure, so that they are measured again.
    monkeypatch.setattr(importance, "diagnose", odd_images_fail)
    vae, x = linear.vae(scale=1.5), linear.sample(20, generator)
    y = torch.zeros(20, dtype=torch.long)
    evaluate = params.evaluate.model_copy(update=CHANGES | {"chunk": 128, "budget": 1024, "proposal": proposal})
    settings, work = estimator(evaluate, vae), UnfinishedWork(tmp_path, 1e9)
    columns = measure(vae, x, y, evaluate, settings, work, SINGLE)
    parts = columns["log_weights"].double().split(columns["samples"][:15].long().tolist())
    assert columns["rescued"].any() == (proposal == "mixture")
    for i, log_w in enumerate(parts):
        weights = Weights.of(log_w[:, None])
        assert float(weights.log_mean) == pytest.approx(float(columns["log_px"][i]), abs=1e-4)
        assert float(weights.effective_sample_size) == pytest.approx(float(columns["ess"][i]), rel=1e-3)
    # The order is that of the images, whichever process has measured them.
    swapped = Reversed(0, 1)
    again = measure(vae, x, y, evaluate, settings, work, swapped)
    assert torch.equal(again["log_weights"], columns["log_weights"])
    assert torch.equal(again["log_px"], columns["log_px"])


class Reversed(Group):
    """A group whose process measures the last block first, as if it came from a process of lower rank."""

    def round_robin(self, items: Sequence[T]) -> Sequence[T]:
        return items[::-1]


def odd_images_fail(log_w: Tensor) -> Diagnosis:
    found = diagnose(log_w)
    return found._replace(trusted=torch.arange(log_w.shape[1]) % 2 == 0)


def test_finished_parts_are_not_measured_again(
    params: Params, linear: Linear, generator: torch.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae, x = linear.vae(scale=1.5), linear.sample(20, generator)
    y = torch.zeros(20, dtype=torch.long)
    evaluate = params.evaluate.model_copy(update=CHANGES | {"chunk": 128})  # several blocks
    settings, work = estimator(evaluate, vae), UnfinishedWork(tmp_path, 1e9)
    columns = measure(vae, x, y, evaluate, settings, work, SINGLE)

    def computed(_: Block) -> NoReturn:
        raise AssertionError("a block was measured again")

    for name in ("estimate_block", "estimate_again"):
        monkeypatch.setattr(estimators, name, computed)
    again = measure(vae, x, y, evaluate, settings, work, SINGLE)
    for name, values in columns.items():
        torch.testing.assert_close(again[name], values, equal_nan=True)
