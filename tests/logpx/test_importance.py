"""Log p(x) by importance sampling: exact or calibrated on the linear model, unbiased whatever the halves decide."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

import logpx
from logpx import block, importance, noise
from logpx.batching import CACHED, chunk_size
from logpx.block import Settings
from logpx.estimator import Estimate, estimate_whole
from logpx.noise import LEVELS, Stream
from logpx.prior_monte_carlo import prior_monte_carlo
from logpx.weights import Diagnosis, pareto_khat
from pipeline.config import Params
from pipeline.data.dataset import Dataset
from pipeline.evaluation.settings import estimator, given_noise, joint, prepare
from pipeline.model.vae import VAE
from pipeline.training.fit import fit
from tests.support import Linear, flat_format, model_settings

SETTINGS = Settings(samples=256, budget=1024, chunk=1024, seed=5)


def estimate(vae: VAE, x: torch.Tensor, proposal: str = "mixture", **changes: Any) -> Estimate:
    return estimate_whole(prepare(vae, x, None, replace(SETTINGS, proposal=proposal, **changes)))


def test_with_the_exact_posterior_the_estimate_is_exact(linear: Linear, generator: torch.Generator) -> None:
    x = linear.sample(20, generator)
    result = estimate(linear.vae(), x, "encoder")
    # Proposals draw float32 noise; the weights are exact whatever the sample.
    torch.testing.assert_close(result.log_px, linear.log_px(x), rtol=0, atol=1e-10)
    torch.testing.assert_close(result.ess, torch.full((20,), 256.0).double(), rtol=1e-9, atol=0)
    assert result.trusted.all()


@pytest.mark.parametrize(
    ("proposal", "degrees_of_freedom"),
    [("encoder", None), ("laplace", None), ("laplace", 5.0), ("mixture", None), ("mixture", 5.0)],
)
def test_every_proposal_converges_to_the_density(
    linear: Linear, generator: torch.Generator, proposal: str, degrees_of_freedom: float | None
) -> None:
    x, vae = linear.sample(8, generator), linear.vae(scale=1.3, shift=0.05)
    result = estimate(vae, x, proposal, samples=8192, budget=8192, degrees_of_freedom=degrees_of_freedom)
    # Eight images at 4.5 standard errors: fails for one seed in 18 000, and the seed is fixed.
    assert ((result.log_px - linear.log_px(x)).abs() < 4.5 * result.standard_error).all()
    assert result.trusted.all()


def test_prior_monte_carlo_converges_if_the_posterior_is_wide(linear: Linear, generator: torch.Generator) -> None:
    wide = Linear(linear.w, linear.b, sigma=1.5)
    x = wide.sample(6, generator)
    result = prior_monte_carlo(given_noise(wide.vae(), None), x, latent=3, samples=20_000, seed=5, chunk=4)
    standard_error = (1 / result.ess - 1 / 20_000).sqrt()
    # Six images at 4.5 standard errors: fails for one seed in 24 000, and the seed is fixed.
    assert ((result.log_px - wide.log_px(x)).abs() < 4.5 * standard_error).all()


def test_a_narrow_proposal_is_not_trusted_and_the_mixture_is(linear: Linear, generator: torch.Generator) -> None:
    vae, x = linear.vae(scale=0.2), linear.sample(20, generator)
    assert estimate(vae, x, "encoder").trusted.double().mean() < 0.2
    assert estimate(vae, x, "mixture").trusted.all()


def test_another_proposal_is_trusted_only_if_the_mixture_agrees(generator: torch.Generator) -> None:
    """Narrower than the posterior in eight dimensions, its weights look harmless while most of p(x) is missed."""
    w = torch.randn(24, 8, generator=generator, dtype=torch.float64) / math.sqrt(8)
    model = Linear(w, torch.zeros(24, dtype=torch.float64), sigma=0.3)
    x = model.sample(100, generator)
    for scale in (0.7, 0.85):
        found = estimate(model.vae(scale=scale), x, "encoder")
        error = (found.log_px - model.log_px(x)).abs()
        # A right estimate is beyond 3 standard errors for one image in 370, and the seed is fixed.
        assert (error <= 3 * found.standard_error)[found.trusted].all()
        alone = diagnose_encoder(model.vae(scale=scale), x)
        assert (alone.trusted & (error > 3 * found.standard_error)).any()  # the weights alone would trust a wrong one


def diagnose_encoder(vae: VAE, x: torch.Tensor) -> Diagnosis:
    """The encoder's estimates judged by their weights alone."""
    whole = prepare(vae, x, None, replace(SETTINGS, proposal="encoder", chunk=100_000))
    return importance.measure(whole, importance.fit_proposal(whole).proposal)[0]


@pytest.mark.parametrize("proposal", ["prior", "encoder", "laplace", "mixture"])
def test_a_decoder_that_ignores_z_is_measured_and_trusted_with_every_proposal(
    proposal: str, generator: torch.Generator
) -> None:
    """Log p(x) = log p(x | z), and prior and encoder are the posterior: their weights are equal but for rounding."""
    vae = VAE(model_settings(latent=4, encoder=[], decoder=[], activation="relu", sigma=0.07), flat_format(784))
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.zero_()
        next(vae.decoder.parameters()).normal_(std=1e-9, generator=generator)
    x = 0.5 + 0.1 * torch.rand(360, 784, generator=generator)
    result = estimate(vae, x, proposal)
    exact = vae.decoder(torch.zeros(4)).log_prob(x).double()
    assert ((result.log_px - exact).abs() < 4.5 * result.standard_error + 1e-3).all()  # 1e-3: float32 at 900 nats
    # Two estimates within two standard errors: one in twenty right ones is not confirmed.
    assert result.trusted.double().mean() > 0.9 if proposal == "laplace" else result.trusted.all()


@pytest.mark.parametrize("samples", [32, 40, 49, 64])
def test_exact_weights_never_escalate(linear: Linear, generator: torch.Generator, samples: int) -> None:
    x = linear.sample(20, generator)
    result = estimate(linear.vae(), x, "encoder", samples=samples, budget=64 * samples)
    assert (result.samples == samples).all()


def test_a_half_with_a_tail_near_the_limit_asks_for_more(generator: torch.Generator) -> None:
    """Weights U^(−½) have k̂ = ½: below the limit for 256 samples, 0.585, but not by the margin of their error."""
    log_w = -0.5 * ((torch.arange(128, dtype=torch.float64)[:, None] + 0.5) / 128).log()  # quantiles of ½ · Exp(1)
    assert 0.4 < float(pareto_khat(log_w)) < 0.58
    assert importance._too_few(log_w, 256, adaptable=True).item() is True
    light = 0.05 * torch.randn(128, 1, generator=generator, dtype=torch.float64)
    assert importance._too_few(light, 256, adaptable=True).item() is False


def test_images_with_poor_weights_get_more_samples_up_to_the_budget(linear: Linear, generator: torch.Generator) -> None:
    vae, x = linear.vae(scale=8.0), linear.sample(30, generator)
    result = estimate(vae, x, "encoder", samples=64, budget=1024)
    # One level, or the half of one that is kept and the next.
    numbers = {64.0, 256.0, 32.0 + 256, 1024.0, 128.0 + 1024, 32.0 + 1024, 32.0 + 128 + 1024}
    assert {64.0, 32.0 + 256} <= set(result.samples.tolist()) <= numbers
    assert estimate(vae, x, "encoder", samples=64, budget=1023).samples.max() == 32 + 256
    first = estimate(vae, x, "encoder", samples=64, budget=64)
    assert first.samples.max() == 64
    # Images that stay at the first level have the same estimate as without further levels.
    stayed = result.samples == 64
    torch.testing.assert_close(result.log_px[stayed], first.log_px[stayed], rtol=0, atol=1e-9)


def test_no_half_is_judged_when_the_budget_allows_no_other_level(
    linear: Linear, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importance, "_too_few", lambda *_, **__: pytest.fail("there is nothing to decide"))
    vae, x = linear.vae(), linear.sample(5, generator)
    settings = replace(SETTINGS, samples=256, budget=1023)
    fitted = importance.fit_proposal(prepare(vae, x, None, settings)).evaluations
    assert estimate_whole(prepare(vae, x, None, settings)).evaluations.tolist() == (fitted + 256).tolist()


def test_a_regression_in_more_dimensions_gets_more_gradients() -> None:
    """As many samples as dimensions, an even number, at least 16 and at most a block; twice as many in round two."""
    for latent, first in (1, 16), (16, 16), (17, 18), (50, 50), (127, 128), (500, 128):
        assert importance._rounds(0, latent) == (first, 2 * first)
        assert importance._rounds(1, latent) == (importance.GRADIENTS_OF_HARD,)


def test_evaluations_count_fit_gradients_and_samples(
    linear: Linear, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every image is hard at the first level and easy at the second. A gradient counts as one more evaluation."""
    monkeypatch.setattr(importance, "_too_few", lambda log_w, samples, **_: torch.full(log_w.shape[1:], samples == 64))
    vae, x = linear.vae(), linear.sample(5, generator)
    settings = replace(SETTINGS, samples=64, budget=1024)
    fit = importance.fit_proposal(prepare(vae, x, None, settings))
    found = estimate_whole(prepare(vae, x, None, settings))
    assert (found.samples == 256).all()
    expected = fit.evaluations + (64 + 2 * 128 + 256)
    assert found.evaluations.tolist() == expected.tolist()


@pytest.mark.parametrize("scale", [6.0, 0.7])
def test_the_estimate_is_unbiased_although_weights_choose_the_number_of_samples(
    linear: Linear, generator: torch.Generator, scale: float
) -> None:
    """The mean of p̂(x)/p(x) over repetitions is one, because no sample decides about itself.

    It would not be if a half decided about itself, or about both. Images of every kind occur: none, one or both of the
    halves are replaced.
    """
    vae, one = linear.vae(scale=scale), linear.sample(1, generator)
    x = one.expand(20_000, -1).contiguous()  # the same image under 20 000 noises
    settings = replace(SETTINGS, samples=64, budget=256, proposal="encoder")
    parts = block.blocks(prepare(vae, x, None, settings))
    found = [importance.measure(part, importance.fit_proposal(part).proposal)[0] for part in parts]
    assert set(torch.cat([part.samples for part in found]).tolist()) == {64.0, 256.0, 32.0 + 256}
    ratio = (torch.cat([part.log_px for part in found]) - linear.log_px(x)).exp()
    # At 4.5 standard errors: fails for one seed in 150 000, and the seed is fixed.
    assert abs(float(ratio.mean()) - 1) < 4.5 * float(ratio.std()) / math.sqrt(len(ratio))


def test_either_half_decides_about_the_other(
    linear: Linear, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The verdict on the first half is made "too few" for even images, that on the second for the first two."""
    vae, x = linear.vae(scale=1.5), linear.sample(4, generator)
    settings = replace(SETTINGS, samples=64, budget=256, proposal="encoder")
    (whole,) = block.blocks(prepare(vae, x, None, settings))
    proposal = importance.fit_proposal(whole).proposal
    verdicts = iter([torch.tensor([True, False, True, False]), torch.tensor([True, True, False, False])])
    monkeypatch.setattr(importance, "_too_few", lambda *_, **__: next(verdicts))
    found, _ = importance.measure(whole, proposal)

    halves = importance.sample_log_weights(whole, proposal, Stream.ESTIMATE, 64).split(32)
    more = importance.sample_log_weights(whole, proposal, Stream.ESTIMATE.of(1), 256)
    first, second, new = (log_w.exp().mean(0) for log_w in (*halves, more))
    expected = torch.stack([
        new[0],
        (new[1] + second[1]) / 2,  # the second half says that the first is not enough
        (first[2] + new[2]) / 2,
        (first[3] + second[3]) / 2,
    ])  # fmt: skip
    torch.testing.assert_close(found.log_px.exp(), expected, rtol=1e-9, atol=0)
    assert found.samples.tolist() == [256, 32 + 256, 32 + 256, 64]


def test_no_noise_is_used_twice(linear: Linear, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimates of each level draw fresh noise. The bias of reused noise can be too small to see."""
    drawn: list[tuple[int, int, int]] = []
    original = noise.draw

    def record(seed: int, images: torch.Tensor, stream: int, block: int, samples: int, latent: int) -> noise.Noise:
        drawn.extend((image, stream, block) for image in images.tolist())
        return original(seed, images, stream, block, samples, latent)

    monkeypatch.setattr(noise, "draw", record)
    monkeypatch.setattr(block, "draw", record)
    vae, x = linear.vae(scale=8.0), linear.sample(30, generator)
    estimate(vae, x, "encoder", samples=64, budget=1024)
    used = {stream for _, stream, _ in drawn}
    assert {Stream.ESTIMATE.of(0), Stream.ESTIMATE.of(1)} <= used
    assert len(drawn) == len(set(drawn))


def test_an_estimate_depends_neither_on_the_chunk_nor_on_the_batch(linear: Linear, generator: torch.Generator) -> None:
    vae, x = linear.vae(scale=1.5), linear.sample(30, generator)
    reference = estimate(vae, x, chunk=4096)
    for chunk in (128, 640, 100_000):
        torch.testing.assert_close(estimate(vae, x, chunk=chunk).log_px, reference.log_px, rtol=0, atol=1e-9)
    torch.testing.assert_close(estimate(vae, x[:7]).log_px, reference.log_px[:7], rtol=0, atol=1e-9)


def test_the_decoder_never_sees_more_than_a_chunk(linear: Linear, generator: torch.Generator) -> None:
    vae, x = linear.vae(), linear.sample(30, generator)
    seen: list[int] = []
    vae.decoder.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[:-1].numel()))
    estimate(vae, x, "encoder", samples=1000, budget=1000, chunk=512)
    prior_monte_carlo(given_noise(vae, None), x, latent=3, samples=1000, seed=0, chunk=512)
    assert max(seen) <= 512
    assert sum(seen) == 2 + 30 * 1000 + 1000  # the model is tried on two samples first


def test_the_output_of_a_chunk_fits_the_cache() -> None:
    vae = VAE(model_settings(latent=16, encoder=[], decoder=[512], activation="silu", sigma=0.1), flat_format(784))
    chunk = chunk_size(joint(vae), torch.zeros(1, 784), 16)
    assert chunk % noise.BLOCK == 0
    assert CACHED * 0.9 < chunk * 784 <= CACHED


def test_blocks_cover_all_images_once(linear: Linear, generator: torch.Generator) -> None:
    vae, x = linear.vae(), linear.sample(300, generator)
    blocks = block.blocks(prepare(vae, x, None, replace(SETTINGS, chunk=128)))
    assert [image for part in blocks for image in part.images.tolist()] == list(range(300))
    assert max(map(len, blocks)) == 128 // 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 31}, "samples = 31: at least 32"),
        ({"budget": 256 * 4**LEVELS}, "at most 16384 times samples"),
        ({"chunk": 127}, "chunk = 127: at least 128"),
        ({"proposal": "posterior"}, "one of prior, encoder, laplace, mixture"),
        ({"starts": 0}, "starts = 0: at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SETTINGS, **changes)


def test_the_largest_budget_is_valid() -> None:
    assert replace(SETTINGS, budget=256 * 4 ** (LEVELS - 1)).budget == 4_194_304


def test_every_level_of_the_largest_budget_has_its_own_noise() -> None:
    """The streams of all levels and rounds, and those of other uses, are distinct numbers."""
    leveled = Stream.ESTIMATE, Stream.RESCUE_CHAINS, Stream.RESCUE_ESTIMATE, Stream.RESCUE_ANNEALING
    streams = [use.of(level) for use in leveled for level in range(LEVELS)]
    streams += [
        Stream.REFINEMENT.of(level, r) for level in range(LEVELS) for r in range(len(importance._rounds(level, 3)))
    ]
    streams += [use.value for use in Stream if use not in (*leveled, Stream.REFINEMENT)]
    assert len(streams) == len(set(streams)) == 4 * LEVELS + LEVELS + 1 + 8


def test_rounding_changes_log_px_by_less_than_promised(params: Params, tiny: Dataset) -> None:
    """float64 stands for another processor, thread count or chunk: the noise is the same, only rounding differs."""
    torch.manual_seed(0)
    vae = VAE(model_settings(latent=3, encoder=[16], decoder=[16], activation="silu", sigma=0.2), tiny.format())
    list(fit(vae, tiny.train_images.flatten(1), params.train.model_copy(update={"epochs": 40})))
    x = vae.images.read_fixed(tiny.test_images, 1)
    settings = estimator(params.evaluate, vae)
    first = estimate_whole(prepare(vae, x, None, settings))
    other = estimate_whole(prepare(vae.double(), x.double(), None, settings))
    assert not torch.equal(first.log_px, other.log_px)
    assert (first.log_px - other.log_px).abs().mean() < 1e-3


def test_progress_is_shown_on_request_and_changes_nothing(
    linear: Linear, generator: torch.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    model, x = joint(linear.vae()), linear.sample(100, generator)
    silent = logpx.estimate(model, x, latent=3, chunk=128)  # 42 images in a block
    assert capsys.readouterr().err == ""
    shown = logpx.estimate(model, x, latent=3, chunk=128, progress=True)
    assert capsys.readouterr().err.endswith("\rlog p(x): 3 of 3 blocks\n")
    assert torch.equal(shown.log_px, silent.log_px)
