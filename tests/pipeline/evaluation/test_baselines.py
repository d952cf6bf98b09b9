"""The baselines against PyTorch and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch.distributions import MultivariateNormal

from pipeline.evaluation.baselines import BASELINES, Moments, moments


@pytest.fixture
def images(generator: torch.Generator) -> torch.Tensor:
    """Bytes of eight pixels with three strong directions."""
    z = torch.randn(5000, 3, generator=generator) @ torch.randn(3, 8, generator=generator) * 25
    return (z + 4 * torch.randn(5000, 8, generator=generator) + 128).clamp(0, 255).to(torch.uint8)


def test_moments_are_those_of_dequantised_images(images: torch.Tensor, generator: torch.Generator) -> None:
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


def test_ppca_agrees_with_scikit_learn(images: torch.Tensor) -> None:
    """With scikit-learn's maximum-likelihood noise variance for three dimensions, the densities agree."""
    x = images.double().numpy() / 255
    witness = PCA(3, svd_solver="full").fit(x)
    train = Moments(torch.from_numpy(x.mean(0)), torch.from_numpy(np.cov(x.T)))
    ours = BASELINES["ppca"](train, float(np.sqrt(witness.noise_variance_)), 3)
    np.testing.assert_allclose(ours.log_prob(torch.from_numpy(x)).numpy(), witness.score_samples(x), rtol=1e-8)


@pytest.mark.parametrize("name", list(BASELINES))
def test_densities_agree_with_pytorch(images: torch.Tensor, name: str) -> None:
    train, sigma = moments(images, 256), 0.05
    model = BASELINES[name](train, sigma, 2)
    covariance = model.vectors @ torch.diag(model.variances) @ model.vectors.T
    x = images[:50].double() / 256
    expected = MultivariateNormal(train.mean, covariance).log_prob(x)
    torch.testing.assert_close(model.log_prob(x), expected, rtol=0, atol=1e-8)
    if name == "independent":
        torch.testing.assert_close(covariance, sigma**2 * torch.eye(8).double())
    elif name == "variances":
        torch.testing.assert_close(covariance, train.covariance.diagonal().diag())
    else:
        w = model.vectors[:, -2:] * (model.variances[-2:] - sigma**2).sqrt()
        torch.testing.assert_close(covariance, w @ w.T + sigma**2 * torch.eye(8).double())


def test_ppca_ignores_directions_with_less_variance_than_the_noise(images: torch.Tensor) -> None:
    train, sigma = moments(images, 256), 10.0
    x = images[:5].double() / 256
    expected = MultivariateNormal(train.mean, sigma**2 * torch.eye(8).double()).log_prob(x)
    torch.testing.assert_close(BASELINES["ppca"](train, sigma, 3).log_prob(x), expected)


def test_the_density_rises_with_the_number_of_latent_dimensions(images: torch.Tensor) -> None:
    train, x = moments(images, 256), images.double() / 256
    none, one, three = (
        float(BASELINES[name](train, 0.05, latent).log_prob(x).mean())
        for name, latent in (("independent", 3), ("ppca", 1), ("ppca", 3))
    )
    assert none < one < three
