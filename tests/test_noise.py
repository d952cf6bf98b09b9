"""Noise belongs to the image: it depends on seed, image, stream and block alone."""

import math

import torch

from pipeline.likelihood.noise import BLOCK, blocks, draw


def test_company_and_order_do_not_change_the_noise_of_an_image() -> None:
    together, alone = draw(7, range(10), 1, 0, 50, 4), draw(7, [6], 1, 0, 50, 4)
    backwards = draw(7, range(9, -1, -1), 1, 0, 50, 4)
    for many, one, reverse in zip(together, alone, backwards, strict=True):
        assert torch.equal(many[:, 6], one[:, 0])
        assert torch.equal(reverse[:, 3], one[:, 0])


def test_seed_image_stream_and_block_each_change_it() -> None:
    reference = draw(7, [6], 1, 0, 50, 4)
    for other in (
        draw(8, [6], 1, 0, 50, 4),
        draw(7, [5], 1, 0, 50, 4),
        draw(7, [6], 2, 0, 50, 4),
        draw(7, [6], 1, 1, 50, 4),
    ):
        assert not torch.equal(reference.normal, other.normal)
        assert not torch.equal(reference.uniform, other.uniform)


def test_fewer_samples_are_the_first_of_more() -> None:
    more, fewer = draw(7, [6], 1, 0, 50, 4), draw(7, [6], 1, 0, 20, 4)
    assert torch.equal(more.normal[:20], fewer.normal)
    assert torch.equal(more.uniform[:20], fewer.uniform)


def test_it_has_the_moments_it_should_and_images_are_independent() -> None:
    normal, uniform = (part.double() for part in draw(0, range(400), 0, 0, BLOCK, 2))
    # Each at 4.5 standard errors: all of them hold for all but one seed in 29 000, and the seed is fixed.
    assert abs(float(normal.mean())) < 4.5 / math.sqrt(normal.numel())
    assert abs(float(normal.var()) - 1) < 4.5 * math.sqrt(2 / normal.numel())
    assert abs(float((normal[:, :-1] * normal[:, 1:]).mean())) < 4.5 / math.sqrt(normal.numel())
    assert abs(float(uniform.mean()) - 0.5) < 4.5 / math.sqrt(12 * uniform.numel())
    assert 0 <= float(uniform.min()) < float(uniform.max()) < 1


def test_blocks_cover_all_samples_once() -> None:
    assert [count for _, count in blocks(300)] == [BLOCK, BLOCK, 300 - 2 * BLOCK]
    assert [block for block, _ in blocks(300)] == [0, 1, 2]
