"""Training: it learns, it chooses by validation, and the seed fixes all of it."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from pipeline.config import Model, Train
from pipeline.datasets import Dataset
from pipeline.errors import UserError
from pipeline.ranks import Ranks, State
from pipeline.scratch import Scratch
from pipeline.training import Epoch, NotFiniteError, fit, learning_rate_factor, split
from pipeline.vae import VAE

SETTINGS = {
    "epochs": 6, "batch_size": 16, "optimizer": "adamw", "learning_rate": 0.01, "warmup": 0.1,
    "final_learning_rate": 0.1, "weight_decay": 0.0, "clip_norm": 100.0, "validation": 0.2,
    "precision": "float32", "rollbacks": 0, "seed": 0,
}  # fmt: skip
MODEL = Model(latent=2, encoder=(16,), decoder=(16,), activation="silu", sigma=0.2)


def run(
    dataset: Dataset, model: Model = MODEL, scratch: Scratch | None = None, **changes: object
) -> tuple[VAE, list[Epoch]]:
    torch.manual_seed(0)
    vae = VAE(model, dataset.pixels)
    settings = Train.model_validate(SETTINGS | changes)
    return vae, list(fit(vae, dataset.train_images.flatten(1), dataset.levels, settings, scratch))


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
    with pytest.raises(NotFiniteError, match=r"epoch 1, step 2 of 3: the .* is (nan|inf|-inf); .*learning_rate"):
        run(tiny, learning_rate=1e20, clip_norm=1e30, warmup=0.0)


def test_a_sigma_too_small_for_float32_names_the_term(tiny: Dataset) -> None:
    with pytest.raises(NotFiniteError, match=r"epoch 1, step 1 of 3: the reconstruction term .* is .*model\.sigma"):
        run(tiny, Model.model_validate({**MODEL.model_dump(), "sigma": 1e-30}))


class Killed(Scratch):
    """Saves at every step, and dies after so many savings."""

    savings = 0

    def save(self, state: dict[str, Tensor], numbers: Mapping[str, Any]) -> None:
        if self.savings > 0:
            super().save(state, numbers)
            self.savings -= 1
            if self.savings == 0:
                raise SystemExit


EXPLODING: dict[str, Any] = {
    "learning_rate": 10.0,
    "clip_norm": 1e30,
    "warmup": 0.0,
    "optimizer": "adam",
    "final_learning_rate": 1.0,
}


HOPELESS: dict[str, Any] = EXPLODING | {"learning_rate": 1e20}


@pytest.mark.parametrize("changes", [{}, {"optimizer": "adam", "precision": "bfloat16"}, {"rollbacks": 9} | EXPLODING])
def test_killed_again_and_again_it_ends_with_the_same_bytes(
    tiny: Dataset, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """6 epochs of 3 steps; killed after 1, 2, 3, ... more steps, in the middle of epochs too."""
    undisturbed, epochs = run(tiny, **changes)
    for savings in range(1, 40):
        scratch = Killed(tmp_path, 0.0)
        scratch.savings = savings
        try:
            vae, resumed = run(tiny, scratch=scratch, **changes)
        except SystemExit:
            continue
        assert savings > 4
        assert resumed == epochs
        assert torch.equal(weights(vae), weights(undisturbed))
        assert len(list(tmp_path.iterdir())) == 2
        return
    raise AssertionError("never ended")


def test_rolling_back_makes_an_end_of_infinities(tiny: Dataset) -> None:
    with pytest.raises(NotFiniteError):
        run(tiny, **EXPLODING)
    with pytest.raises(NotFiniteError, match="after 1 rollbacks"):
        run(tiny, rollbacks=1, **HOPELESS)
    vae, epochs = run(tiny, rollbacks=9, **EXPLODING)
    assert weights(vae).isfinite().all()
    rates = [epoch.learning_rate for epoch in epochs]
    assert rates[-1] in [EXPLODING["learning_rate"] / 2**n for n in range(1, 10)]
    assert rates == sorted(rates, reverse=True)


def test_a_failure_is_found_again_and_at_once(tiny: Dataset, tmp_path: Path) -> None:
    messages: set[str] = set()
    for _ in range(2):
        with pytest.raises(NotFiniteError) as caught:
            run(tiny, scratch=Scratch(tmp_path, 1e9), **HOPELESS)
        messages.add(str(caught.value))
        found = Scratch(tmp_path, 1e9).load()
        assert found
        assert all(value.isfinite().all() for name, value in found[0].items() if name.startswith("weights/"))
    assert len(messages) == 1


@pytest.mark.parametrize("changes", [{}, {"rollbacks": 20} | EXPLODING | {"learning_rate": 3.0}])
def test_how_often_the_host_looks_changes_nothing(
    tiny: Dataset, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    vae, epochs = run(tiny, batch_size=4, **changes)
    for look in (2, 5):
        monkeypatch.setattr("pipeline.step.LOOK", look)
        monkeypatch.setattr("pipeline.training.LOOK", look)
        other, again = run(tiny, batch_size=4, **changes)
        assert torch.equal(weights(vae), weights(other))
        assert again == epochs


class Pair(Ranks):
    """One of two processes, to the other of which a signal comes in its fourth step."""

    asked: ClassVar[list[int]] = []

    def sum_(self, values: Tensor) -> None: ...

    def broadcast(self, state: State | None) -> State | None:
        return state

    def largest(self, number: int) -> int:
        self.asked.append(number)
        return 15 if len(self.asked) == 4 else number


def test_an_interruption_of_one_process_stops_both_when_the_work_is_kept(tiny: Dataset, tmp_path: Path) -> None:
    scratch = Scratch(tmp_path, 1e9)
    vae = VAE(MODEL, tiny.pixels)
    images = tiny.train_images.flatten(1)
    with pytest.raises(KeyboardInterrupt) as caught:
        list(fit(vae, images, tiny.levels, Train.model_validate(SETTINGS), scratch, Pair(0, 2)))
    assert caught.value.args == (15,)
    found = scratch.load()
    assert found
    assert (found[1]["epoch"], found[1]["done"]) == (2, 1)
    assert len(Pair.asked) == 5  # at each step, and once more: the other one waits until the state is written


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
