"""Modes: all that matter are found, each once and with its share, or the estimate is not trusted."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import logpx
from logpx import modes
from logpx.block import Block, Settings, prepare
from logpx.curvature import derivatives
from logpx.importance import fit_proposal
from logpx.laplace import climb
from logpx.model import log_joint
from pipeline.evaluation.settings import prepare as prepare_vae
from tests.support import Linear

SIGMA = 0.1


@pytest.fixture
def weights(generator: torch.Generator) -> Tensor:
    return torch.randn(40, 4, generator=generator, dtype=torch.float64)


def folded(weights: Tensor) -> logpx.Decoder:
    """f(z) = sigmoid(A |z|): 16 modes of equal mass, one in each orthant."""
    return logpx.Decoder(lambda z: torch.sigmoid(z.abs() @ weights.T), logpx.Gaussian(SIGMA))


def unfolded(weights: Tensor) -> logpx.Decoder:
    """f(z) = sigmoid(A z), the same in the orthant of positive z."""
    return logpx.Decoder(lambda z: torch.sigmoid(z @ weights.T), logpx.Gaussian(SIGMA))


def images(weights: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """z with all coordinates far above zero, and images made of them."""
    z = 0.8 + 0.7 * torch.randn(count, 4, generator=generator, dtype=torch.float64).abs()
    noise = SIGMA * torch.randn(count, 40, generator=generator, dtype=torch.float64)
    return z, torch.sigmoid(z @ weights.T) + noise


@pytest.mark.slow
@pytest.mark.parametrize("start", ["none", "the z that made x"])
def test_sixteen_equal_modes_are_all_found_or_the_estimate_is_not_trusted(
    weights: Tensor, generator: torch.Generator, start: str
) -> None:
    """p(x) is 16 times that of the twin whose posterior has one mode: log p(x) is larger by 4 log 2."""
    z, x = images(weights, 30, generator)
    options: dict[str, Any] = {"latent": 4, "start": None if start == "none" else z, "samples": 1024}
    one, all_of_them = logpx.estimate(unfolded(weights), x, **options), logpx.estimate(folded(weights), x, **options)
    assert one.trusted.all()
    assert all_of_them.trusted.double().mean() >= 0.9
    # Standard errors are about 0.014 nats; one missing mode is 0.06, and two are 0.13. Of these images two miss one.
    error = (all_of_them.log_px - one.log_px - 4 * math.log(2)).abs()
    assert (error < 0.1)[all_of_them.trusted].all()


@pytest.mark.parametrize("most", [2, 6])
def test_an_image_whose_last_searches_found_new_modes_is_not_trusted(
    weights: Tensor, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """A few searches cannot find 16 modes; the weights alone would trust what they found."""
    monkeypatch.setattr(modes, "MOST", most)
    z, x = images(weights, 10, generator)
    block = prepare(folded(weights), x, Settings(), latent=4, start=z)
    found = modes.find(block)
    several = modes._numbers(found.peaks) > 1
    assert several.any()
    assert not found.complete[several].any()
    assert found.complete[~several].all()
    estimate = logpx.estimate(folded(weights), x, latent=4, start=z)
    assert not estimate.trusted[several].any()
    assert (estimate.khat < 0.5)[several].any()


X = torch.tensor([[2.2, -0.1], [2.2, -0.3], [2.5, -0.5]], dtype=torch.float64)


def two_modes(name: str) -> logpx.Decoder:
    """f(z) = (g(z), z / 50) with an even g: for `X` two modes near ±1.5 or ±1.3, of which the left one has more mass.

    `chain`: g(z) = 2 z tanh z, which two units make, silu(a) + silu(−a) = a tanh(a / 2), a = 2 z. `square`: g(z) = z².
    """
    if name == "square":
        return logpx.Decoder(lambda z: torch.cat([z.square(), 0.02 * z], -1), logpx.Gaussian(0.1))
    first, last = nn.Linear(1, 2, bias=False).double(), nn.Linear(2, 2, bias=False).double()
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[2.0], [-2.0]]))
        last.weight.copy_(torch.tensor([[1.0, 1.0], [0.01, -0.01]]))
    return logpx.Decoder(nn.Sequential(first, nn.SiLU(), last), logpx.Gaussian(0.1))


@pytest.mark.parametrize("name", ["chain", "square"])
@pytest.mark.parametrize("start", [-1.5, 1.5, None])
def test_two_modes_are_found_with_their_shares(name: str, start: float | None) -> None:
    model, x = two_modes(name), X
    grid = torch.linspace(-8, 8, 40_001, dtype=torch.float64)
    width = (grid[1] - grid[0]).log()
    log_p = log_joint(model, x, grid[:, None, None].expand(-1, 3, -1)).detach() + width
    exact, of_the_right = log_p.logsumexp(0), log_p[grid > 0].logsumexp(0)
    right_share = (of_the_right - exact).exp()
    assert ((right_share > 0.03) & (right_share < 0.4)).all()  # the left mode has more, and the right one matters

    at = None if start is None else torch.full((3, 1), start, dtype=torch.float64)
    settings = Settings(samples=4096, budget=4096)
    block = prepare(model, x, settings, latent=1, start=at)
    found = modes.find(block)
    assert found.complete.all()
    assert modes._numbers(found.peaks).tolist() == [2, 2, 2]
    assert (found.peaks[0].mode < 0).all()
    mode, log_mass = (torch.stack([getattr(peak, name) for peak in found.peaks]) for name in ("mode", "log_mass"))
    mass_right = (log_mass.softmax(0) * (mode[..., 0] > 0)).sum(0)
    torch.testing.assert_close(mass_right, right_share, rtol=0.1, atol=0)

    # In the proposal each has its share of what the defensive component, the prior, leaves.
    shares = fit_proposal(block).proposal.shares
    torch.testing.assert_close(shares[:, -1], torch.full((3,), 0.05, dtype=torch.float64))
    of_the_right = (shares[:, :-1] * (mode[..., 0] > 0).T).sum(1) / 0.95
    torch.testing.assert_close(of_the_right, right_share, rtol=0.1, atol=0)
    estimate = logpx.estimate(model, x, latent=1, start=at, samples=4096)
    assert estimate.trusted.all()
    # Three images at 4.5 standard errors: fails for one seed in 49 000, and the seed is fixed.
    assert ((estimate.log_px - exact).abs() < 4.5 * estimate.standard_error).all()
    assert (estimate.standard_error < 0.006).all()  # so a missing mode, of at least 3 %, would be noticed


def find(linear: Linear, x: Tensor, **settings: Any) -> tuple[Block, modes.Modes]:
    block = prepare_vae(linear.vae(shift=0.3), x, None, Settings(chunk=100_000, **settings))
    return block, modes.find(block)


@pytest.mark.parametrize("starts", [1, 2, 5])
def test_a_posterior_with_one_mode_has_one_component(linear: Linear, generator: torch.Generator, starts: int) -> None:
    """However many searches end there."""
    x = linear.sample(8, generator)
    block, found = find(linear, x, starts=starts)
    assert found.complete.all()
    (peak,) = found.peaks
    assert peak.converged.all()
    torch.testing.assert_close(peak.mode, linear.posterior_mean(x), rtol=0, atol=1e-8)
    torch.testing.assert_close(peak.log_mass, linear.log_px(x), rtol=0, atol=1e-8)  # exact for a Gaussian posterior
    assert fit_proposal(block).proposal.shares.shape == (8, 3)  # the mode, the encoder, the prior


def test_more_searches_are_made_for_images_with_several_modes_only() -> None:
    """One batch of images with several modes and with one: neither pays for the other."""
    model, x = two_modes("chain"), X
    impossible = torch.tensor([[-1.0, 0.0]], dtype=torch.float64)  # g is never negative: the mode is at 0
    block = prepare(model, torch.cat([x, impossible]), Settings(), latent=1)
    found = modes.find(block)
    assert modes._numbers(found.peaks).tolist() == [2, 2, 2, 1]
    # Eight more searches at least, each with a curvature (3) where it starts and one value.
    assert (found.evaluations[:3] >= found.evaluations[3] + 8 * (3 + 1)).all()
    alone = modes.find(block[torch.tensor([3])])
    assert alone.evaluations.tolist() == found.evaluations[3:].tolist()
    assert len(alone.peaks) == 1


def test_ends_at_the_same_mode_are_one_mode_and_negligible_ones_are_none() -> None:
    def peak(at: float, log_mass: float) -> modes.Peak:
        one = torch.ones(1, dtype=torch.float64)
        return modes.Peak(at * one[None], 2 * one[None, None], log_mass * one, one > 0, log_mass * one)

    def kept(*peaks: modes.Peak) -> list[float]:
        return [float(each.mode) for each in modes._distinct(list(peaks))]

    # In units of the standard deviation, ½: 1.4 is 2.8 of them, closer than three; 1.6 is 3.2.
    assert kept(peak(0.0, 1.0), peak(1.4, 2.0)) == [1.4]
    assert kept(peak(0.0, 1.0), peak(1.6, 2.0)) == [1.6, 0.0]
    assert kept(peak(0.0, 7.1), peak(9.0, 2.0)) == [0.0]
    assert kept(peak(0.0, 6.9), peak(9.0, 2.0)) == [0.0, 9.0]
    assert kept(peak(0.0, 1.0), peak(9.0, -math.inf)) == [0.0]


def test_what_is_found_depends_neither_on_the_batch_nor_on_the_chunk(
    weights: Tensor, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although a batch shares the list of modes, and images with several share the further searches."""
    monkeypatch.setattr(modes, "MOST", 6)
    _, x = images(weights, 6, generator)
    together = logpx.estimate(folded(weights), x, latent=4)
    later = logpx.estimate(folded(weights), x[4:], latent=4, first=4)
    torch.testing.assert_close(later.log_px, together.log_px[4:], rtol=0, atol=1e-9)
    assert later.trusted.tolist() == together.trusted[4:].tolist()
    assert later.evaluations.tolist() == together.evaluations[4:].tolist()
    small = logpx.estimate(folded(weights), x, latent=4, chunk=1024)
    torch.testing.assert_close(small.log_px, together.log_px, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("count", "groups"), [(3, {3}), (32, {32}), (40, {32, 40, 64})])
def test_a_step_of_few_images_costs_no_more_than_they_need(
    weights: Tensor, generator: torch.Generator, count: int, groups: set[int]
) -> None:
    """Groups of images keep the number of sizes small, but are never larger than the block."""
    _, x = images(weights, count, generator)
    seen = set[int]()

    def decode(z: Tensor) -> Tensor:
        seen.add(len(z))
        return torch.sigmoid(z @ weights.T)

    model, start = logpx.Decoder(decode, logpx.Gaussian(SIGMA)), torch.zeros(count, 4).double()
    metric = derivatives(model, 4).at(x, start).surrogate
    seen.clear()
    end = climb(model, x, start, metric, lambda rows, _: rows < 0)
    assert (end.evaluations > 2).all()
    assert seen
    assert seen <= groups


def test_the_searches_of_a_round_are_no_more_than_the_block(weights: Tensor, generator: torch.Generator) -> None:
    """Images with sixteen modes have four searches in a round."""
    z, x = images(weights, 8, generator)
    seen: list[int] = []

    def decode(z: Tensor) -> Tensor:
        seen.append(len(z))
        return torch.sigmoid(z.abs() @ weights.T)

    model = logpx.Decoder(decode, logpx.Gaussian(SIGMA))
    found = modes.find(prepare(model, x, Settings(), latent=4, start=z))
    assert len(found.peaks) > 1
    assert max(seen) == 8
