"""Annealed importance sampling with Hamiltonian Monte Carlo, and bidirectional Monte Carlo.

A chain goes from the proposal r to the posterior through the densities r(z)^(1−β) p(x, z)^β, β from 0 to 1, and its
weight, the product of the ratios on its way, has the mean p(x) (Neal 2001). On data simulated from the model one
exact posterior sample is known, the z that made x: a chain from there to r gives 1/p(x) in the mean, so that log p(x)
lies between the two estimates in expectation (Grosse, Ghahramani & Adams 2015; Wu et al. 2017).
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pipeline.bounds import log_joint_gradient, with_gradient
from pipeline.config import Verify
from pipeline.likelihood import noise
from pipeline.likelihood.proposals import Proposal
from pipeline.vae import VAE

# Streams of an image's noise, one for each use of a temperature's block.
TUNING, FORWARD, REVERSE = 96, 97, 98

SIGMOID = 4.0  # β = logistic(±4) at the ends, before they are stretched to 0 and 1 (Wu et al. 2017)
FIRST_STEP, ADAPTATION = 0.3, 0.5  # of the leapfrog's step: its first size, and how fast its logarithm moves


class Path(NamedTuple):
    """What chains of a batch of images run through: x, the proposal they start from, and temperatures."""

    vae: VAE
    x: Float[Tensor, "batch pixels"]
    proposal: Proposal
    images: range
    settings: Verify

    @property
    def betas(self) -> Float[Tensor, " temperatures"]:
        """From 0 to 1, dense at both ends: a sigmoid of equal steps."""
        steps = torch.linspace(-SIGMOID, SIGMOID, self.settings.temperatures + 1, dtype=torch.float64)
        return ((steps.sigmoid() - steps[0].sigmoid()) / (steps[-1].sigmoid() - steps[0].sigmoid())).to(self.x)


class State(NamedTuple):
    """Chains' positions, with log p(x, z) and log r(z) and their gradients there."""

    z: Float[Tensor, "chains batch latent"]
    target: Float[Tensor, "chains batch"]
    start: Float[Tensor, "chains batch"]
    target_gradient: Float[Tensor, "chains batch latent"]
    start_gradient: Float[Tensor, "chains batch latent"]

    def value(self, beta: Tensor) -> Float[Tensor, "chains batch"]:
        return beta * self.target + (1 - beta) * self.start

    def gradient(self, beta: Tensor) -> Float[Tensor, "chains batch latent"]:
        return beta * self.target_gradient + (1 - beta) * self.start_gradient


def annealed(path: Path) -> Float[Tensor, "chains batch"]:
    """Log-weights of chains from the proposal to the posterior, in nats, float64 on the CPU: E[w] = p(x).

    A first round tunes the step size of each image at each temperature to the acceptance asked for. A second one
    with other noise has those steps frozen, so that its transitions leave their densities as they are and its weights
    are unbiased. An image's chains share its step: their mean acceptance says more than one chain's.
    """
    steps = tune(path)
    return _run(path, FORWARD, _start(path, FORWARD), steps)[0]


def bidirectional(
    path: Path, exact: Float[Tensor, "batch latent"]
) -> tuple[Float[Tensor, "chains batch"], Float[Tensor, "chains batch"]]:
    """Log-weights of forward chains, and of reverse chains from the z that made each x; nats, float64 on the CPU.

    log mean exp of the first is at most log p(x) in expectation, −log mean exp of the negative second at least.
    Strict only where `exact` is a sample of the posterior: for x simulated from the model with that z.
    """
    steps = tune(path)
    forward, _ = _run(path, FORWARD, _start(path, FORWARD), steps)
    z = exact.expand(path.settings.chains, -1, -1)
    reverse, _ = _run(path, REVERSE, _state(path, z), steps, reverse=True)
    return forward, reverse


def tune(path: Path) -> Float[Tensor, "temperatures batch"]:
    """Step sizes of the leapfrog for each temperature and image, by a round whose weights are thrown away."""
    first = torch.full((len(path.x),), FIRST_STEP).to(path.x)
    return _run(path, TUNING, _start(path, TUNING), first)[1]


def blocks(images: int, settings: Verify, chunk: int) -> list[range]:
    """Ranges of images whose chains together are at most `chunk` decoder evaluations at once."""
    return noise.ranges(images, chunk // settings.chains)


def evaluations(settings: Verify) -> int:
    """Decoder evaluations an image of `annealed`: a value and a gradient each leapfrog step, in two rounds."""
    return 2 * 2 * settings.chains * (1 + (settings.temperatures - 1) * settings.leapfrog)


@torch.no_grad()
def _run(
    path: Path, stream: int, state: State, steps: Float[Tensor, "*temperatures batch"], *, reverse: bool = False
) -> tuple[Float[Tensor, "chains batch"], Float[Tensor, "temperatures batch"]]:
    """Log-weights of one round and the steps it used; steps of one temperature are adapted as the round goes."""
    betas, adapting, used = path.betas, steps.ndim == 1, []
    order = range(len(betas) - 1, 0, -1) if reverse else range(1, len(betas))
    log_w = torch.zeros(state.target.shape, dtype=torch.float64)
    for t in order:
        # A reverse chain moves under β_t before it pays for the way down from there, a forward one after.
        here = t if reverse else t - 1
        if 0 < here < len(betas) - 1:
            step = steps if adapting else steps[here]
            state, acceptance = _transition(path, stream, here, state, betas[here], step)
            if adapting:
                steps = steps * (ADAPTATION * (acceptance - path.settings.acceptance)).exp()
        if adapting:
            used.append(steps)
        log_w += ((betas[t] - betas[t - 1]) * (state.target - state.start)).cpu().double()
    return log_w, torch.stack(used) if adapting else steps


def _transition(
    path: Path, stream: int, temperature: int, state: State, beta: Tensor, step: Float[Tensor, " batch"]
) -> tuple[State, Float[Tensor, " batch"]]:
    """One Hamiltonian transition that leaves r^(1−β) p^β as it is, and the mean acceptance of each image.

    The momentum is that of coordinates in which the proposal is spherical (Neal 2011, section 5.4.1).
    """
    drawn, shape = _noise(path, stream, temperature), path.proposal.components[0]
    momentum, current = drawn.normal, state
    energy = state.value(beta) - 0.5 * momentum.square().sum(-1)
    momentum = momentum + 0.5 * step[:, None] * shape.whiten_gradient(state.gradient(beta))
    for i in range(path.settings.leapfrog):
        state = _state(path, state.z + shape.unwhiten(step[:, None] * momentum))
        last = i == path.settings.leapfrog - 1
        momentum = momentum + (0.5 if last else 1.0) * step[:, None] * shape.whiten_gradient(state.gradient(beta))
    change = state.value(beta) - 0.5 * momentum.square().sum(-1) - energy
    accepted = drawn.uniform.log() < change  # a step to where there is no density is no number, and is refused
    acceptance = change.nan_to_num(-torch.inf).exp().clamp(max=1).mean(0)
    return _where(accepted, state, current), acceptance


def _where(accepted: Bool[Tensor, "chains batch"], new: State, old: State) -> State:
    return State(
        *(torch.where(accepted[..., None] if n.ndim == 3 else accepted, n, o) for n, o in zip(new, old, strict=True))
    )


def _start(path: Path, stream: int) -> State:
    return _state(path, path.proposal.sample(_noise(path, stream, 0)))


def _state(path: Path, z: Float[Tensor, "chains batch latent"]) -> State:
    target, target_gradient = log_joint_gradient(path.vae, path.x, z)
    start, start_gradient = with_gradient(path.proposal.log_prob, z)
    return State(z.detach(), target, start, target_gradient, start_gradient)


def _noise(path: Path, stream: int, block: int) -> noise.Noise:
    images = torch.tensor(path.images, device=path.x.device)
    return noise.draw(path.settings.seed, images, stream, block, path.settings.chains, path.vae.latent).to(path.x)
