"""Settings of logpx come from params.yaml unchanged, except for a chunk that suits the model."""

import torch

from logpx.batching import chunk_size
from pipeline.config import Params
from pipeline.evaluation.settings import annealer, estimator, joint
from tests.support import Linear


def test_every_setting_is_passed_on(params: Params, linear: Linear) -> None:
    evaluate = params.evaluate.model_copy(
        update={
            "samples": 64,
            "budget": 256,
            "chunk": 1000,
            "seed": 9,
            "proposal": "laplace",
            "degrees_of_freedom": 5.0,
        }
    )
    found = estimator(evaluate, linear.vae())
    assert (found.samples, found.budget, found.chunk, found.seed) == (64, 256, 1000, 9)
    assert (found.proposal, found.degrees_of_freedom) == ("laplace", 5.0)
    verify = params.verify
    annealing = annealer(verify)
    assert (annealing.chains, annealing.temperatures) == (verify.chains, verify.temperatures)
    assert (annealing.leapfrog, annealing.acceptance) == (verify.leapfrog, verify.acceptance)


def test_chunk_zero_means_what_suits_the_model(params: Params, linear: Linear) -> None:
    assert params.evaluate.chunk == 0
    vae = linear.vae().to(torch.float64)
    assert estimator(params.evaluate, vae).chunk == chunk_size(joint(vae), torch.zeros(1, 7).double(), 3)
