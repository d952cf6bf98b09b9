"""One step of training: it runs on the device only, and a non-finite step changes nothing."""

from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.config import Model, Train
from pipeline.data.dataset import Dataset
from pipeline.data.dequantise import dequantise
from pipeline.model.objectives import PosteriorSamples, draw
from pipeline.model.vae import VAE
from pipeline.process.distributed import SINGLE
from pipeline.training.cuda_graph import GraphedFunction
from pipeline.training.step import Step
from tests.simulated import DEVICE, Simulated
from tests.support import model_settings, training

MODEL = model_settings(latent=2, encoder=[16], decoder=[16], activation="silu", sigma=0.2)
SETTINGS = training(
    epochs=3, batch_size=20, optimizer="adamw", learning_rate=0.01, warmup=0.1, final_learning_rate=0.1,
    weight_decay=0.1, clip_norm=100.0, validation=0.2, precision="float32", rollbacks=0, seed=0,
)  # fmt: skip


def make_step(
    dataset: Dataset, settings: Train = SETTINGS, device: torch.device | None = None, model: Model = MODEL
) -> Step:
    """A step on a data set, with its labels."""
    torch.manual_seed(0)
    images = dataset.train_images.flatten(1).to(device)
    binarise = "dynamic" if model.observation == "bernoulli" else "none"
    vae = VAE(model, dataset.format(binarise), dataset.class_shares()).to(device)
    return Step(vae, images, dataset.train_labels.long().to(device), settings, SINGLE, torch.Generator().manual_seed(0))


def weights_and_moments(step: Step) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in step.state().items() if name != "metrics"}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("check_every", [1, 64])
def test_a_new_step_has_changed_nothing(tiny: Dataset, monkeypatch: pytest.MonkeyPatch, check_every: int) -> None:
    """Although it has created the optimiser's moments by a skipped step."""
    monkeypatch.setattr("pipeline.training.step.CHECK_EVERY", check_every)
    step = make_step(tiny)
    torch.manual_seed(0)
    fresh = VAE(MODEL, tiny.format())
    assert equal(fresh.state_dict(), step.vae.state_dict())
    assert torch.equal(step.generator.get_state(), torch.Generator().manual_seed(0).get_state())
    moments = [value for name, value in step.state().items() if name.startswith("optimizer/")]
    assert moments
    assert not any(moment.any() for moment in moments)
    assert not step.metrics.any()


def test_a_non_finite_step_and_all_after_it_are_skipped_until_clear(tiny: Dataset) -> None:
    step, batch = make_step(tiny), torch.arange(10)
    step(batch, 0.01, 1.0, 0)
    assert step.metrics[0].isfinite().all()
    assert (step.metrics[0] != 0).all()
    weight = next(step.vae.parameters())
    finite = weight[0, 0].item()
    with torch.no_grad():
        weight[0, 0] = torch.inf
    before = weights_and_moments(step)
    step(batch, 0.01, 1.0, 1)
    assert equal(before, weights_and_moments(step))
    with torch.no_grad():
        weight[0, 0] = finite
    before = weights_and_moments(step)
    step(batch, 0.01, 1.0, 2)
    assert step.metrics[2].isfinite().all()
    assert equal(before, weights_and_moments(step))
    step.clear()
    step(batch, 0.01, 1.0, 3)
    after = weights_and_moments(step)
    assert not any(torch.equal(value, after[name]) for name, value in before.items())


def test_every_image_weighs_the_same_whatever_the_batch_size(tiny: Dataset) -> None:
    """The last batch of an epoch may have fewer images than `train.batch_size`."""
    steps = [make_step(tiny, SETTINGS.model_copy(update={"batch_size": size})) for size in (10, 20)]
    for step in steps:
        step(torch.arange(10), 0.01, 1.0, 0)
    assert equal(steps[0].state(), steps[1].state())


def expected_objective(name: str, samples: PosteriorSamples) -> Tensor:
    """The objective's formula, with a weight of the KL of 0.3."""
    if name == "iwae":
        return samples.log_weights.double().exp().mean(0).log().float()
    return samples.elbo.reconstruction - (0.3 if name == "beta" else 1) * samples.elbo.kl


def expected_gradient(name: str, vae: VAE, samples: PosteriorSamples) -> list[Tensor]:
    """Of the negative mean objective; of iwae in the encoder doubly reparameterised (Tucker et al. 2019, section 4)."""
    parameters, encoder = list(vae.parameters()), list(vae.encoder.parameters())
    gradients = torch.autograd.grad(-expected_objective(name, samples).mean(), parameters, retain_graph=True)
    if name != "iwae":
        return list(gradients)
    share = samples.log_weights.softmax(0).detach()
    along_z = (share.square() * samples.log_weights).sum(0)
    reparameterised = iter(torch.autograd.grad(-along_z.mean(), encoder))
    of_encoder = {id(parameter) for parameter in encoder}
    return [
        next(reparameterised) if id(parameter) in of_encoder else gradient
        for parameter, gradient in zip(parameters, gradients, strict=True)
    ]


@pytest.mark.parametrize(("objective", "count"), [("elbo", 1), ("elbo", 3), ("beta", 2), ("iwae", 1), ("iwae", 3)])
def test_the_gradient_is_that_of_the_mean_objective_and_the_metrics_are_sums(
    tiny: Dataset, objective: str, count: int
) -> None:
    settings = SETTINGS.model_copy(update={"objective": objective, "samples": count})
    step, images = make_step(tiny, settings), tiny.train_images.flatten(1)[:10]
    generator = torch.Generator().manual_seed(0)
    x = dequantise(images, tiny.levels, generator)
    samples = draw(step.vae, x, torch.randn(settings.samples, 10, 2, generator=generator))
    value = expected_objective(objective, samples)
    gradients = expected_gradient(objective, step.vae, samples)
    step(torch.arange(10), 0.01, 0.3, 5)
    for parameter, gradient in zip(step.vae.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    expected = torch.zeros_like(step.metrics)
    terms = samples.elbo.reconstruction, samples.elbo.kl, value
    expected[5] = torch.stack([*(term.sum() for term in terms), norm]).detach()
    torch.testing.assert_close(step.metrics, expected)


@pytest.mark.parametrize("network", ["mlp", "conv"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_a_step_is_that_of_the_optimiser_with_weight_decay(tiny: Dataset, optimizer: str, network: str) -> None:
    """Whatever the weights' memory format is: fused optimisers read memory in its own order."""
    settings = SETTINGS.model_copy(update={"optimizer": optimizer, "weight_decay": 3.0, "clip_norm": None})
    step = make_step(tiny, settings, model=MODEL.model_copy(update={"network": network, "width": 4}))
    weights = [parameter.detach().clone().requires_grad_() for parameter in step.vae.parameters()]
    step(torch.arange(10), 0.01, 1.0, 0)
    for weight, parameter in zip(weights, step.vae.parameters(), strict=True):
        weight.grad = parameter.grad
    reference = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimizer]
    reference(weights, lr=0.01, weight_decay=3.0).step()
    for weight, parameter in zip(weights, step.vae.parameters(), strict=True):
        torch.testing.assert_close(parameter, weight)


def test_a_gradient_longer_than_the_clip_norm_is_scaled_down_to_it(tiny: Dataset) -> None:
    """After one step the first moments are (1 − β₁) times the gradient."""
    free = make_step(tiny)
    free(torch.arange(10), 0.01, 1.0, 0)
    norm = free.metrics[0, 3].item()
    for clip in (norm / 7, norm * 7, None):
        step = make_step(tiny, SETTINGS.model_copy(update={"clip_norm": clip}))
        step(torch.arange(10), 0.01, 1.0, 0)
        moments = [value for name, value in step.state().items() if name.endswith("/exp_avg")]
        length = torch.cat([moment.flatten() for moment in moments]).norm().item() / 0.1
        assert length == pytest.approx(min(clip or norm, norm), rel=1e-5)


def test_a_restored_step_continues_with_the_same_bytes(tiny: Dataset) -> None:
    one, other, batch = make_step(tiny), make_step(tiny), torch.arange(10)
    one(batch, 0.01, 1.0, 0)
    addresses = {name: value.data_ptr() for name, value in other.state().items()}
    other.restore({name: value.clone() for name, value in one.state().items()})
    other.generator.set_state(one.generator.get_state())
    for step in (one, other):
        step(batch, 0.01, 1.0, 1)
    assert equal(one.state(), other.state())
    assert {name: value.data_ptr() for name, value in other.state().items()} == addresses


def test_replayed_steps_give_the_bytes_of_called_ones(tiny: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    """So `state` has all tensors that a step changes, and a step reads its arguments from fixed tensors."""
    called, replayed = make_step(tiny), make_step(tiny)
    replayed.graphed = GraphedFunction(
        list(replayed.state().values()), replayed.generator, lambda function, generator: function
    )
    for number, size in enumerate([10, 10, 7, 10, 7]):
        for step in (called, replayed):
            step(torch.arange(size) + number, 0.01 * number, 0.3 * number, number)
    assert equal(called.state(), replayed.state())
    assert torch.equal(called.generator.get_state(), replayed.generator.get_state())
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_a_step_moves_nothing_between_host_and_device(tiny: Dataset, precision: str, optimizer: str) -> None:
    """A CUDA graph could not capture it if it did. And the results are those of the CPU."""
    settings = SETTINGS.model_copy(update={"precision": precision, "optimizer": optimizer})
    cpu = make_step(tiny, SETTINGS.model_copy(update={"optimizer": optimizer}))
    cpu(torch.arange(10), 0.01, 1.0, 0)
    with Simulated() as simulated:
        step = make_step(tiny, settings, DEVICE)
        batch = torch.arange(10).to(DEVICE)
        simulated.crossings.clear()
        step(batch, 0.01, 1.0, 0)
        assert simulated.crossings == []
        for name, value in step.state().items():
            torch.testing.assert_close(value.cpu(), cpu.state()[name])


@pytest.mark.parametrize(
    ("changes", "objective"),
    [
        ({"network": "conv", "width": 2}, "elbo"),
        ({"sigma": "learned"}, "iwae"),
        ({"observation": "gaussian_per_pixel"}, "beta"),
        ({"observation": "logistic"}, "elbo"),
        ({"observation": "logistic_mixture", "components": 2}, "elbo"),
        ({"observation": "beta_binomial"}, "elbo"),
        ({"observation": "categorical"}, "elbo"),
        ({"observation": "bernoulli"}, "iwae"),
        ({"prior": "flow", "couplings": 3}, "beta"),
        ({"condition": "label"}, "elbo"),
        ({"condition": "label", "network": "conv", "width": 2, "prior": "flow"}, "iwae"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value.values())),
)
def test_neither_does_a_step_of_any_model_and_objective(tiny: Dataset, changes: dict[str, Any], objective: str) -> None:
    settings = SETTINGS.model_copy(update={"objective": objective, "samples": 2, "clip_norm": None})
    model = model_settings(latent=2, encoder=[16], decoder=[16], activation="silu", **{"sigma": 0.2} | changes)
    cpu = make_step(tiny, settings, model=model)
    cpu(torch.arange(10), 0.01, 0.5, 0)
    with Simulated() as simulated:
        step = make_step(tiny, settings, DEVICE, model)
        batch = torch.arange(10).to(DEVICE)
        simulated.crossings.clear()
        step(batch, 0.01, 0.5, 0)
        assert simulated.crossings == []
        for name, value in step.state().items():
            torch.testing.assert_close(value.cpu(), cpu.state()[name], rtol=1e-4, atol=1e-4)
