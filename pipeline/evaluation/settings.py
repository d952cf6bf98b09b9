"""From sections of `params.yaml` to the settings of `logpx`: made once, when a stage knows its model and device."""

from logpx import annealing, importance
from logpx.batching import chunk_size
from pipeline.config import Evaluate, Verify
from pipeline.model.vae import VAE


def estimator(evaluate: Evaluate, vae: VAE) -> importance.Settings:
    """Settings of the estimator; `evaluate.chunk` = 0 chooses what suits the model and its device."""
    return importance.Settings(
        samples=evaluate.samples,
        budget=evaluate.budget,
        chunk=evaluate.chunk or chunk_size(vae),
        seed=evaluate.seed,
        proposal=evaluate.proposal,
        degrees_of_freedom=evaluate.degrees_of_freedom,
    )


def annealer(verify: Verify) -> annealing.Settings:
    """Settings of annealed importance sampling."""
    return annealing.Settings(verify.chains, verify.temperatures, verify.leapfrog, verify.acceptance, verify.seed)
