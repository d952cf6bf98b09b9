"""log p(x) of models with a flow or with labels, against integrals in float64, and against models without.

The models have two latent dimensions, so that p(x) = ∫ N(ε) p(x | g(ε; y), y) dε is a sum over a grid.
"""

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.config import Compare, Evaluate, Params
from pipeline.data.dataset import Dataset
from pipeline.evaluation import other_images
from pipeline.evaluation.elbo import active_units, elbos
from pipeline.evaluation.settings import estimator, given_noise, joint, moments, prepare
from pipeline.evaluation.test_images import Columns, _prior, measure, measure_training
from pipeline.model.vae import VAE
from pipeline.process.distributed import SINGLE
from pipeline.process.recovery import UnfinishedWork
from tests.support import model_settings, moved

SHARES = (0.1, 0.2, 0.4, 0.25, 0.05)
IMAGES = 16
EVALUATE = {
    "images": IMAGES, "samples": 256, "budget": 4096, "comparison": 4, "elbo_samples": 64, "prior_samples": 64,
    "chunk": 4096,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "flow": {"prior": "flow"},
    "label": {"condition": "label"},
    "flow and label": {"prior": "flow", "condition": "label"},
}


def make_vae(dataset: Dataset, by: float = 0.1, **changes: Any) -> VAE:
    torch.manual_seed(0)
    settings = {"latent": 2, "encoder": [16], "decoder": [16], "activation": "silu", "sigma": 0.3, "couplings": 4}
    return moved(VAE(model_settings(**settings | changes), dataset.format(), SHARES), by).eval()


def some(vae: VAE, dataset: Dataset) -> tuple[Tensor, Tensor]:
    return vae.images.read_fixed(dataset.test_images[:IMAGES], 1), dataset.test_labels[:IMAGES].long()


def measured(vae: VAE, x: Tensor, y: Tensor, params: Params, folder: Path) -> Columns:
    evaluate = params.evaluate.model_copy(update=EVALUATE)
    return measure(vae, x, y, evaluate, estimator(evaluate, vae), UnfinishedWork(folder, 1e9), SINGLE)


@torch.no_grad()
def by_quadrature(vae: VAE, x: Tensor, label: int, half: float = 6.5, step: float = 0.1) -> Tensor:
    """log p(x | y) of each image by a sum over a grid of ε; it uses neither the prior's density nor `logpx`."""
    vae, x = copy.deepcopy(vae).double(), x.double()
    line = torch.arange(-half, half + step / 2, step, dtype=torch.float64)
    epsilon = torch.cartesian_prod(line, line)
    y = torch.full((len(epsilon),), label)
    p = vae.decoder(vae.prior.from_noise(epsilon, y), y)
    log_normal = -0.5 * epsilon.square().sum(1) - math.log(2 * math.pi)
    log_likelihood = torch.stack([p.log_prob(image) for image in x])
    return (log_likelihood + log_normal).logsumexp(1) + 2 * math.log(step)


@pytest.mark.parametrize(
    ("name", "observation"),
    [(name, "gaussian") for name in sorted(MODELS)] + [("flow", "logistic"), ("flow and label", "logistic")],
)
def test_the_estimates_are_the_integrals(
    name: str, observation: str, params: Params, tiny: Dataset, tmp_path: Path
) -> None:
    """Each image within 4.5 standard errors and 2e-3 nats, of sums of float32 densities.

    An image fails for one seed in 150 000; here are five models of 16 images, and the seeds are fixed.
    """
    vae = make_vae(tiny, observation=observation, **MODELS[name])
    x, y = some(vae, tiny)
    columns = measured(vae, x, y, params, tmp_path)
    labels = range(vae.classes or 1)
    exact = torch.stack([by_quadrature(vae, x, label) for label in labels])
    finer = by_quadrature(vae, x[:2], 0, step=0.06)
    torch.testing.assert_close(finer, exact[0, :2], rtol=0, atol=1e-5)  # the grid is fine enough
    if vae.classes:
        assert vae.shares == SHARES
        own = exact[y, torch.arange(IMAGES)]
        assert (exact - own).abs().max() > 0.5  # labels matter
        check(columns["log_px_given_label"], columns["log_px_se_given_label"], own)
        assert columns["trusted_given_label"].all()
        terms = torch.tensor(SHARES).double().log()[:, None] + exact
        exact = terms.logsumexp(0)
        of_predicted = terms[columns["predicted"], torch.arange(IMAGES)]
        assert ((terms.amax(0) - of_predicted) < 0.1).all()  # two labels may be equally likely up to the errors
        assert len(columns["predicted"].unique()) > 1
    else:
        (exact,) = exact
    check(columns["log_px"], columns["log_px_se"], exact)
    assert columns["trusted"].all()
    # The ELBO is a lower bound on log p(x | y), up to the error of 64 samples.
    bound = columns["log_px_given_label"] if vae.classes else exact
    assert float((bound - columns["elbo"]).mean()) > 0


def check(found: Tensor, error: Tensor, exact: Tensor) -> None:
    assert ((found - exact).abs() < 4.5 * error + 2e-3).all()
    assert error.max() < 0.1


@pytest.mark.parametrize("name", sorted(MODELS))
def test_prior_monte_carlo_gives_the_integrals_too(name: str, tiny: Dataset) -> None:
    """A second way, in the noise of the prior, with a wide observation model. 4.5 standard errors of 4096 samples."""
    vae = make_vae(tiny, sigma=0.8, **MODELS[name])
    x, y = some(vae, tiny)
    found = _prior(vae, x, y, 4096, seed=3, chunk=4096)
    exact = torch.stack([by_quadrature(vae, x, label) for label in range(vae.classes or 1)])
    exact = exact[y, torch.arange(IMAGES)] if vae.classes else exact[0]
    assert ((found["log_px"] - exact).abs() < 4.5 / found["ess"].sqrt()).all()
    assert found["ess"].min() > 100
    # One label's images are measured as they would be alone.
    alone = _prior(vae, x[y == 2], y[y == 2], 4096, seed=3, chunk=4096)
    torch.testing.assert_close(alone["log_px"], found["log_px"][y == 2], rtol=0, atol=1e-4)


def test_the_sum_over_labels_of_other_images_is_the_integral(params: Params, tiny: Dataset) -> None:
    vae = make_vae(tiny, prior="flow", condition="label")
    compare: Compare = params.compare.model_copy(update={"samples": 256, "images": IMAGES})
    settings = estimator(params.evaluate, vae)
    images, labels = tiny.test_images[:IMAGES], tiny.test_labels[:IMAGES]
    table = other_images.measure(vae, "digits", images, labels, compare, settings)
    x = vae.images.read_fixed(images, compare.seed)
    exact = torch.stack([by_quadrature(vae, x, label) for label in range(5)])
    expected = (torch.tensor(SHARES).double().log()[:, None] + exact).logsumexp(0)
    assert table["log_px"].to_numpy() == pytest.approx(expected.numpy(), abs=0.2)
    assert np.asarray(table["trusted"]).all()
    assert table["label"].tolist() == labels.tolist()
    wrong = other_images.measure(vae, "digits", images, 4 - labels, compare, settings)
    assert wrong["log_px"].tolist() == table["log_px"].tolist()  # labels are noted, not used


# A flow that is the identity, and a label without weight


def with_weights_of(plain: VAE, vae: VAE) -> VAE:
    """The model with the networks of `plain`, and without any influence of the label."""
    pairs = ((vae.encoder.network, plain.encoder.network), (vae.decoder.network, plain.decoder.network))
    for ours, theirs in pairs:
        assert isinstance(ours, nn.Sequential)
        assert isinstance(theirs, nn.Sequential)
        for layer, other in zip(ours, theirs, strict=True):
            if isinstance(layer, nn.Linear) and isinstance(other, nn.Linear):
                with torch.no_grad():
                    layer.weight.zero_()
                    layer.weight[:, : other.in_features] = other.weight
                    layer.bias.copy_(other.bias)
    return vae


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_flow_without_effect_and_a_label_without_weight_change_nothing(
    name: str, params: Params, tiny: Dataset, tmp_path: Path
) -> None:
    """All numbers about p(x | y) are those of the plain model up to rounding, as is log p(x) up to its error.

    But the KL to a flow is a mean over samples. And the curvature of a plain MLP has its own code
    (`logpx/mlp_curvature.py`) with other costs: the encoder as proposal, which gets as many evaluations, has other
    samples then.
    """
    plain = make_vae(tiny)
    vae = with_weights_of(plain, make_vae(tiny, by=0.0, **MODELS[name]))
    x, y = some(plain, tiny)
    expected, found = (measured(model, x, y, params, tmp_path / str(i)) for i, model in enumerate((plain, vae)))
    given = {column.removesuffix("_given_label"): values for column, values in found.items() if "_given" in column}
    if vae.classes:
        assert len(given) == 3
        # Every label has the same p(x | y), and the shares sum to one.
        error = found["log_px_se"].hypot(expected["log_px_se"])
        assert ((found["log_px"] - expected["log_px"]).abs() < 4.5 * error + 1e-3).all()
    sampled = set() if vae.prior.flow is None else {"kl", "elbo"}
    for column, values in expected.items():
        if column in ("converged", "evaluations", "log_weights") or column.startswith("encoder"):
            continue
        tolerance = {"ess": 1.0, "khat": 0.05}.get(column, 1e-3)
        ours = (found | given)[column]
        if column in sampled:
            assert float((ours - values).mean()) == pytest.approx(0, abs=0.2)
        else:
            torch.testing.assert_close(ours, values, rtol=0, atol=tolerance, equal_nan=True, msg=column)


# Parts


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_moments_are_those_of_the_prior_of_the_images_label(name: str, tiny: Dataset) -> None:
    """Mean and standard deviation of 1024 samples, within 4.5 standard errors of those of many more."""
    vae = make_vae(tiny, **MODELS[name])
    y = torch.tensor([3, 0, 3, 4])
    mean, scale = moments(vae, y, seed=5)
    assert not mean.requires_grad
    if vae.prior.flow is None:
        assert torch.equal(mean, torch.zeros(1, 2))
        assert torch.equal(scale, torch.ones(1, 2))
        return
    noise = torch.randn(100_000, 1, 2, generator=torch.Generator().manual_seed(0)).expand(-1, 4, -1)
    z = vae.prior.from_noise(noise, y).detach()
    error = 4.5 * z.std(0) / math.sqrt(1024)
    assert ((mean - z.mean(0)).abs() < error).all()
    assert ((scale / z.std(0) - 1).abs() < 0.25).all()
    assert ((scale - 1).abs() > 0.05).any()
    if vae.classes:
        assert torch.equal(mean[0], mean[2])
        assert not torch.isclose(mean[0], mean[1]).any()


def test_an_elbo_has_the_label_of_its_image(tiny: Dataset) -> None:
    vae = make_vae(tiny, prior="flow", condition="label")
    x, y = some(vae, tiny)
    together = elbos(vae, x, y, samples=200, seed=1, chunk=512)
    assert together.value.dtype == torch.float64
    for i in (0, 3, 7):
        alone = elbos(vae, x[i : i + 1], y[i : i + 1], samples=200, seed=1, chunk=512, first=i)
        torch.testing.assert_close(alone.reconstruction, together.reconstruction[i : i + 1], rtol=0, atol=1e-3)
        torch.testing.assert_close(alone.kl, together.kl[i : i + 1], rtol=0, atol=1e-3)
    other = elbos(vae, x, (y + 1) % 5, samples=200, seed=1, chunk=512)
    assert ((other.reconstruction - together.reconstruction).abs() > 1e-3).all()
    assert 0 <= active_units(vae, x, y) <= 2


def test_decoding_noise_is_decoding_the_priors_samples(tiny: Dataset, generator: torch.Generator) -> None:
    for changes in ({}, *MODELS.values()):
        vae = make_vae(tiny, **changes)
        noise, label = torch.randn(6, 2, generator=generator), torch.tensor(3)
        y = label.expand(6)
        z = vae.prior.from_noise(noise, y)
        expected = vae.decoder(z, y).parameters
        torch.testing.assert_close(given_noise(vae, label).parameters(noise), expected)
        x = torch.rand(6, 30, generator=generator)
        whole = (x, y) if vae.classes else x
        torch.testing.assert_close(joint(vae).log_likelihood(whole, z), vae.decoder(z, y).log_prob(x))
        torch.testing.assert_close(joint(vae).log_prior(z, whole), vae.prior(y).log_prob(z))


def test_images_of_the_training_are_measured_with_their_labels_too(
    params: Params, tiny: Dataset, tmp_path: Path
) -> None:
    """Finished parts have different names for each part and label: nothing is taken for something else."""
    vae = make_vae(tiny, prior="flow", condition="label")
    evaluate: Evaluate = params.evaluate.model_copy(update=EVALUATE | {"budget": 256})
    settings, work = estimator(evaluate, vae), UnfinishedWork(tmp_path, 1e9)
    x, y = some(vae, tiny)
    parts = {"train": (x[:6], y[:6]), "validation": (x[6:12], y[6:12])}
    found = measure_training(vae, parts, settings, work, SINGLE)
    alone = [
        measure_training(vae, {"other": part}, settings, UnfinishedWork(tmp_path / name, 1e9), SINGLE)["other"]
        for name, part in parts.items()
    ]
    for columns, expected in zip(found.values(), alone, strict=True):
        assert columns.keys() == expected.keys()
        for name, values in columns.items():
            assert torch.equal(values, expected[name])
    columns = measure(vae, x[:6], y[:6], evaluate, settings, work, SINGLE)  # in the same work
    assert torch.equal(columns["log_px"], found["train"]["log_px"])
    assert not torch.equal(found["train"]["log_px"], found["validation"]["log_px"])


def test_a_conditional_model_needs_labels(tiny: Dataset, params: Params) -> None:
    vae = make_vae(tiny, condition="label")
    x, _ = some(vae, tiny)
    with pytest.raises(ValueError, match="it needs the label of each image"):
        prepare(vae, x, None, replace(estimator(params.evaluate, vae), samples=32))
