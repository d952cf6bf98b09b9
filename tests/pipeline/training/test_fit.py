"""Training: it learns, chooses by validation, is fixed by the seed, and resumes with the same bytes."""

import math
import signal
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from pipeline.config import Model
from pipeline.data.dataset import Dataset
from pipeline.data.split import split
from pipeline.model.vae import VAE
from pipeline.process import lifecycle
from pipeline.process.distributed import Group, State
from pipeline.process.recovery import UnfinishedWork
from pipeline.training.fit import fit
from pipeline.training.schedule import beta_factor, learning_rate_factor
from pipeline.training.step import Step
from pipeline.training.trainer import Epoch, NotFiniteError, Trainer
from tests.support import model_settings, training

# Six epochs of three steps.
SETTINGS: dict[str, Any] = {
    "epochs": 6, "batch_size": 16, "optimizer": "adamw", "learning_rate": 0.01, "warmup": 0.1,
    "final_learning_rate": 0.1, "weight_decay": 0.0, "clip_norm": 100.0, "validation": 0.2,
    "precision": "float32", "rollbacks": 0, "seed": 0,
}  # fmt: skip
MODEL = model_settings(latent=2, encoder=[16], decoder=[16], activation="silu", sigma=0.2)
BERNOULLI = MODEL.model_copy(update={"observation": "bernoulli"})
CONDITIONAL = MODEL.model_copy(update={"prior": "flow", "condition": "label", "couplings": 2})
CONV = MODEL.model_copy(update={"network": "conv", "width": 4})

# Steps soon become non-finite; with enough rollbacks the learning rate becomes small enough.
EXPLODING: dict[str, Any] = {
    "learning_rate": 10.0,
    "clip_norm": None,
    "warmup": 0.0,
    "optimizer": "adam",
    "final_learning_rate": 1.0,
}
HOPELESS: dict[str, Any] = EXPLODING | {"learning_rate": 1e20}


def run(
    dataset: Dataset, model: Model = MODEL, work: UnfinishedWork | None = None, **changes: object
) -> tuple[VAE, list[Epoch]]:
    torch.manual_seed(0)
    binarise = "dynamic" if model.observation == "bernoulli" else "none"
    vae = VAE(model, dataset.format(binarise), dataset.class_shares())
    settings, labels = training(**SETTINGS | changes), dataset.train_labels.long()
    return vae, list(fit(vae, dataset.train_images.flatten(1), settings, work, labels=labels))


def weights(vae: VAE) -> Tensor:
    return torch.cat([p.detach().flatten() for p in vae.parameters()])


def test_the_elbo_rises(tiny: Dataset) -> None:
    _, epochs = run(tiny, epochs=30)
    assert epochs[-1].validation_elbo > epochs[0].validation_elbo + 10


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_the_seed_fixes_the_weights(tiny: Dataset, precision: str, optimizer: str) -> None:
    first, again = (run(tiny, precision=precision, optimizer=optimizer) for _ in range(2))
    assert torch.equal(weights(first[0]), weights(again[0]))
    assert first[1] == again[1]
    other, _ = run(tiny, precision=precision, optimizer=optimizer, seed=1)
    assert not torch.equal(weights(first[0]), weights(other))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("objective", ["elbo", "iwae"])
@pytest.mark.parametrize("model", [CONV, BERNOULLI, CONDITIONAL], ids=["conv", "bernoulli", "conditional"])
def test_the_seed_fixes_the_bytes_of_other_models_too(
    tiny: Dataset, model: Model, objective: str, precision: str
) -> None:
    changes: dict[str, Any] = {"epochs": 2, "objective": objective, "samples": 2, "precision": precision}
    first, again = (run(tiny, model, **changes) for _ in range(2))
    assert weights(first[0]).numpy().tobytes() == weights(again[0]).numpy().tobytes()
    assert first[1] == again[1]
    other, _ = run(tiny, model, **changes, seed=1)
    assert not torch.equal(weights(first[0]), weights(other))


def test_several_samples_tighten_the_bound(tiny: Dataset) -> None:
    """With one sample the objective is an estimate of the ELBO, with eight it is higher by nats."""
    _, one = run(tiny, objective="iwae", epochs=20)
    _, eight = run(tiny, objective="iwae", epochs=20, samples=8)
    # A log-weight and the ELBO's terms differ by log q(z | x) − log p(z) − KL, whose mean over 12 images is not small.
    assert abs(one[-1].validation_objective - one[-1].validation_elbo) < 2
    for epoch in eight:
        assert epoch.train_objective > epoch.train_elbo
        assert epoch.validation_objective > epoch.validation_elbo
    assert eight[-1].validation_objective > eight[0].validation_objective + 10


def test_a_large_beta_leaves_the_posterior_at_the_prior(tiny: Dataset) -> None:
    last = {beta: run(tiny, objective="beta", beta=beta, epochs=30)[1][-1] for beta in (0.0, 1.0, 50.0)}
    kl = [last[beta].validation_kl for beta in (0.0, 1.0, 50.0)]
    assert kl[0] > kl[1] > 10 * kl[2]
    _, elbo = run(tiny, epochs=30)
    for of_beta, of_elbo in zip(asdict(last[1.0]).items(), asdict(elbo[-1]).items(), strict=True):
        assert of_beta == (of_elbo[0], pytest.approx(of_elbo[1], rel=1e-3))


def test_bfloat16_gives_similar_but_different_results(tiny: Dataset) -> None:
    (exact, epochs), (mixed, mixed_epochs) = run(tiny), run(tiny, precision="bfloat16")
    assert not torch.equal(weights(exact), weights(mixed))
    assert abs(epochs[0].train_elbo - mixed_epochs[0].train_elbo) < 0.05 * abs(epochs[0].train_elbo)


def test_the_model_has_the_weights_of_the_best_epoch(tiny: Dataset) -> None:
    # The learning rate stays large, so the last epoch is not the best one.
    changes = {"epochs": 40, "learning_rate": 0.3, "final_learning_rate": 1.0}
    vae, epochs = run(tiny, **changes)
    values = [epoch.validation_elbo for epoch in epochs]
    best = values.index(max(values))
    assert best < len(values) - 1
    assert [e.best for e in epochs] == [v > max(values[:i], default=-math.inf) for i, v in enumerate(values)]

    torch.manual_seed(0)
    at_best = VAE(MODEL, tiny.format())
    settings = training(**SETTINGS | changes)
    for epoch in fit(at_best, tiny.train_images.flatten(1), settings):
        if epoch.epoch == best + 1:
            break
    assert torch.equal(weights(vae), weights(at_best))


def test_held_out_images_do_not_change_the_weights(tiny: Dataset) -> None:
    _, held_out = split(len(tiny.train_images), 0.2, seed=0)
    changed = tiny.train_images.clone()
    changed[held_out] = 16 - changed[held_out]
    reference, _ = run(tiny, epochs=1)
    other, _ = run(Dataset("tiny", 17, changed, tiny.train_labels, tiny.test_images, tiny.test_labels), epochs=1)
    assert torch.equal(weights(reference), weights(other))


def test_every_epoch_is_validated_with_the_same_noise(tiny: Dataset) -> None:
    _, epochs = run(tiny, learning_rate=1e-30)
    assert len(epochs) == 6
    assert len({(epoch.validation_reconstruction, epoch.validation_kl) for epoch in epochs}) == 1
    assert len({epoch.train_reconstruction for epoch in epochs}) == 6  # training draws new noise
    assert [epoch.best for epoch in epochs] == [True] + 5 * [False]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """The learning rate and the weight of the KL that each step receives, as the steps are made."""
    received: list[tuple[float, float]] = []
    step = Step.__call__

    def recorded(self: Step, batch: Tensor, learning_rate: float, beta: float, row: int) -> None:
        received.append((learning_rate, beta))
        step(self, batch, learning_rate, beta, row)

    monkeypatch.setattr(Step, "__call__", recorded)
    return received


def test_each_step_receives_its_learning_rate(tiny: Dataset, steps: list[tuple[float, float]]) -> None:
    _, epochs = run(tiny)
    rates = [learning_rate for learning_rate, _ in steps]
    scheduled = [0.01 * learning_rate_factor(i, 18, 0.1, 0.1) for i in range(19)]
    assert rates[0] == pytest.approx(0.01 / 2.8)
    assert rates == scheduled[:18]
    assert [epoch.learning_rate for epoch in epochs] == scheduled[3::3]


def test_each_step_receives_its_weight_of_the_kl(tiny: Dataset, steps: list[tuple[float, float]]) -> None:
    _, epochs = run(tiny, objective="beta", beta=3.0, beta_warmup=0.5)
    betas = [beta for _, beta in steps]
    assert betas == [3.0 * beta_factor(i, 18, 0.5) for i in range(18)]
    assert betas[:3] == pytest.approx([0.0, 1 / 3, 2 / 3])
    assert betas[9:] == [3.0] * 9
    first = epochs[0]
    # The objective of training images has the weights of its steps, that of validation images the final one.
    assert first.train_reconstruction - first.train_kl < first.train_objective < first.train_reconstruction
    weighed = first.validation_reconstruction - 3 * first.validation_kl
    assert first.validation_objective == pytest.approx(weighed, rel=1e-5)


def test_the_best_epoch_has_the_best_validation_objective(tiny: Dataset) -> None:
    """Not the best ELBO: with a small weight of the KL these are different epochs."""
    changes: dict[str, Any] = {"objective": "beta", "beta": 0.01, "epochs": 30, "learning_rate": 0.05}
    vae, epochs = run(tiny, **changes)
    objectives, elbos = ([getattr(e, f"validation_{name}") for e in epochs] for name in ("objective", "elbo"))
    best = objectives.index(max(objectives))
    assert best != elbos.index(max(elbos))
    assert [e.epoch for e in epochs if e.best][-1] == best + 1
    torch.manual_seed(0)
    at_best = VAE(MODEL, tiny.format())
    for epoch in fit(at_best, tiny.train_images.flatten(1), training(**SETTINGS | changes)):
        if epoch.epoch == best + 1:
            break
    assert torch.equal(weights(vae), weights(at_best))


def test_binarised_images_are_drawn_anew_in_each_epoch_but_those_for_validation_once(tiny: Dataset) -> None:
    _, epochs = run(tiny, BERNOULLI, learning_rate=1e-30, batch_size=48)
    assert len({(epoch.validation_reconstruction, epoch.validation_kl) for epoch in epochs}) == 1
    assert len({epoch.train_kl for epoch in epochs}) == 6  # the KL has no latent noise, so the images differ


def test_a_non_finite_elbo_stops_the_training_with_advice(tiny: Dataset) -> None:
    with pytest.raises(NotFiniteError, match=r"epoch 1, step 2 of 3: the .* is (nan|inf|-inf); .*learning_rate"):
        run(tiny, learning_rate=1e20, clip_norm=None, warmup=0.0)


def test_if_sigma_is_too_small_for_float32_the_message_names_the_term(tiny: Dataset) -> None:
    with pytest.raises(NotFiniteError, match=r"epoch 1, step 1 of 3: the reconstruction term .* is .*model\.sigma"):
        run(tiny, MODEL.model_copy(update={"sigma": 1e-30}))


def test_rollbacks_end_non_finite_steps(tiny: Dataset) -> None:
    with pytest.raises(NotFiniteError):
        run(tiny, **EXPLODING)
    for rollbacks, message in ((1, "after 1 rollback:"), (2, "after 2 rollbacks:")):
        with pytest.raises(NotFiniteError, match=message):
            run(tiny, rollbacks=rollbacks, **HOPELESS)
    vae, epochs = run(tiny, rollbacks=9, **EXPLODING)
    assert weights(vae).isfinite().all()
    rates = [epoch.learning_rate for epoch in epochs]
    assert rates[-1] in [EXPLODING["learning_rate"] / 2**n for n in range(1, 10)]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("changes", [{}, {"rollbacks": 20} | EXPLODING | {"learning_rate": 3.0}])
def test_results_do_not_depend_on_how_often_steps_are_checked(
    tiny: Dataset, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    vae, epochs = run(tiny, batch_size=4, **changes)
    for steps in (1, 2, 5):
        monkeypatch.setattr("pipeline.training.step.CHECK_EVERY", steps)
        monkeypatch.setattr("pipeline.training.trainer.CHECK_EVERY", steps)
        other, again = run(tiny, batch_size=4, **changes)
        assert torch.equal(weights(vae), weights(other))
        assert again == epochs


class Killed(UnfinishedWork):
    """Saves the state at each step, and ends the process after `saves` of them."""

    saves = 0

    def save(self, tensors: dict[str, Tensor], numbers: Mapping[str, Any]) -> None:
        if self.saves > 0:
            super().save(tensors, numbers)
            self.saves -= 1
            if self.saves == 0:
                raise SystemExit


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "adam", "precision": "bfloat16"},
        {"rollbacks": 20} | EXPLODING,
        {"objective": "iwae", "samples": 3},
        {"objective": "beta", "beta": 4.0, "beta_warmup": 0.7},
    ],
)
@pytest.mark.parametrize("model", [MODEL, CONV, CONDITIONAL], ids=["mlp", "conv", "conditional"])
def test_killed_many_times_it_gives_the_same_bytes(
    tiny: Dataset, tmp_path: Path, model: Model, changes: dict[str, Any]
) -> None:
    """Killed after 1, 2, 3, ... more steps, also in the middle of an epoch."""
    if model is CONDITIONAL and changes.get("rollbacks"):
        changes = changes | {"learning_rate": 3.0}  # with more the flow is broken, and no rollback mends it
    undisturbed, epochs = run(tiny, model, **changes)
    for saves in range(1, 40):
        work = Killed(tmp_path, 0.0)
        work.saves = saves
        try:
            vae, resumed = run(tiny, model, work, **changes)
        except SystemExit:
            continue
        assert saves > 4
        assert resumed == epochs
        assert torch.equal(weights(vae), weights(undisturbed))
        assert len(list(tmp_path.iterdir())) == 2
        return
    raise AssertionError("never ended")


@pytest.mark.parametrize("objective", ["elbo", "iwae"])
def test_labels_help_if_they_are_those_of_the_images(tiny: Dataset, objective: str) -> None:
    """The class is the place of the bar. Labels that say nothing about the image give a lower ELBO."""
    settings = training(**SETTINGS | {"epochs": 40, "objective": objective, "samples": 2})
    found, any_order = [], torch.randperm(60, generator=torch.Generator().manual_seed(1))
    for labels in (tiny.train_labels.long(), tiny.train_labels.long()[any_order]):
        torch.manual_seed(0)
        vae = VAE(CONDITIONAL, tiny.format(), tiny.class_shares())
        *_, last = fit(vae, tiny.train_images.flatten(1), settings, labels=labels)
        found.append(last.validation_elbo)
    right, wrong = found
    assert right > wrong + 5


def test_a_conditional_training_needs_labels(tiny: Dataset) -> None:
    vae = VAE(CONDITIONAL, tiny.format(), tiny.class_shares())
    with pytest.raises(ValueError, match="it needs the label of each image"):
        next(fit(vae, tiny.train_images.flatten(1), training(**SETTINGS)))


def test_a_failed_training_fails_again_at_once(tiny: Dataset, tmp_path: Path) -> None:
    messages: set[str] = set()
    for _ in range(2):
        with pytest.raises(NotFiniteError) as caught:
            run(tiny, work=UnfinishedWork(tmp_path, 1e9), **HOPELESS)
        messages.add(str(caught.value))
        found = UnfinishedWork(tmp_path, 1e9).load()
        assert found
        assert all(value.isfinite().all() for name, value in found[0].items() if name.startswith("weights/"))
    assert len(messages) == 1


@pytest.fixture
def signal_in_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let SIGTERM arrive during a step with this number, from 1."""
    monkeypatch.setattr(lifecycle, "_interrupted", 0)  # also restores it
    step, taken = Trainer.step, []

    def arrange(number: int) -> None:
        def interrupted_step(trainer: Trainer) -> None:
            taken.append(1)
            if len(taken) == number:
                lifecycle._handle(signal.SIGTERM, None)
            step(trainer)

        monkeypatch.setattr(Trainer, "step", interrupted_step)

    return arrange


def test_a_signal_takes_effect_after_the_step(
    tiny: Dataset, tmp_path: Path, signal_in_step: Callable[[int], None]
) -> None:
    signal_in_step(4)
    work = UnfinishedWork(tmp_path, 1e9)
    with pytest.raises(KeyboardInterrupt) as caught:
        run(tiny, work=work)
    assert caught.value.args == (signal.SIGTERM,)
    saved = work.load()
    assert saved
    assert (saved[1]["epoch"], saved[1]["done"]) == (2, 1)


def test_a_signal_takes_effect_at_once_while_the_caller_has_a_record(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "_interrupted", 0)
    work = UnfinishedWork(tmp_path, 1e9)
    vae = VAE(MODEL, tiny.format())
    settings = training(**SETTINGS)
    epochs = fit(vae, tiny.train_images.flatten(1), settings, work)
    next(epochs)
    with pytest.raises(KeyboardInterrupt):
        lifecycle._handle(signal.SIGTERM, None)
    epochs.close()
    saved = work.load()
    assert saved
    assert (saved[1]["epoch"], saved[1]["done"]) == (2, 0)


class Pair(Group):
    """One of two processes; the other receives SIGTERM in its fourth step."""

    asked: ClassVar[list[int]] = []

    def all_reduce_sum_(self, values: Tensor) -> None: ...

    def broadcast(self, state: State | None) -> State | None:
        return state

    def all_reduce_max(self, number: int) -> int:
        self.asked.append(number)
        return signal.SIGTERM if len(self.asked) == 5 else number  # asked after each of 3 steps, and after the epoch


def test_a_signal_to_one_process_stops_the_other_after_the_same_step(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "_interrupted", 0)
    work = UnfinishedWork(tmp_path, 1e9)
    vae = VAE(MODEL, tiny.format())
    images = tiny.train_images.flatten(1)
    with pytest.raises(KeyboardInterrupt) as caught:
        list(fit(vae, images, training(**SETTINGS), work, Pair(0, 2)))
    assert caught.value.args == (signal.SIGTERM,)
    saved = work.load()
    assert saved
    assert (saved[1]["epoch"], saved[1]["done"]) == (2, 1)
    assert Pair.asked == [0] * 5
