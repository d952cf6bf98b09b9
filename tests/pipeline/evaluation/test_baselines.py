"""The baselines against closed forms, PyTorch, SciPy and scikit-learn."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA
from torch import Tensor
from torch.distributions import MultivariateNormal

from pipeline.evaluation import baselines as module
from pipeline.evaluation.baselines import (
    BASELINES,
    RIDGE,
    Density,
    Gaussian,
    Histogram,
    baselines,
    moments,
)

GAUSSIANS = {"independent", "ppca", "variances", "covariance"}


@pytest.fixture
def images(generator: torch.Generator) -> Tensor:
    """Bytes of eight pixels with three strong directions."""
    z = torch.randn(5000, 3, generator=generator) @ torch.randn(3, 8, generator=generator) * 25
    return (z + 4 * torch.randn(5000, 8, generator=generator) + 128).clamp(0, 255).to(torch.uint8)


def fitted(name: str, images: Tensor, levels: int = 256, sigma: float | None = 0.05, latent: int = 2) -> Density:
    return baselines(images, levels, binarised=False, sigma=sigma, latent=latent)[name]


def gaussian(name: str, images: Tensor, sigma: float | None = 0.05, latent: int = 2) -> Gaussian:
    found = fitted(name, images, sigma=sigma, latent=latent)
    assert isinstance(found, Gaussian)
    return found


def covariance_of(model: Gaussian) -> Tensor:
    vectors = torch.eye(len(model.mean)).double() if model.vectors is None else model.vectors
    return vectors @ model.variances.diag() @ vectors.T


# What a model of given images is compared with


def test_grey_images_have_all_baselines(images: Tensor) -> None:
    assert list(baselines(images, 256, binarised=False, sigma=0.1, latent=2)) == list(BASELINES)


def test_large_images_have_no_covariance(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    before = gaussian("variances", images)
    monkeypatch.setattr(module, "MOST_PIXELS", 7)
    found = baselines(images, 256, binarised=False, sigma=0.1, latent=2)
    assert set(found) == set(BASELINES) - {"ppca", "covariance"}
    after = found["variances"]
    assert isinstance(after, Gaussian)
    torch.testing.assert_close(after.variances, before.variances, rtol=1e-12, atol=0)
    assert torch.equal(after.mean, before.mean)


def test_a_model_without_a_fixed_sigma_is_not_compared_with_one(images: Tensor) -> None:
    assert set(baselines(images, 256, binarised=False, sigma=None, latent=2)) == set(BASELINES) - {"independent"}


def test_binarised_images_have_no_gaussian_baselines(images: Tensor) -> None:
    found = baselines(images // 128, 2, binarised=True, sigma=None, latent=2)
    assert set(found) == {"uniform", "histogram"} == set(BASELINES) - GAUSSIANS


@pytest.mark.parametrize("name", list(BASELINES))
def test_results_are_float64_and_do_not_depend_on_chunks(
    images: Tensor, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = (images[:50].float() + 0.25) / 256
    whole = fitted(name, images).log_prob(x)
    monkeypatch.setattr(module, "CHUNK", 7)
    parts = fitted(name, images).log_prob(x)
    assert whole.dtype == parts.dtype == torch.float64
    assert whole.shape == (50,)
    torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-9)


# Moments


def test_moments_are_those_of_dequantised_images(images: Tensor, generator: torch.Generator) -> None:
    coarse = images // 64  # with few grey levels the noise is a large part of the variance
    exact = moments(coarse, 4)
    noisy = torch.cat([(coarse + torch.rand(images.shape, generator=generator)) / 4 for _ in range(40)]).double()
    # Tolerances of five standard errors of 200 000 draws; 1/12 of a level squared is 5e-3.
    torch.testing.assert_close(exact.mean, noisy.mean(0), rtol=0, atol=1e-3)
    torch.testing.assert_close(exact.covariance, noisy.T.cov(), rtol=0, atol=5e-4)


@pytest.mark.parametrize("value", [0, 255])
def test_equal_images_have_the_variance_of_the_dequantisation_only(value: int) -> None:
    exact = moments(torch.full((3, 4), value, dtype=torch.uint8), 256)
    expected = torch.eye(4, dtype=torch.float64) / (12 * 256**2)
    torch.testing.assert_close(exact.covariance, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        exact.mean, torch.full((4,), (value + 0.5) / 256, dtype=torch.float64), rtol=1e-12, atol=0
    )


# Gaussians


@pytest.mark.parametrize("name", sorted(GAUSSIANS))
def test_gaussian_densities_agree_with_pytorch(images: Tensor, name: str) -> None:
    train, sigma = moments(images, 256), 0.05
    model = gaussian(name, images, sigma)
    found = covariance_of(model)
    x = images[:50].double() / 256
    torch.testing.assert_close(model.log_prob(x), MultivariateNormal(train.mean, found).log_prob(x), rtol=0, atol=1e-8)
    if name == "independent":
        torch.testing.assert_close(found, sigma**2 * torch.eye(8).double())
    elif name == "variances":
        torch.testing.assert_close(found, train.covariance.diagonal().diag())
    elif name == "covariance":
        torch.testing.assert_close(found, train.covariance + RIDGE * torch.eye(8).double())
    else:
        assert model.vectors is not None
        w = model.vectors[:, -2:] * (model.variances[-2:] - sigma**2).sqrt()
        torch.testing.assert_close(found, w @ w.T + sigma**2 * torch.eye(8).double())


def test_the_full_covariance_agrees_with_scipy(images: Tensor) -> None:
    """With moments computed by NumPy."""
    x = (images.double().numpy() + 0.5) / 256
    witness = np.cov(x.T, ddof=0) + np.eye(8) * (1 / (12 * 256**2) + RIDGE)
    expected = multivariate_normal.logpdf(x, x.mean(0), witness)  # pyright: ignore[reportArgumentType]
    found = fitted("covariance", images).log_prob(torch.from_numpy(x))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


def test_the_full_covariance_of_constant_pixels_is_finite() -> None:
    black = torch.zeros(10, 4, dtype=torch.uint8)
    x = torch.full((2, 4), 0.5 / 256)
    variance = 1 / (12 * 256**2) + RIDGE
    expected = torch.full((2,), -2 * math.log(2 * math.pi * variance), dtype=torch.float64)
    torch.testing.assert_close(fitted("covariance", black).log_prob(x), expected)


def test_ppca_agrees_with_scikit_learn_at_the_maximum_likelihood_sigma(
    images: Tensor, generator: torch.Generator
) -> None:
    """Scikit-learn fits 100 points that have exactly the mean and covariance of the dequantised images."""
    train = moments(images, 256)
    noise = torch.randn(100, 8, generator=generator).double()
    white, _ = torch.linalg.qr(noise - noise.mean(0))
    points = train.mean + math.sqrt(99) * white @ torch.linalg.cholesky(train.covariance).T
    witness = PCA(3, svd_solver="full").fit(points.numpy())
    ours = gaussian("ppca", images, sigma=None, latent=3)
    assert float(ours.variances[0]) == pytest.approx(witness.noise_variance_)
    x = (images[:50].double() + 0.5) / 256
    np.testing.assert_allclose(ours.log_prob(x).numpy(), witness.score_samples(x.numpy()), rtol=1e-8)


def test_the_maximum_likelihood_sigma_is_the_best_one(images: Tensor) -> None:
    """The mean log-density of the dequantised training images is −½ (ln |2πC| + tr C⁻¹S), with S their covariance."""
    s = moments(images, 256).covariance

    def mean_log_density(sigma: float | None) -> float:
        c = covariance_of(gaussian("ppca", images, sigma=sigma))
        return -0.5 * float((2 * math.pi * c).logdet() + (torch.linalg.inv(c) @ s).trace())

    sigma = float(gaussian("ppca", images, sigma=None).variances[0].sqrt())
    assert mean_log_density(None) == pytest.approx(mean_log_density(sigma), abs=1e-9)
    assert mean_log_density(sigma) > max(mean_log_density(0.99 * sigma), mean_log_density(1.01 * sigma))


@pytest.mark.parametrize("latent", [7, 8, 20])
def test_ppca_with_as_many_dimensions_as_pixels_is_the_full_gaussian(images: Tensor, latent: int) -> None:
    model = gaussian("ppca", images, sigma=None, latent=latent)
    torch.testing.assert_close(covariance_of(model), moments(images, 256).covariance)
    fixed = gaussian("ppca", images, sigma=1e-9, latent=max(latent, 8))
    torch.testing.assert_close(covariance_of(fixed), moments(images, 256).covariance)


def test_ppca_ignores_directions_with_less_variance_than_the_noise(images: Tensor) -> None:
    train, sigma = moments(images, 256), 10.0
    x = images[:5].double() / 256
    expected = MultivariateNormal(train.mean, sigma**2 * torch.eye(8).double()).log_prob(x)
    torch.testing.assert_close(fitted("ppca", images, sigma=sigma, latent=3).log_prob(x), expected)


def test_the_density_rises_with_the_number_of_latent_dimensions(images: Tensor) -> None:
    x = images.double() / 256
    none, one, three = (
        float(fitted(name, images, latent=latent).log_prob(x).mean())
        for name, latent in (("independent", 3), ("ppca", 1), ("ppca", 3))
    )
    assert none < one < three


# Histograms, and no knowledge at all


def all_images(levels: int, pixels: int) -> Tensor:
    """Every image of this size, as values v."""
    return torch.tensor(list(product(range(levels), repeat=pixels)), dtype=torch.uint8)


@pytest.mark.parametrize("binarised", [False, True])
@pytest.mark.parametrize("name", ["histogram", "uniform"])
def test_the_probabilities_of_all_images_sum_to_one(name: str, binarised: bool, generator: torch.Generator) -> None:
    levels, pixels = (2, 5) if binarised else (4, 5)
    train = torch.randint(levels, (30, pixels), generator=generator).to(torch.uint8)
    density = baselines(train, levels, binarised=binarised, sigma=None, latent=2)[name]
    every = all_images(levels, pixels)
    x = (every + torch.rand(every.shape, generator=generator)) / levels
    # A density is constant in the cell of v, whose volume is levels^−pixels.
    cell = 0.0 if binarised else pixels * math.log(levels)
    assert float((density.log_prob(x) - cell).exp().sum()) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize(("levels", "binarised"), [(2, True), (2, False), (4, False), (17, False), (256, False)])
def test_the_histogram_agrees_with_counting_one_by_one(
    levels: int, binarised: bool, generator: torch.Generator
) -> None:
    train = torch.randint(levels, (40, 3), generator=generator).to(torch.uint8)
    values = torch.randint(levels, (6, 3), generator=generator).to(torch.uint8)
    x = (values + torch.rand(values.shape, generator=generator)) / levels
    density = baselines(train, levels, binarised=binarised, sigma=None, latent=1)["histogram"]
    expected = [
        sum(
            math.log((sum(int(t == v) for t in train[:, pixel]) + 0.5) / (len(train) + 0.5 * levels))
            + (0 if binarised else math.log(levels))
            for pixel, v in enumerate(image)
        )
        for image in values
    ]
    np.testing.assert_allclose(density.log_prob(x).numpy(), expected, rtol=1e-12)


def test_a_value_that_no_training_image_has_gets_half_a_count() -> None:
    train = torch.zeros(9, 1, dtype=torch.uint8)
    histogram = fitted("histogram", train, levels=2)
    assert isinstance(histogram, Histogram)
    np.testing.assert_allclose(histogram.log_p.exp().flatten().numpy(), [0.95, 0.05])
    # ⌊levels · x⌋: the ends of [0, 1] and of the cells
    log_px = histogram.log_prob(torch.tensor([[0.0], [0.4999], [0.5], [1.0]]))
    np.testing.assert_allclose(log_px.exp().numpy(), [1.9, 1.9, 0.1, 0.1])


def test_the_uniform_density_has_no_nats_of_grey_images_and_a_bit_per_binary_pixel(images: Tensor) -> None:
    x = images[:3] / 256
    assert fitted("uniform", images).log_prob(x).tolist() == [0.0] * 3
    binary = baselines(images // 128, 2, binarised=True, sigma=None, latent=1)["uniform"]
    np.testing.assert_allclose(binary.log_prob(x).numpy(), [-8 * math.log(2)] * 3)
