"""Training: it learns, it chooses by validation, and the seed fixes all of it."""

import math

import pytest
import torch
from torch import Tensor

from pipeline.config import Model, Train
from pipeline.datasets import Dataset
from pipeline.errors import UserError
from pipeline.training import Epoch, fit, learning_rate_factor, split
from pipeline.vae import VAE

SETTINGS = {
    "epochs": 6, "batch_size": 16, "optimizer": "adamw", "learning_rate": 0.01, "warmup": 0.1,
    "final_learning_rate": 0.1, "weight_decay": 0.0, "clip_norm": 100.0, "validation": 0.2,
    "precision": "float32", "seed": 0,
}  # fmt: skip
MODEL = Model(latent=2, encoder=(16,), decoder=(16,), activation="silu", sigma=0.2)


def run(dataset: Dataset, model: Model = MODEL, **changes: object) -> tuple[VAE, list[Epoch]]:
    torch.manual_seed(0)
    vae = VAE(model, dataset.pixels)
    settings = Train.model_validate(SETTINGS | changes)
    return vae, list(fit(vae, dataset.train_images.flatten(1), dataset.levels, settings))


def weights(vae: VAE) -> Tensor:
    return torch.cat([p.detach().flatten() for p in vae.parameters()])


def test_the_elbo_rises(tiny: Dataset) -> None:
    _, epochs = run(tiny, epochs=30)
    assert epochs[-1].validation_elbo > epochs[0].validation_elbo + 10
    assert all(math.isclose(e.train_elbo, e.train_reconstruction - e.train_kl, rel_tol=1e-4) for e in epochs)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_same_seed_same_weights(tiny: Dataset, precision: str, optimizer: str) -> None:
    first, again = (run(tiny, precision=precision, optimizer=optimizer) for _ in range(2))
    assert torch.equal(weights(first[0]), weights(again[0]))
    assert first[1] == again[1]
    other, _ = run(tiny, precision=precision, optimizer=optimizer, seed=1)
    assert not torch.equal(weights(first[0]), weights(other))


def test_bfloat16_is_close_but_another_arithmetic(tiny: Dataset) -> None:
    (exact, epochs), (mixed, mixed_epochs) = run(tiny), run(tiny, precision="bfloat16")
    assert not torch.equal(weights(exact), weights(mixed))
    assert abs(epochs[0].train_elbo - mixed_epochs[0].train_elbo) < 0.05 * abs(epochs[0].train_elbo)


def test_the_best_validation_epoch_is_kept(tiny: Dataset) -> None:
    # A learning rate that grows worse at its end: the last epoch is not the best one.
    vae, epochs = run(tiny, epochs=40, learning_rate=0.3, final_learning_rate=1.0)
    values = [epoch.validation_elbo for epoch in epochs]
    best = values.index(max(values))
    assert best < len(values) - 1
    assert [e.best for e in epochs] == [v > max(values[:i], default=-math.inf) for i, v in enumerate(values)]

    torch.manual_seed(0)
    at_best = VAE(MODEL, tiny.pixels)
    settings = Train.model_validate(SETTINGS | {"epochs": 40, "learning_rate": 0.3, "final_learning_rate": 1.0})
    stream = fit(at_best, tiny.train_images.flatten(1), tiny.levels, settings)
    for epoch in stream:
        if epoch.epoch == best + 1:
            break
    assert torch.equal(weights(vae), weights(at_best))


def test_held_out_images_are_not_trained_on(tiny: Dataset) -> None:
    train, held_out = split(len(tiny.train_images), 0.2, seed=0)
    assert sorted([*train.tolist(), *held_out.tolist()]) == list(range(60))
    assert len(held_out) == 12
    changed = tiny.train_images.clone()
    changed[held_out] = 16 - changed[held_out]
    reference, _ = run(tiny, epochs=1)
    other, _ = run(Dataset("tiny", 17, changed, tiny.train_labels, tiny.test_images, tiny.test_labels), epochs=1)
    assert torch.equal(weights(reference), weights(other))


@pytest.mark.parametrize("validation", [0.001, 0.999])
def test_an_empty_part_of_the_split_is_refused(validation: float) -> None:
    with pytest.raises(UserError, match=r"train\.validation"):
        split(60, validation, seed=0)


def test_an_elbo_that_is_not_finite_stops_with_advice(tiny: Dataset) -> None:
    with pytest.raises(UserError, match=r"epoch 1: .*no longer finite.*learning_rate"):
        run(tiny, learning_rate=1e20, clip_norm=1e30, warmup=0.0)


def test_gradients_are_clipped(tiny: Dataset) -> None:
    loose, epochs = run(tiny, epochs=1, optimizer="adam")
    assert epochs[0].gradient_norm > 1
    tight, _ = run(tiny, epochs=1, optimizer="adam", clip_norm=1e-12)
    torch.manual_seed(0)
    start = weights(VAE(MODEL, tiny.pixels))
    assert (weights(tight) - start).norm() < 0.1 * (weights(loose) - start).norm()


def test_learning_rate_rises_falls_and_ends_where_it_is_told_to() -> None:
    factors = [learning_rate_factor(step, 1000, warmup=0.1, final=0.05) for step in range(1001)]
    assert factors[0] < 0.02
    assert max(factors) == factors[100] == 1
    assert factors[:101] == sorted(factors[:101])
    assert factors[100:] == sorted(factors[100:], reverse=True)
    assert math.isclose(factors[1000], 0.05)
    assert learning_rate_factor(0, 10, warmup=0.0, final=1.0) == 1
