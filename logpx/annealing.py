"""Annealed importance sampling with Hamiltonian Monte Carlo, and bidirectional Monte Carlo.

A chain goes from the proposal r to the posterior through the densities r(z)^(1−β) p(x, z)^β, β from 0 to 1. Its
weight, the product of the ratios on its way, has the mean p(x) (Neal 2001). For data simulated from the model one
exact posterior sample is known: the z that made x. The weight of a chain from there to r has the mean 1/p(x), so that
log p(x) lies between the two estimates in expectation (Grosse, Ghahramani & Adams 2015; Wu et al. 2017).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from logpx import block
from logpx.batching import splits
from logpx.block import Block, Start, prepare
from logpx.data import Data
from logpx.importance import fit_proposal
from logpx.model import Model, log_joint_gradient, with_gradient
from logpx.noise import Noise, Stream
from logpx.proposals import Proposal

SIGMOID = 4.0  # β = logistic(±4) at the ends, before they are stretched to 0 and 1 (Wu et al. 2017)
FIRST_STEP, TUNING_RATE = 0.3, 0.5  # the leapfrog's first step size, and how fast its logarithm is tuned


@dataclass(frozen=True)
class Settings:
    """Settings of annealing.

    Attributes:
        chains: chains per image.
        temperatures: steps between proposal and posterior.
        leapfrog: leapfrog steps of each transition.
        acceptance: what the step sizes are tuned to.
    """

    chains: int = 16
    temperatures: int = 100
    leapfrog: int = 3
    acceptance: float = 0.8

    @property
    def of_one_round(self) -> int:
        """Decoder evaluations per image of a round of chains: a value and a gradient per leapfrog step."""
        return 2 * self.chains * (1 + (self.temperatures - 1) * self.leapfrog)

    @property
    def evaluations(self) -> int:
        """Decoder evaluations per image of `anneal`, which takes two rounds."""
        return 2 * self.of_one_round

    def tuned(self, step: Float[Tensor, " batch"], acceptance: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """The next step size: longer if more proposals were accepted than `acceptance` asks for."""
        return step * (TUNING_RATE * (acceptance - self.acceptance)).exp()


@dataclass(frozen=True)
class Problem:
    """Images with the proposal that their chains start from."""

    block: Block
    proposal: Proposal
    settings: Settings

    @property
    def betas(self) -> Float[Tensor, " temperatures"]:
        """Inverse temperatures from 0 to 1, dense at both ends: a sigmoid of equal steps."""
        steps = torch.linspace(-SIGMOID, SIGMOID, self.settings.temperatures + 1, dtype=torch.float64)
        return ((steps.sigmoid() - steps[0].sigmoid()) / (steps[-1].sigmoid() - steps[0].sigmoid())).to(
            self.block.prior.mean
        )

    def noise(self, stream: int, temperature: int) -> Noise:
        """An image's noise at a temperature, one sample per chain."""
        return self.block.noise(stream, temperature, self.settings.chains)


class State(NamedTuple):
    """Positions of the chains, with log p(x, z) and log r(z) and their gradients there."""

    z: Float[Tensor, "chains batch latent"]
    target: Float[Tensor, "chains batch"]
    start: Float[Tensor, "chains batch"]
    target_gradient: Float[Tensor, "chains batch latent"]
    start_gradient: Float[Tensor, "chains batch latent"]

    def value(self, beta: Tensor) -> Float[Tensor, "chains batch"]:
        return beta * self.target + (1 - beta) * self.start

    def gradient(self, beta: Tensor) -> Float[Tensor, "chains batch latent"]:
        return beta * self.target_gradient + (1 - beta) * self.start_gradient


def problems(whole: Block, settings: Settings) -> list[Problem]:
    """Annealing from the estimator's proposal, in blocks of images whose chains fit in a chunk."""
    parts = [whole[part] for part in splits(len(whole), whole.settings.chunk // settings.chains)]
    return [Problem(part, fit_proposal(part).proposal, settings) for part in parts]


def with_steps(
    block: Block, proposal: Proposal, steps: Float[Tensor, " batch"], settings: Settings, stream: int
) -> Float[Tensor, "chains batch"]:
    """Log-weights of forward chains from a given proposal, with one step size of each image at all temperatures."""
    found = []
    for part in splits(len(block), block.settings.chunk // settings.chains):
        problem = Problem(block[part], proposal[part], settings)
        found.append(_forward(problem, steps[part].expand(settings.temperatures, -1), stream))
    return torch.cat(found, 1)


def anneal(
    model: Model, x: Data, *, latent: int, start: Start = None, settings: Settings | None = None, **estimator: Any
) -> Float[Tensor, "chains images"]:
    """Log-weights of chains from a fitted proposal to the posterior, in nats, float64 on the CPU: E[w] = p(x).

    `logpx.diagnose` makes log p(x) of them.

    Args:
        x, latent, start: as in `logpx.estimate`.
        settings: chains, temperatures, leapfrog steps, acceptance.
        estimator: settings of the proposal: see `logpx.block.Settings`.
    """
    whole = prepare(model, x, block.Settings(**estimator), latent=latent, start=start)
    return torch.cat([forward(problem) for problem in problems(whole, settings or Settings())], 1)


def bidirectional(
    model: Model,
    x: Data,
    exact: Float[Tensor, "images latent"],
    *,
    start: Start = None,
    settings: Settings | None = None,
    **estimator: Any,
) -> tuple[Float[Tensor, "chains images"], Float[Tensor, "chains images"]]:
    """Log-weights of forward chains, and of reverse chains from the z that made each x; nats, float64 on the CPU.

    In expectation logmeanexp(forward) ≤ log p(x) ≤ −logmeanexp(−reverse). The upper bound holds only if `exact` is a
    posterior sample: x simulated from the model with that z.

    Args:
        exact: the z that made each image.
    """
    whole = prepare(model, x, block.Settings(**estimator), latent=exact.shape[-1], start=start)
    both = [
        from_both_sides(problem, exact[problem.block.images]) for problem in problems(whole, settings or Settings())
    ]
    ahead, back = zip(*both, strict=True)
    return torch.cat(ahead, 1), torch.cat(back, 1)


def forward(problem: Problem) -> Float[Tensor, "chains batch"]:
    """Log-weights of forward chains.

    A first round tunes the step size of each image at each temperature to the acceptance asked for. A second round,
    with other noise, keeps those steps fixed, so that its transitions are invariant and its weights unbiased. An
    image's chains share its step: their mean acceptance is less noisy than one chain's.
    """
    return _forward(problem, tune(problem))


def from_both_sides(
    problem: Problem, exact: Float[Tensor, "batch latent"]
) -> tuple[Float[Tensor, "chains batch"], Float[Tensor, "chains batch"]]:
    """Log-weights of forward chains, and of reverse chains from `exact`."""
    steps = tune(problem)
    start = _state(problem, exact.expand(problem.settings.chains, -1, -1))
    return _forward(problem, steps), _run(problem, Stream.ANNEALING_REVERSE, start, steps, reverse=True)


@torch.no_grad()
def tune(problem: Problem) -> Float[Tensor, "temperatures batch"]:
    """Leapfrog step sizes for each temperature and image, from a round of chains whose weights are not used."""
    betas = problem.betas
    state = initial_state(problem, Stream.ANNEALING_TUNING)
    steps = [torch.full((len(problem.block),), FIRST_STEP).to(problem.block.prior.mean)]
    for t in range(1, len(betas) - 1):
        state, acceptance = transition(problem, Stream.ANNEALING_TUNING, t, state, betas[t], steps[-1])
        steps.append(problem.settings.tuned(steps[-1], acceptance))
    return torch.stack(steps)


def _forward(
    problem: Problem, steps: Float[Tensor, "temperatures batch"], stream: int = Stream.ANNEALING_FORWARD
) -> Float[Tensor, "chains batch"]:
    return _run(problem, stream, initial_state(problem, stream), steps)


def schedule(temperatures: int, *, reverse: bool) -> Iterator[tuple[int, int]]:
    """Temperatures t of the moves, and of the weights (β_t − β_{t−1}) (log p − log r) after them, in a chain's order.

    A forward chain moves under β_{t−1} before it gains the weight of t. A reverse chain moves under β_t first.
    """
    for t in range(temperatures, 0, -1) if reverse else range(1, temperatures + 1):
        yield (t if reverse else t - 1), t


@torch.no_grad()
def _run(
    problem: Problem, stream: int, state: State, steps: Float[Tensor, "temperatures batch"], *, reverse: bool = False
) -> Float[Tensor, "chains batch"]:
    """Log-weights of one round of chains with fixed step sizes."""
    betas, last = problem.betas, problem.settings.temperatures
    log_w = torch.zeros(state.target.shape, dtype=torch.float64)
    for move, t in schedule(last, reverse=reverse):
        if 0 < move < last:  # at both ends the chains are exact samples already
            state, _ = transition(problem, stream, move, state, betas[move], steps[move])
        log_w += ((betas[t] - betas[t - 1]) * (state.target - state.start)).cpu().double()
    return log_w


def transition(
    problem: Problem, stream: int, temperature: int, state: State, beta: Tensor, step: Float[Tensor, " batch"]
) -> tuple[State, Float[Tensor, " batch"]]:
    """One Hamiltonian transition that leaves r^(1−β) p^β invariant, and the mean acceptance of each image.

    The momentum belongs to coordinates in which the proposal is spherical (Neal 2011, section 5.4.1).
    """
    noise, shape = problem.noise(stream, temperature), problem.proposal.components[0]
    momentum, current = noise.normal, state
    energy = state.value(beta) - 0.5 * momentum.square().sum(-1)
    momentum = momentum + 0.5 * step[:, None] * shape.whiten_gradient(state.gradient(beta))
    for i in range(problem.settings.leapfrog):
        state = _state(problem, state.z + shape.unwhiten(step[:, None] * momentum))
        last = i == problem.settings.leapfrog - 1
        momentum = momentum + (0.5 if last else 1.0) * step[:, None] * shape.whiten_gradient(state.gradient(beta))
    change = state.value(beta) - 0.5 * momentum.square().sum(-1) - energy
    accepted = noise.uniform.log() < change  # false for NaN: a step out of the density's support is rejected
    acceptance = change.nan_to_num(-torch.inf).exp().clamp(max=1).mean(0)
    return _where(accepted, state, current), acceptance


def _where(accepted: Bool[Tensor, "chains batch"], new: State, old: State) -> State:
    return State(
        *(torch.where(accepted[..., None] if n.ndim == 3 else accepted, n, o) for n, o in zip(new, old, strict=True))
    )


def initial_state(problem: Problem, stream: int) -> State:
    """Chains at samples of the proposal."""
    return _state(problem, problem.proposal.sample(problem.noise(stream, 0)))


def _state(problem: Problem, z: Float[Tensor, "chains batch latent"]) -> State:
    target, target_gradient = log_joint_gradient(problem.block.model, problem.block.x, z)
    start, start_gradient = with_gradient(problem.proposal.log_prob, z)
    return State(z.detach(), target, start, target_gradient, start_gradient)
