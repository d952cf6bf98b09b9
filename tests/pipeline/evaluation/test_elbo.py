"""The ELBO of each image, on the linear model, for which the KL to the posterior is known."""

import math

import torch

from logpx import noise
from logpx.noise import Stream
from pipeline.evaluation.elbo import elbos
from tests.support import Linear


def test_the_elbo_falls_short_by_the_kl_to_the_posterior(linear: Linear, generator: torch.Generator) -> None:
    x = linear.sample(5, generator)
    exact = elbos(linear.vae(), x, None, samples=2000, seed=5, chunk=1024)
    spread = math.sqrt(3 / 2000)  # of the mean of log p(x | z): three latent dimensions, each of variance ½ at most
    assert ((exact.value - linear.log_px(x)).abs() < 4.5 * spread).all()
    wrong = elbos(linear.vae(scale=2.0), x, None, samples=2000, seed=5, chunk=1024)
    gap = 3 * (0.5 * (4 - 1) - math.log(2))
    assert ((linear.log_px(x) - wrong.value - gap).abs() < 4.5 * 4 * spread).all()


def test_it_depends_neither_on_the_chunk_nor_on_the_batch(linear: Linear, generator: torch.Generator) -> None:
    vae, x = linear.vae(scale=1.5), linear.sample(30, generator)
    terms = elbos(vae, x, None, samples=200, seed=1, chunk=4096)
    torch.testing.assert_close(
        elbos(vae, x, None, samples=200, seed=1, chunk=128).value, terms.value, rtol=0, atol=1e-9
    )
    later = elbos(vae, x[20:], None, samples=200, seed=1, chunk=4096, first=20)
    torch.testing.assert_close(later.value, terms.value[20:], rtol=0, atol=1e-9)


def test_the_decoder_never_sees_more_than_a_chunk(linear: Linear, generator: torch.Generator) -> None:
    vae, x = linear.vae(), linear.sample(30, generator)
    seen: list[int] = []
    vae.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[:-1].numel()))
    elbos(vae, x, None, samples=1000, seed=0, chunk=512)
    assert max(seen) <= 512
    assert sum(seen) == 30 * 1000


def test_its_noise_is_its_own(linear: Linear, generator: torch.Generator) -> None:
    """With the exact encoder the reconstruction of one sample follows from that sample's noise in the ELBO's stream."""
    vae, x = linear.vae(), linear.sample(2, generator)
    normal = noise.draw(9, torch.arange(2), Stream.ELBO, 0, 1, 3).normal.double()
    q = vae.encoder(x)
    expected = vae.decoder(q.mean + q.stddev * normal).log_prob(x)[0]
    found = elbos(vae, x, None, samples=1, seed=9, chunk=1024).reconstruction
    torch.testing.assert_close(found, expected.detach(), rtol=0, atol=1e-9)
