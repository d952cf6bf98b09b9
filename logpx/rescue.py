"""Further attempts for images whose estimate is not trusted: a proposal fitted to posterior samples, and annealing.

The refined Gaussian has the least KL[r ‖ p(z | x)], so it avoids regions where the posterior is low, and can miss much
of it. Hamiltonian chains from it reach those regions. A Gaussian fitted to the chains' samples covers the posterior
better. If importance samples of that are still not trusted, annealing leads from it to the posterior.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from logpx import annealing
from logpx.annealing import Problem
from logpx.block import Block
from logpx.distributions import Gaussian
from logpx.importance import sample_log_weights
from logpx.noise import Stream
from logpx.proposals import Proposal, inflation, plain
from logpx.refinement import regressed_precision
from logpx.weights import Diagnosis, diagnose

CHAINS = 64  # per mode, to sample the posterior
ANNEALED = 128  # annealing chains
FIRST_STEP = 0.5
WIDEST = 0.05  # least factor by which chains may change a precision


class Attempt(NamedTuple):
    """Effort for an image that is not trusted yet."""

    budget: int  # the least budget with which it is made
    transitions: int  # of each chain; the second half gives the samples
    temperatures: int  # of annealing

    @property
    def chains(self) -> annealing.Settings:
        """Of the chains that sample the posterior: each moves once at each temperature but the first."""
        return annealing.Settings(CHAINS, self.transitions + 1)


ATTEMPTS = Attempt(1024, 10, 32), Attempt(4096, 40, 128), Attempt(4096, 160, 512)


def rescue(block: Block, proposal: Proposal, level: int = 0) -> tuple[Diagnosis, Float[Tensor, " batch"]]:
    """Measure images again: by importance samples of a proposal fitted to chains, then by annealing if they fail.

    Images that fail that too are measured with four times the effort, if the budget allows.

    Returns:
        The estimates, and the decoder evaluations for them; a gradient counts as one more.
    """
    attempt = ATTEMPTS[level]
    fitted, steps = refit(block, proposal, attempt, level)
    modes = (proposal.shares[:, : proposal.fitted] > 0).sum(1).cpu().double()
    evaluations = modes * attempt.chains.of_one_round + block.settings.budget
    log_w = sample_log_weights(block, fitted, Stream.RESCUE_ESTIMATE.of(level), block.settings.budget)
    block.keep(log_w)
    diagnosis = diagnose(log_w)
    rows = (~diagnosis.trusted).nonzero().squeeze(1)
    if len(rows):
        some = rows.to(block.images.device)
        settings = annealing.Settings(ANNEALED, attempt.temperatures)
        stream = Stream.RESCUE_ANNEALING.of(level)
        log_w = annealing.with_steps(block[some], fitted[some], steps[some], settings, stream)
        block[some].keep(log_w)
        again = diagnose(log_w)
        diagnosis = replaced(diagnosis, rows, again)
        evaluations[rows] += settings.of_one_round
    rows = (~diagnosis.trusted).nonzero().squeeze(1)
    if len(rows) and allowed(block, level + 1):
        some = rows.to(block.images.device)
        more, spent = rescue(block[some], proposal[some], level + 1)
        diagnosis = replaced(diagnosis, rows, more)
        evaluations[rows] += spent
    return diagnosis, evaluations


def allowed(block: Block, level: int = 0) -> bool:
    """Whether the budget is enough for an attempt."""
    return level < len(ATTEMPTS) and block.settings.budget >= ATTEMPTS[level].budget


def replaced(diagnosis: Diagnosis, rows: Tensor, by: Diagnosis) -> Diagnosis:
    """A diagnosis with that of some images replaced."""
    return Diagnosis(*(old.index_copy(0, rows, new) for old, new in zip(diagnosis, by, strict=True)))


def refit(block: Block, proposal: Proposal, attempt: Attempt, level: int) -> tuple[Proposal, Float[Tensor, " batch"]]:
    """The proposal with its fitted components moved to Hamiltonian chains that start from them.

    Returns:
        The proposal, and the step size that the chains of the first component were tuned to.
    """
    steps: list[Tensor] = []

    def fit(rows: Tensor, component: Gaussian) -> Gaussian:
        new, step = _fit_to_chains(block[rows], component, attempt, level)
        steps.append(step)
        return new

    return proposal.refitted(fit, inflation(block.latent)), steps[0]


def _fit_to_chains(
    block: Block, start: Gaussian, attempt: Attempt, level: int
) -> tuple[Gaussian, Float[Tensor, " batch"]]:
    """A Gaussian fitted to the last states of chains that leave the posterior invariant.

    Its mean is theirs. Its precision is a regression of the log-joint's gradient on z, as in `refine`, but at samples
    of the posterior: −E_p[∇² log p], which needs fewer samples than a covariance.
    """
    stream = Stream.RESCUE_CHAINS.of(level)
    problem = Problem(block, plain(start), attempt.chains)
    beta = torch.ones((), device=start.mean.device)
    state = annealing.initial_state(problem, stream)
    step = torch.full_like(start.mean[:, 0], FIRST_STEP)
    samples, gradients = [], []
    for number in range(1, attempt.transitions + 1):
        state, acceptance = annealing.transition(problem, stream, number, state, beta, step)
        step = attempt.chains.tuned(step, acceptance)
        if number > attempt.transitions // 2:
            samples.append(start.whiten(state.z))
            gradients.append(start.whiten_gradient(state.target_gradient))
    epsilon, gradient = torch.cat(samples).double(), torch.cat(gradients).double().nan_to_num(0, 0, 0)
    mean = epsilon.mean(0)
    epsilon, gradient = epsilon - mean, gradient - gradient.mean(0)
    precision = regressed_precision(epsilon, gradient + epsilon, CHAINS, WIDEST)
    return start.reshaped(mean, precision), step
