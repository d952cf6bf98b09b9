"""What a trainer does between steps: batches, records, validation, and its state after an error."""

import copy
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from threading import Barrier
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from pipeline.data.dataset import Dataset
from pipeline.data.split import split
from pipeline.model.objectives import draw
from pipeline.model.vae import VAE
from pipeline.process.distributed import Group
from pipeline.training.trainer import Epoch, NotFiniteError, Trainer
from tests.support import model_settings, moved, training

MODEL = model_settings(latent=2, encoder=[16], decoder=[16], activation="silu", sigma=0.2)
# Of the sixty images of `tiny`, 48 are trained on in batches of 20, 20 and 8, and 12 are held out.
SETTINGS = training(
    epochs=3, batch_size=20, optimizer="adam", learning_rate=0.01, warmup=0.1, final_learning_rate=0.1,
    weight_decay=0.0, clip_norm=100.0, validation=0.2, precision="float32", rollbacks=0, seed=3,
)  # fmt: skip


@pytest.fixture
def trainer(tiny: Dataset) -> Trainer:
    torch.manual_seed(0)
    return Trainer(VAE(MODEL, tiny.format()), tiny.train_images.flatten(1), SETTINGS)


def run_epoch(trainer: Trainer) -> tuple[Epoch, list[Tensor], Tensor]:
    """An epoch's record, batches, and the metrics of its steps."""
    batches: list[Tensor] = []
    step = trainer.gradient_step

    def recorded(batch: Tensor, learning_rate: float, beta: float, row: int) -> None:
        batches.append(batch)
        step(batch, learning_rate, beta, row)

    trainer.gradient_step = recorded  # pyright: ignore[reportAttributeAccessIssue]
    while not trainer.epoch_complete:
        trainer.step()
    trainer.gradient_step = step
    metrics = step.metrics[: len(batches)].double()
    trainer.check()
    return trainer.end_epoch(), batches, metrics


def test_an_epoch_has_every_training_image_once_in_a_new_order(trainer: Trainer) -> None:
    orders = []
    for _ in range(2):
        _, batches, _ = run_epoch(trainer)
        assert [len(batch) for batch in batches] == [20, 20, 8]
        orders.append(torch.cat(batches).tolist())
    train, _ = split(60, 0.2, seed=3)
    assert sorted(orders[0]) == sorted(orders[1]) == train.tolist()
    assert len({tuple(train.tolist()), *map(tuple, orders)}) == 3


def test_a_record_has_means_over_images_and_over_steps(trainer: Trainer) -> None:
    for epoch in (1, 2):
        record, _, metrics = run_epoch(trainer)
        reconstruction, kl, objective, norm = metrics.sum(0).tolist()
        assert record.epoch == epoch
        assert record.train_reconstruction == pytest.approx(reconstruction / 48)
        assert record.train_kl == pytest.approx(kl / 48)
        assert record.train_elbo == pytest.approx((reconstruction - kl) / 48)
        assert record.train_objective == pytest.approx(objective / 48)
        assert record.gradient_norm == pytest.approx(norm / 3)


def test_validation_is_the_mean_over_the_held_out_images_whatever_the_batch_size(tiny: Dataset) -> None:
    torch.manual_seed(0)
    vae = VAE(MODEL, tiny.format())
    generator = torch.Generator().manual_seed(3)
    held_out = tiny.train_images.flatten(1)[split(60, 0.2, seed=3)[1]]
    x = vae.images.read(held_out, generator)
    with torch.no_grad():
        expected = draw(vae, x, torch.randn(1, 12, 2, generator=generator)).elbo
    for batch_size in (5, 20):
        settings = SETTINGS.model_copy(update={"batch_size": batch_size})
        record = Trainer(vae, tiny.train_images.flatten(1), settings).end_epoch()
        assert record.validation_reconstruction == pytest.approx(float(expected.reconstruction.mean()))
        assert record.validation_kl == pytest.approx(float(expected.kl.mean()))
        assert record.validation_elbo == pytest.approx(float(expected.value.mean()))


@pytest.mark.parametrize(("objective", "samples"), [("iwae", 1), ("iwae", 4), ("beta", 2), ("elbo", 3)])
def test_the_validation_objective_has_the_samples_and_the_final_weight_of_the_kl(
    tiny: Dataset, objective: str, samples: int
) -> None:
    settings = SETTINGS.model_copy(
        update={"objective": objective, "samples": samples, "beta": 5.0, "beta_warmup": 1.0, "batch_size": 5}
    )
    torch.manual_seed(0)
    vae = VAE(MODEL, tiny.format())
    generator = torch.Generator().manual_seed(3)
    x = vae.images.read(tiny.train_images.flatten(1)[split(60, 0.2, seed=3)[1]], generator)
    with torch.no_grad():
        drawn = draw(vae, x, torch.randn(samples, 12, 2, generator=generator))
    values = {
        "elbo": drawn.elbo.value, "beta": drawn.elbo.reconstruction - 5 * drawn.elbo.kl,
        "iwae": drawn.log_weights.double().exp().mean(0).log(),
    }  # fmt: skip
    record = Trainer(vae, tiny.train_images.flatten(1), settings).end_epoch()
    assert record.validation_objective == pytest.approx(float(values[objective].mean()), rel=1e-5)
    assert record.validation_elbo == pytest.approx(float(drawn.elbo.value.mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("model", "advised"), [({"sigma": 0.2}, True), ({"sigma": "learned"}, False), ({"observation": "logistic"}, False)]
)
def test_a_larger_sigma_is_advised_only_if_it_is_fixed(tiny: Dataset, model: dict[str, Any], advised: bool) -> None:
    trainer = Trainer(VAE(MODEL.model_copy(update=model), tiny.format()), tiny.train_images.flatten(1), SETTINGS)
    trainer.step()
    trainer.gradient_step.metrics[0, 0] = torch.nan
    trainer.done = trainer.steps
    with pytest.raises(NotFiniteError) as caught:
        trainer.check()
    assert ("model.sigma" in str(caught.value)) == advised


def test_a_step_that_raises_an_error_leaves_the_state_as_before(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer.step()
    before, numbers = trainer.state()
    before = {name: value.clone() for name, value in before.items()}

    def fail(*_: object) -> None:
        torch.rand(1, generator=trainer.generator)
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer.gradient_step, "_update", fail)
    with pytest.raises(KeyboardInterrupt):
        trainer.step()
    after, after_numbers = trainer.state()
    assert after_numbers == numbers
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize(("steps", "row", "column", "message"), [
    (2, 1, 0, "epoch 1, step 2 of 3: the reconstruction term of the ELBO is nan; try a larger model.sigma, a smaller"),
    (3, 0, 1, "epoch 1, step 3 of 3: the KL is nan; try a smaller"),
    (3, 0, 2, "epoch 1, step 3 of 3: the objective is nan; try a smaller"),
    (3, 0, 3, "epoch 1, step 3 of 3: the norm of the gradient is nan; try a smaller"),
])  # fmt: skip
def test_a_metric_that_is_not_finite_is_reported_with_its_step(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch, steps: int, row: int, column: int, message: str
) -> None:
    monkeypatch.setattr("pipeline.training.trainer.CHECK_EVERY", 2)
    for _ in range(steps):
        trainer.check()
        trainer.step()
    trainer.gradient_step.metrics[row, column] = torch.nan
    with pytest.raises(NotFiniteError, match="^" + re.escape(message)):
        trainer.check()


def test_a_validation_that_is_not_finite_is_reported(trainer: Trainer) -> None:
    trainer.held_out[0, 0] = torch.inf
    with pytest.raises(NotFiniteError, match="epoch 1, validation: the reconstruction term of the ELBO is "):
        trainer.end_epoch()


class Threads(Group):
    """Two threads of this process that train together."""

    barrier: ClassVar[Barrier] = Barrier(2)
    messages: ClassVar[dict[int, Tensor]] = {}

    def all_reduce_sum_(self, values: Tensor) -> None:
        self.messages[self.rank] = values.clone()
        self.barrier.wait(60)
        with torch.inference_mode():  # the sums of a validation are inference tensors
            values.copy_(self.messages[0] + self.messages[1])
        self.barrier.wait(60)


@pytest.mark.parametrize(
    ("settings", "model"),
    [
        ({}, {}),
        ({"objective": "iwae", "samples": 3}, {}),
        ({"objective": "beta", "beta": 4.0, "beta_warmup": 0.5}, {"network": "conv", "width": 4}),
        ({"objective": "iwae", "samples": 3}, {"observation": "bernoulli"}),
        ({}, {"sigma": "learned"}),
        ({"samples": 2}, {"prior": "flow", "condition": "label"}),
        ({"batch_size": 47, "objective": "iwae"}, {}),
        ({"batch_size": 47}, {"prior": "flow", "condition": "label", "network": "conv", "width": 4}),
        ({"validation": 1 / 60}, {"prior": "flow", "condition": "label"}),
    ],
    ids=[
        "elbo",
        "iwae",
        "beta with convolutions",
        "iwae of binarised images",
        "learned sigma",
        "flow and label",
        "iwae, last batch of one image",
        "last batch of one image",
        "one image held out",
    ],
)
def test_two_processes_take_the_steps_of_one(tiny: Dataset, settings: dict[str, Any], model: dict[str, Any]) -> None:
    torch.manual_seed(0)
    train_settings = SETTINGS.model_copy(update=settings)
    binarise = "dynamic" if model.get("observation") == "bernoulli" else "none"
    # In any order, so that a process with the labels of another's images is noticed.
    labels = tiny.train_labels.long()[torch.randperm(60, generator=torch.Generator().manual_seed(1))]
    vae = moved(VAE(MODEL.model_copy(update=model), tiny.format(binarise), tiny.class_shares()), 0.1)

    def train(group: Group) -> tuple[Epoch, VAE]:
        own = copy.deepcopy(vae)
        trainer = Trainer(own, tiny.train_images.flatten(1), train_settings, group, labels)
        for _ in range(trainer.steps):
            trainer.step()
        trainer.check()
        return trainer.end_epoch(), own

    single, trained = train(Group(0, 1))
    with ThreadPoolExecutor(2) as pool:
        for record, together in pool.map(train, [Threads(0, 2), Threads(1, 2)]):
            assert asdict(record) == pytest.approx(asdict(single), rel=1e-4)
            torch.testing.assert_close(together.state_dict(), trained.state_dict(), rtol=1e-3, atol=1e-5)
