"""Further attempts for images whose estimate is not trusted: a proposal fitted to posterior samples, and annealing.

The refined Gaussian has the least KL[r ‖ p(z | x)], so it avoids regions where the posterior is low, and can miss much
of it. Hamiltonian chains from it reach those regions. A Gaussian fitted to the chains' samples covers the posterior
better. If importance samples of that are still not trusted, annealing leads from it to the posterior.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from logpx import annealing
from logpx.annealing import Problem
from logpx.block import Block
from logpx.distributions import Gaussian, cholesky
from logpx.importance import sample_log_weights
from logpx.noise import Stream
from logpx.proposals import Proposal, inflation
from logpx.weights import Diagnosis, diagnose

CHAINS = 64  # per mode, to sample the posterior
ANNEALED = 128  # annealing chains
FIRST_STEP, TUNING_RATE = 0.5, 0.5
SHRINKAGE = 0.5  # ridge of the regression, per latent dimension and chain
NARROWEST, WIDEST = 3.0, 0.05  # factors by which a precision may change


class Attempt(NamedTuple):
    """Effort for an image that is not trusted yet."""

    budget: int  # the least budget with which it is made
    transitions: int  # of each chain; the second half gives the samples
    temperatures: int  # of annealing


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
    chains = annealing.Settings(CHAINS, attempt.transitions)
    evaluations = 2 * modes * CHAINS * (1 + attempt.transitions * chains.leapfrog) + block.settings.budget
    diagnosis = diagnose(sample_log_weights(block, fitted, Stream.RESCUE_ESTIMATE.of(level), block.settings.budget))
    rows = (~diagnosis.trusted).nonzero().squeeze(1)
    if len(rows):
        some = rows.to(block.images.device)
        settings = annealing.Settings(ANNEALED, attempt.temperatures)
        stream = Stream.RESCUE_ANNEALING.of(level)
        again = diagnose(annealing.with_steps(block[some], fitted[some], steps[some], settings, stream))
        diagnosis = replaced(diagnosis, rows, again)
        evaluations[rows] += settings.evaluations / 2
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
    components, steps = list(proposal.components), []
    for number, component in enumerate(proposal.components[: proposal.fitted]):
        rows = (proposal.shares[:, number] > 0).nonzero().squeeze(1)
        if len(rows) == 0:
            continue
        assert isinstance(component, Gaussian)
        narrow = replace(component, cholesky=component.cholesky * proposal.widening)[rows]
        new, step = _fit_to_chains(block[rows], narrow, attempt, level)
        components[number] = replace(
            component,
            mean=component.mean.index_copy(0, rows, new.mean),
            cholesky=component.cholesky.index_copy(0, rows, new.cholesky / inflation(block.latent)),
        )
        steps.append(step)
    refitted = replace(proposal, components=tuple(components), widening=inflation(block.latent))
    return refitted, steps[0]


def _fit_to_chains(
    block: Block, start: Gaussian, attempt: Attempt, level: int
) -> tuple[Gaussian, Float[Tensor, " batch"]]:
    """A Gaussian fitted to the last states of chains that leave the posterior invariant.

    Its mean is theirs. Its precision is a regression of the log-joint's gradient on z, as in `refine`, but at samples
    of the posterior: −E_p[∇² log p], which needs fewer samples than a covariance.
    """
    one = Proposal(torch.ones_like(start.mean[:, :1]), (start,), fitted=1)
    settings, stream = annealing.Settings(CHAINS, attempt.transitions), Stream.RESCUE_CHAINS.of(level)
    problem = Problem(block, one, settings)
    beta = torch.ones((), device=start.mean.device)
    state = annealing.initial_state(problem, stream)
    step = torch.full_like(start.mean[:, 0], FIRST_STEP)
    samples, gradients = [], []
    for number in range(1, attempt.transitions + 1):
        state, acceptance = annealing.transition(problem, stream, number, state, beta, step)
        step = step * (TUNING_RATE * (acceptance - settings.acceptance)).exp()
        if number > attempt.transitions // 2:
            samples.append(start.whiten(state.z))
            gradients.append(start.whiten_gradient(state.target_gradient))
    epsilon, gradient = torch.cat(samples).double(), torch.cat(gradients).double().nan_to_num(0, 0, 0)
    mean = epsilon.mean(0)
    epsilon, gradient = epsilon - mean, gradient - gradient.mean(0)
    eye = torch.eye(block.latent, dtype=torch.float64, device=mean.device)
    spread = torch.einsum("sbi,sbj->bij", epsilon, epsilon) / len(epsilon)
    both = torch.einsum("sbi,sbj->bij", epsilon, gradient + epsilon) / len(epsilon)
    slope = -torch.linalg.solve(spread + SHRINKAGE * block.latent / CHAINS * eye, both)
    eigenvalues, vectors = torch.linalg.eigh(eye + 0.5 * (slope + slope.mT))
    precision = (vectors * eigenvalues.clamp(WIDEST, NARROWEST)[:, None]) @ vectors.mT
    factor = start.cholesky.double()
    move = torch.linalg.solve_triangular(factor.mT, mean[..., None], upper=True)[..., 0]
    fitted = cholesky(factor @ precision @ factor.mT)
    return replace(start, mean=start.mean + move.to(start.mean), cholesky=fitted.to(start.cholesky)), step
