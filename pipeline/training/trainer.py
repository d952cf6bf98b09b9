"""The state of a training, and the operations that change it. The driver in `fit.py` calls them."""

import copy
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from logpx.observations.gaussian import Gaussian
from pipeline.config import Train
from pipeline.data.split import split
from pipeline.errors import UserError
from pipeline.model.labels import Labels
from pipeline.model.objectives import OBJECTIVES, draw
from pipeline.model.vae import VAE
from pipeline.process.distributed import SINGLE, Group, State
from pipeline.storage.tensors import with_prefix
from pipeline.training.schedule import beta_factor, learning_rate_factor
from pipeline.training.step import CHECK_EVERY, Step

ROLLBACK = 0.5  # each rollback multiplies the learning rate by this


@dataclass(frozen=True)
class Epoch:
    """Results of an epoch: means over the training images and over the validation images, in nats per image.

    `gradient_norm` is the mean over steps, `learning_rate` the one after the last step. `best`: this epoch has the
    highest validation objective so far. The objective of training images has the step's weight of the KL, that of
    validation images has the final one.
    """

    epoch: int
    train_objective: float
    train_elbo: float
    train_reconstruction: float
    train_kl: float
    validation_objective: float
    validation_elbo: float
    validation_reconstruction: float
    validation_kl: float
    learning_rate: float
    gradient_norm: float
    best: bool


class NotFiniteError(UserError):
    """A term of the ELBO, or the gradient, is NaN or infinite. The message names step, term and remedy."""

    exit_code = 3  # only this error has it, so that a study knows that the training diverged


class Trainer:
    """A training between two steps: everything that later steps depend on, besides images and settings.

    An epoch is: `check` and `step` in turn until `epoch_complete`, then `check` and `end_epoch`.

    Args:
        vae: the model, on the device to train on. It is changed in place.
        images: the training images, on the same device; `settings.validation` of them are held out.
        labels: of the images; only a conditional model needs them.
        group: the processes that train together. Each draws the noise of a whole batch and uses its shard of it, so
            that the result is that of one process up to rounding.
    """

    def __init__(
        self,
        vae: VAE,
        images: UInt8[Tensor, "images pixels"],
        settings: Train,
        group: Group = SINGLE,
        labels: Labels = None,
    ) -> None:
        self.vae, self.settings, self.group, self.device = vae, settings, group, images.device
        self.generator = torch.Generator(self.device).manual_seed(settings.seed)
        parts = split(len(images), settings.validation, settings.seed)
        self.train_index, held_out = (index.to(self.device) for index in parts)
        # Validation reads its images once and has one latent noise, so that its values are comparable between epochs.
        self.held_out = vae.images.read(images[held_out], self.generator)
        self.held_out_labels = None if labels is None else labels[held_out]
        noise = settings.samples, len(held_out), vae.latent
        self.held_out_noise = torch.randn(noise, generator=self.generator, device=self.device)
        self.gradient_step = Step(vae, images, labels, settings, group, self.generator)
        self.steps = math.ceil(len(self.train_index) / settings.batch_size)
        self.epoch, self.done = 1, 0  # the current epoch, and its number of finished steps
        self.totals = [0.0] * 4  # sums of the metrics over this epoch's checked steps
        self.rollbacks = 0
        self.history: list[Epoch] = []
        self.best_objective, self.best = -math.inf, copy.deepcopy(vae.state_dict())
        self.order = self.train_index
        self.epoch_start: State | None = None
        self._begin_epoch()

    @property
    def epoch_complete(self) -> bool:
        """Whether all steps of the current epoch are finished."""
        return self.done == self.steps

    def step(self) -> None:
        """Make the next step. If it raises an error, the state is as before."""
        size, before = self.settings.batch_size, self.generator.get_state()
        batch = self.order[self.done * size : (self.done + 1) * size]
        try:
            self.gradient_step(batch, self._learning_rate(), self._beta(), self.done % CHECK_EVERY)
        except BaseException:
            self.generator.set_state(before)
            raise
        self.done += 1

    def check(self) -> None:
        """Every `CHECK_EVERY` steps and after the last one, fetch the metrics and check that they are finite.

        After other steps, or called again, it does nothing.

        Raises:
            NotFiniteError: if a step was not finite. Weights and moments are those before that step.
        """
        if self.done % CHECK_EVERY and not self.epoch_complete:
            return
        rows = self.gradient_step.metrics.tolist()
        first = (self.done - 1) // CHECK_EVERY * CHECK_EVERY + 1
        for step, values in enumerate(rows, first):
            if not all(map(math.isfinite, values)):
                raise NotFiniteError(self._advice(f"step {step} of {self.steps}", values))
        self.totals = [math.fsum(values) for values in zip(self.totals, *rows, strict=True)]
        self.gradient_step.clear()

    def end_epoch(self) -> Epoch:
        """Validate, keep the weights if they are the best so far, and begin the next epoch.

        Raises:
            NotFiniteError: if the validation objective is not finite.
        """
        validation_reconstruction, validation_kl, validation = self._validate()
        if best := validation > self.best_objective:
            self.best_objective, self.best = validation, copy.deepcopy(self.vae.state_dict())
        reconstruction, kl, objective = (total / len(self.order) for total in self.totals[:3])
        record = Epoch(
            epoch=self.epoch,
            train_objective=objective,
            train_elbo=reconstruction - kl,
            train_reconstruction=reconstruction,
            train_kl=kl,
            validation_objective=validation,
            validation_elbo=validation_reconstruction - validation_kl,
            validation_reconstruction=validation_reconstruction,
            validation_kl=validation_kl,
            learning_rate=self._learning_rate(),
            gradient_norm=self.totals[3] / self.steps,
            best=best,
        )
        self.history.append(record)
        self.epoch, self.done, self.totals = self.epoch + 1, 0, [0.0] * 4
        self._begin_epoch()
        return record

    def roll_back(self) -> None:
        """Return to the start of the epoch, with a smaller learning rate from now on."""
        assert self.epoch_start
        rollbacks, start = self.rollbacks + 1, self.epoch_start
        self.restore(*start)
        self.rollbacks, self.epoch_start = rollbacks, start

    def state(self) -> State:
        """The whole state: tensors, and the rest as values for JSON."""
        tensors = {"order": self.order, "generator": self.generator.get_state(), **self.gradient_step.state()}
        tensors |= {f"best/{name}": value for name, value in self.best.items()}
        numbers: dict[str, Any] = {
            "epoch": self.epoch, "done": self.done, "totals": self.totals, "rollbacks": self.rollbacks,
            "history": [asdict(epoch) for epoch in self.history],
        }  # fmt: skip
        if self.epoch_start:
            tensors |= {f"epoch_start/{name}": value for name, value in self.epoch_start[0].items()}
            numbers["epoch_start"] = self.epoch_start[1]
        return tensors, numbers

    def restore(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Continue from a copy of a `state`."""
        self.gradient_step.restore(tensors)
        # Copies, since a rollback keeps the state of the epoch's start, and a file cannot have one tensor twice.
        self.best = {name: value.to(self.device, copy=True) for name, value in with_prefix("best", tensors).items()}
        self.order = tensors["order"].to(self.device, copy=True)
        self.generator.set_state(tensors["generator"].cpu())
        self.epoch, self.done, self.rollbacks = numbers["epoch"], numbers["done"], numbers["rollbacks"]
        self.totals = numbers["totals"]
        self.history = [Epoch(**record) for record in numbers["history"]]
        self.best_objective = max((epoch.validation_objective for epoch in self.history), default=-math.inf)
        start = numbers.get("epoch_start")
        self.epoch_start = (with_prefix("epoch_start", tensors), start) if start else None

    def _begin_epoch(self) -> None:
        """Shuffle the images, and remember the state if the epoch may be rolled back."""
        self.vae.train()
        shuffled = torch.randperm(len(self.train_index), generator=self.generator, device=self.device)
        self.order, self.epoch_start = self.train_index[shuffled], None
        if self.settings.rollbacks:
            self.epoch_start = copy.deepcopy(self.state())

    def _validate(self) -> list[float]:
        """Reconstruction, KL and objective, as means over the held-out images."""
        shard = self.group.shard(len(self.held_out))
        y = None if self.held_out_labels is None else self.held_out_labels[shard]
        sums = sum_terms(self.vae, self.held_out[shard], self.held_out_noise[:, shard], self.settings, y)
        self.group.all_reduce_sum_(sums)
        terms = (sums / len(self.held_out)).tolist()
        if not all(map(math.isfinite, terms)):
            raise NotFiniteError(self._advice("validation", [*terms, 0.0]))
        return terms

    def _learning_rate(self) -> float:
        """The learning rate of the next step."""
        factor = learning_rate_factor(*self._progress(), self.settings.warmup, self.settings.final_learning_rate)
        return self.settings.learning_rate * factor * ROLLBACK**self.rollbacks

    def _beta(self) -> float:
        """The weight of the KL in the next step."""
        return self.settings.beta * beta_factor(*self._progress(), self.settings.beta_warmup)

    def _progress(self) -> tuple[int, int]:
        """Number of the next step from 0, and number of all steps."""
        return (self.epoch - 1) * self.steps + self.done, self.steps * self.settings.epochs

    def _advice(self, place: str, values: list[float]) -> str:
        """The message for values of the terms that are not all finite."""
        terms = ("reconstruction term of the ELBO", "KL", "objective", "norm of the gradient")
        term, value = next((term, value) for term, value in zip(terms, values, strict=True) if not math.isfinite(value))
        fixed = isinstance(self.vae.decoder.observation, Gaussian) and self.vae.decoder.log_sigma is None
        remedy = "a larger model.sigma, " if term == terms[0] and fixed else ""
        after = f" after {self.rollbacks} rollback{'s' * (self.rollbacks > 1)}" if self.rollbacks else ""
        return (
            f"epoch {self.epoch}, {place}{after}: the {term} is {value}; try {remedy}a smaller train.learning_rate or "
            "train.clip_norm, or more train.rollbacks"
        )


@torch.inference_mode()
def sum_terms(
    vae: VAE,
    x: Float[Tensor, "images pixels"],
    noise: Float[Tensor, "samples images latent"],
    settings: Train,
    y: Labels = None,
) -> Float[Tensor, " terms"]:
    """Reconstruction, KL and objective, summed over all images.

    Computed in batches in float32, whatever the precision; float64 sums.
    """
    vae.eval()
    beta, objective, parts = torch.tensor(settings.beta), OBJECTIVES[settings.objective], []
    for start in range(0, max(len(x), 1), settings.batch_size):  # one batch at least: a process may have no images
        part = slice(start, start + settings.batch_size)
        samples = draw(vae, x[part], noise[:, part], None if y is None else y[part])
        parts.append(torch.stack([*samples.elbo, objective(samples, beta)]).cpu().double())
    return torch.cat(parts, 1).sum(1)
