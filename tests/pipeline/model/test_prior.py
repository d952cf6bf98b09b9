"""The prior: a flow's density against automatic differentiation and integrals; the identity gives N(0, I)."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal
from torch.func import jacrev, vmap

from pipeline.model.flow import HIDDEN, MOST
from pipeline.model.prior import Prior
from tests.support import model_settings, moved

# Even and odd numbers of coordinates and of couplings; with and without classes.
SHAPES = [(2, 1, 0), (3, 2, 0), (5, 3, 2), (2, 6, 3)]


def make_prior(latent: int, couplings: int, classes: int, by: float = 0.2) -> Prior:
    """In float64, and far from the identity unless `by` is 0."""
    torch.manual_seed(0)
    return moved(Prior(model_settings(latent=latent, prior="flow", couplings=couplings), classes).double(), by)


def labels(count: int, classes: int) -> Tensor | None:
    return torch.arange(count) % classes if classes else None


def points(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def grid(half: float, count: int) -> tuple[Tensor, float]:
    """Points of the square [−half, half]², and the area of a cell."""
    line = torch.linspace(-half, half, count, dtype=torch.float64)
    return torch.cartesian_prod(line, line), (2 * half / (count - 1)) ** 2


@pytest.mark.parametrize(("latent", "couplings", "classes"), SHAPES)
def test_the_density_is_that_of_the_change_of_variables(latent: int, couplings: int, classes: int) -> None:
    """log N(g⁻¹(z)) + log |det ∂g⁻¹/∂z|, with the determinant of a Jacobian by automatic differentiation."""
    prior, z, y = make_prior(latent, couplings, classes), points(6, latent), labels(6, classes)
    found = prior(y).log_prob(z)
    normal = MultivariateNormal(torch.zeros(latent).double(), torch.eye(latent).double())
    determinants = []
    for i in range(6):
        one = None if y is None else y[i]
        jacobian = jacrev(lambda z, one=one: prior.to_noise(z, one))(z[i])
        determinants.append(torch.linalg.slogdet(jacobian).logabsdet)
        expected = normal.log_prob(prior.to_noise(z[i], one)) + determinants[-1]
        torch.testing.assert_close(found[i], expected, rtol=0, atol=1e-10)
    assert torch.stack(determinants).std() > 0.01


@pytest.mark.parametrize(("latent", "couplings", "classes"), SHAPES)
def test_noise_and_z_are_each_others_image(latent: int, couplings: int, classes: int) -> None:
    """With several samples of each image, whose labels have no such dimension."""
    prior, z, y = make_prior(latent, couplings, classes), points(4, 6, latent), labels(6, classes)
    noise = prior.to_noise(z, y)
    torch.testing.assert_close(prior.from_noise(noise, y), z, rtol=0, atol=1e-9)
    torch.testing.assert_close(prior.to_noise(prior.from_noise(z, y), y), z, rtol=0, atol=1e-9)
    assert (noise - z).abs().max() > 0.1
    found = prior(y).log_prob(z)
    assert found.shape == (4, 6)
    torch.testing.assert_close(found[2], prior(y).log_prob(z[2]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("classes", [0, 2])
def test_the_density_integrates_to_one_and_is_that_of_transformed_noise(classes: int) -> None:
    """E f(z) on a grid of z with the density, and on a grid of ε with the normal density: no random numbers."""
    prior = make_prior(2, 3, classes, by=0.1)
    normal = MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())
    for label in range(max(classes, 1)):
        y = torch.tensor(label) if classes else None
        (z, area), (noise, cell) = grid(14.0, 281), grid(8.0, 161)
        density = prior(y).log_prob(z).exp() * area
        assert float(density.detach().sum()) == pytest.approx(1, abs=1e-6)
        weight = normal.log_prob(noise).exp() * cell
        made = prior.from_noise(noise, y)
        for function in (lambda z: z, torch.sin, lambda z: (z[:, :1] * z[:, 1:]).cos()):
            expected = (weight[:, None] * function(made)).sum(0)
            torch.testing.assert_close((density[:, None] * function(z)).sum(0), expected, rtol=0, atol=1e-5)


def test_samples_of_the_distribution_are_transformed_noise() -> None:
    prior, y = make_prior(3, 4, 2), torch.tensor([0, 1, 1])
    torch.manual_seed(0)
    found = prior(y).sample((5, 3))
    torch.manual_seed(0)
    expected = prior.from_noise(torch.normal(torch.zeros(5, 3, 3).double(), torch.ones(5, 3, 3).double()), y)
    assert torch.equal(found, expected)


def test_every_class_has_its_own_flow_and_without_classes_labels_are_ignored() -> None:
    z, zeros, ones = points(6, 3), torch.zeros(6).long(), torch.ones(6).long()
    for classes in (0, 2):
        prior = make_prior(3, 2, classes)
        for function in (prior.to_noise, prior.from_noise, lambda z, y, prior=prior: prior(y).log_prob(z)):
            same = torch.isclose(function(z, zeros), function(z, ones), rtol=0, atol=1e-3)
            assert same.all() if classes == 0 else not same.all(0).any()
            # Each image has its own label.
            mixed = function(z, torch.arange(6) % 2)
            torch.testing.assert_close(mixed[::2], function(z, zeros)[::2], rtol=0, atol=1e-12)
            torch.testing.assert_close(mixed[1::2], function(z, ones)[1::2], rtol=0, atol=1e-12)


def test_a_flow_of_classes_needs_labels() -> None:
    prior = make_prior(2, 2, 3)
    for function in (prior.to_noise, prior.from_noise, lambda z: prior().log_prob(z)):
        with pytest.raises(ValueError, match="this model is conditional: it needs the label of each image, one of 3"):
            function(points(4, 2))


@pytest.mark.parametrize(("latent", "couplings", "classes"), SHAPES)
def test_a_new_flow_is_the_identity(latent: int, couplings: int, classes: int) -> None:
    prior, z, y = make_prior(latent, couplings, classes, by=0.0), points(6, latent), labels(6, classes)
    normal = Prior(model_settings(latent=latent), classes).double()
    assert normal.flow is None
    for function in (prior.to_noise, prior.from_noise, normal.to_noise, normal.from_noise):
        assert torch.equal(function(z, y), z)
    torch.testing.assert_close(prior(y).log_prob(z), normal(y).log_prob(z), rtol=0, atol=1e-12)


@pytest.mark.parametrize("classes", [0, 2])
def test_gradient_and_hessian_by_functional_transforms(classes: int) -> None:
    """The estimator needs them, of many images at once; against central differences."""
    prior, z, y = make_prior(3, 4, classes), points(5, 3), labels(5, classes)

    def log_prob(z: Tensor, y: Tensor | None) -> Tensor:
        return prior(y).log_prob(z)

    in_dims = (0, None if y is None else 0)
    gradient = vmap(jacrev(log_prob), in_dims)(z, y)
    hessian = vmap(jacrev(jacrev(log_prob)), in_dims)(z, y)
    for axis, shift in enumerate(1e-5 * torch.eye(3, dtype=torch.float64)):
        ahead, behind = z + shift, z - shift
        slope = (log_prob(ahead, y) - log_prob(behind, y)) / 2e-5
        torch.testing.assert_close(gradient[:, axis], slope, rtol=1e-7, atol=1e-6)
        slopes = (vmap(jacrev(log_prob), in_dims)(at, y) for at in (ahead, behind))
        ahead_slope, behind_slope = slopes
        torch.testing.assert_close(hessian[:, axis], (ahead_slope - behind_slope) / 2e-5, rtol=1e-7, atol=1e-6)
    assert (hessian + torch.eye(3).double()).abs().max() > 0.1  # it is not that of N(0, I)


def test_a_coupling_never_scales_by_more_than_its_limit() -> None:
    prior = make_prior(4, 3, 0, by=100.0)
    assert prior.flow is not None
    _, log_determinant = prior.flow.to_noise(points(20, 4), None)
    largest = MOST * 3 * 2
    assert log_determinant.abs().max() <= largest + 1e-12
    assert log_determinant.abs().max() > 0.3 * largest


def test_the_number_of_weights_is_that_of_the_couplings_counted_by_hand() -> None:
    """Of five coordinates a coupling is given two and moves three, or the other way round; and three classes."""
    first, second = HIDDEN
    expected = 0
    for given, moved_ in ((2, 3), (3, 2), (2, 3)):
        expected += (given + 3 + 1) * first + (first + 1) * second + (second + 1) * 2 * moved_
    assert sum(parameter.numel() for parameter in make_prior(5, 3, 3).parameters()) == expected


def test_the_normal_prior_has_no_weights_and_moves_with_its_model() -> None:
    prior = Prior(model_settings(latent=3), 0).double()
    assert prior.state_dict() == {}
    assert prior.zero.dtype == torch.float64
    found = prior().log_prob(torch.zeros(2, 3, dtype=torch.float64))
    torch.testing.assert_close(found, torch.full((2,), -1.5 * math.log(2 * math.pi)).double())
