"""Training by stochastic gradient ascent on the ELBO: `fit` is a generator of epoch records."""

import copy
import math
from collections.abc import Generator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from pipeline.bounds import Elbo, elbo
from pipeline.config import Model, Train
from pipeline.errors import UserError
from pipeline.lifetime import deferred, interruption
from pipeline.observations import dequantise
from pipeline.ranks import ALONE, Ranks
from pipeline.scratch import Scratch
from pipeline.step import LOOK, Step
from pipeline.tensors import below
from pipeline.vae import VAE

ROLLBACK = 0.5  # of the learning rate after each rollback


@dataclass(frozen=True)
class Epoch:
    """What an epoch came to: means over images, in nats an image."""

    epoch: int
    train_elbo: float
    train_reconstruction: float
    train_kl: float
    validation_elbo: float
    validation_reconstruction: float
    validation_kl: float
    learning_rate: float
    gradient_norm: float
    best: bool


class NotFiniteError(UserError):
    """The arithmetic of training failed: the message says where, in which term, and what to try."""


def split(images: int, validation: float, seed: int) -> tuple[Int[Tensor, " train"], Int[Tensor, " held_out"]]:
    """Indices of the images to train on and of those held out, a random split that the seed fixes.

    Raises:
        UserError: if the fraction leaves either part empty.
    """
    held_out = round(images * validation)
    if not 0 < held_out < images:
        raise UserError(f"train.validation = {validation} of {images} images leaves one part of the split empty")
    order = torch.randperm(images, generator=torch.Generator().manual_seed(seed))
    return order[held_out:].sort().values, order[:held_out].sort().values


def fit(
    vae: VAE,
    images: UInt8[Tensor, "images pixels"],
    levels: int,
    settings: Train,
    scratch: Scratch | None = None,
    ranks: Ranks = ALONE,
) -> Generator[Epoch, None, None]:
    """Train `vae` in place and yield a record after each epoch; at the end it holds the best epoch's weights.

    Every epoch dequantises afresh. The validation images keep one dequantisation and one latent noise,
    so that their ELBO compares between epochs.

    Args:
        vae: the model, on the device to train on.
        images: the training images, on the same device; `settings.validation` of them are held out.
        levels: grey levels of the images, for dequantisation.
        settings: the section `train` of the parameters.
        scratch: where the state is kept between steps, and where an earlier one is found. Going on from it gives the
            same records and weights as if nothing had happened; records of epochs before it come first. Of several
            processes rank 0 has one, and the others go on from its state.
        ranks: the processes that train this model together. Each draws the noise of a whole batch and takes its share
            of it, so that up to rounding records and weights are those of one process; they are the same in all.
            An interruption of one of several is deferred to the end of a step of all, also while a record is out.

    Raises:
        NotFiniteError: when a term of the ELBO, or the gradient, is no longer finite, and no rollback is left.
    """
    training = _Training(vae, images, levels, settings, ranks)
    if saved := ranks.broadcast(scratch.load() if scratch else None):
        training.restore(*saved)
    yield from list(training.history)
    stopping = False
    try:
        # One process stops after the step that it is at. Several agree on it: else one would wait for another for ever.
        with deferred() if ranks.size > 1 else nullcontext():
            while training.epoch <= settings.epochs:
                try:
                    while not training.looked():
                        with deferred():
                            training.take_step()
                        if scratch and scratch.due():
                            scratch.save(*training.state())
                        if ranks.size > 1 and (number := ranks.largest(interruption())):
                            stopping = True
                            raise KeyboardInterrupt(number)
                    with deferred():
                        training.end_epoch()
                except NotFiniteError:
                    if training.rollbacks == settings.rollbacks:
                        raise
                    with deferred():
                        training.roll_back()
                else:
                    yield training.history[-1]
    except BaseException:
        if scratch:
            with deferred():
                scratch.save(*training.state())
        if stopping:
            ranks.largest(0)  # none ends before the work is kept: the end of one is soon that of all
        raise
    vae.load_state_dict(training.best)
    vae.eval()


def memory(settings: Model, pixels: int) -> int:
    """Bytes of a training's tensors as large as the weights: those, the best ones, two moments, and gradients twice.

    Several processes have a message as large; a captured step has gradients of its own for each size of batch.
    """
    with torch.device("meta"):
        return 6 * sum(parameter.nbytes for parameter in VAE(settings, pixels).parameters())


class _Training:
    """A training between two steps: all that the next one depends on, beside images and settings."""

    def __init__(self, vae: VAE, images: Tensor, levels: int, settings: Train, ranks: Ranks) -> None:
        self.vae, self.images, self.levels, self.settings, self.ranks = vae, images, levels, settings, ranks
        device = images.device
        self.generator = torch.Generator(device).manual_seed(settings.seed)
        parts = split(len(images), settings.validation, settings.seed)
        self.train_index, held_out = (index.to(device) for index in parts)
        self.held_out = dequantise(images[held_out], levels, self.generator)
        self.held_out_noise = torch.randn(1, len(held_out), vae.latent, generator=self.generator, device=device)
        self.step = Step(vae, images, levels, settings, ranks, self.generator)
        self.steps = math.ceil(len(self.train_index) / settings.batch_size)
        self.epoch, self.done = 1, 0  # the epoch under way, and its steps that are done
        self.totals = [0.0, 0.0, 0.0]  # over those that were looked at, of what a step measures
        self.rollbacks = 0
        self.history: list[Epoch] = []
        self.best_elbo, self.best = -math.inf, copy.deepcopy(vae.state_dict())
        self.order, self.epoch_start = self.train_index, None
        self._begin_epoch()

    def take_step(self) -> None:
        """The next one; where another process breaks it off, it can be taken again."""
        size, before = self.settings.batch_size, self.generator.get_state()
        try:
            self.step(self.order[self.done * size : (self.done + 1) * size], self._learning_rate(), self.done % LOOK)
        except BaseException:
            self.generator.set_state(before)
            raise
        self.done += 1

    def looked(self) -> bool:
        """Whether the epoch's steps are done. Now and then, and at the end, the host looks at what they came to.

        Raises:
            NotFiniteError: when one of them was not finite. Weights and moments are those before it.
        """
        ended = self.done == self.steps
        if ended or self.done % LOOK == 0:
            with deferred():
                rows = self.step.measures.tolist()
                first = max(0, self.done - 1) // LOOK * LOOK + 1
                for step, values in enumerate(rows, first):
                    if not all(map(math.isfinite, values)):
                        raise NotFiniteError(self._advice(f"step {step} of {self.steps}", values))
                self.totals = [math.fsum(values) for values in zip(self.totals, *rows, strict=True)]
                self.step.clear()
        return ended

    def end_epoch(self) -> None:
        """Measure the epoch, keep its weights if they are the best, and begin the next.

        Raises:
            NotFiniteError: when the validation ELBO is not finite.
        """
        share = self.ranks.share(len(self.held_out))
        x, noise = self.held_out[share], self.held_out_noise[:, share]
        sums = _sum_elbo(self.vae, x, noise, self.settings.batch_size)
        self.ranks.sum_(sums)
        validation = Elbo(*sums / len(self.held_out))
        value = float(validation.value)
        if not math.isfinite(value):
            terms = [float(validation.reconstruction), float(validation.kl), 0.0]
            raise NotFiniteError(self._advice("validation", terms))
        if best := value > self.best_elbo:
            self.best_elbo, self.best = value, copy.deepcopy(self.vae.state_dict())
        reconstruction, kl = (total / len(self.order) for total in self.totals[:2])
        record = Epoch(
            epoch=self.epoch,
            train_elbo=reconstruction - kl,
            train_reconstruction=reconstruction,
            train_kl=kl,
            validation_elbo=value,
            validation_reconstruction=float(validation.reconstruction),
            validation_kl=float(validation.kl),
            learning_rate=self._learning_rate(),
            gradient_norm=self.totals[2] / self.steps,
            best=best,
        )
        self.history.append(record)
        self.epoch, self.done, self.totals = self.epoch + 1, 0, [0.0, 0.0, 0.0]
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        self.vae.train()
        images = len(self.train_index)
        shuffled = torch.randperm(images, generator=self.generator, device=self.images.device)
        self.order, self.epoch_start = self.train_index[shuffled], None
        if self.settings.rollbacks:
            self.epoch_start = copy.deepcopy(self.state())

    def roll_back(self) -> None:
        """Back to the start of the epoch, with a smaller learning rate from now on."""
        assert self.epoch_start
        rollbacks, start = self.rollbacks + 1, self.epoch_start
        self.restore(*copy.deepcopy(start))
        self.rollbacks, self.epoch_start = rollbacks, start

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything as tensors and as what JSON can hold."""
        tensors = {"order": self.order, "generator": self.generator.get_state(), **self.step.state()}
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
        """Take over what `state` gave."""
        device = self.images.device
        self.step.restore(tensors)
        self.best = {name: value.to(device) for name, value in below("best", tensors).items()}
        self.order = tensors["order"].to(device)
        self.generator.set_state(tensors["generator"].cpu())
        self.epoch, self.done, self.rollbacks = numbers["epoch"], numbers["done"], numbers["rollbacks"]
        self.totals = numbers["totals"]
        self.history = [Epoch(**record) for record in numbers["history"]]
        self.best_elbo = max((epoch.validation_elbo for epoch in self.history), default=-math.inf)
        start = numbers.get("epoch_start")
        self.epoch_start = (below("epoch_start", tensors), start) if start else None

    def _learning_rate(self) -> float:
        """That of the next step."""
        step, steps = (self.epoch - 1) * self.steps + self.done, self.steps * self.settings.epochs
        factor = learning_rate_factor(step, steps, self.settings.warmup, self.settings.final_learning_rate)
        return self.settings.learning_rate * factor * ROLLBACK**self.rollbacks

    def _advice(self, where: str, values: list[float]) -> str:
        terms = ("reconstruction term of the ELBO", "KL", "gradient's norm")
        term, value = next((term, value) for term, value in zip(terms, values, strict=True) if not math.isfinite(value))
        remedy = "a larger model.sigma, " if term == terms[0] else ""
        after = f" after {self.rollbacks} rollbacks" if self.rollbacks else ""
        return (
            f"epoch {self.epoch}, {where}{after}: the {term} is {value}; try {remedy}a smaller train.learning_rate or "
            "train.clip_norm, or more train.rollbacks"
        )


def learning_rate_factor(step: int, steps: int, warmup: float, final: float) -> float:
    """The learning rate as a fraction of its peak: linear warm-up, then cosine decay to `final`."""
    rise = warmup * steps
    if step < rise:
        return (step + 1) / (rise + 1)
    progress = (step - rise) / max(1.0, steps - rise)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


@torch.inference_mode()
def _sum_elbo(
    vae: VAE, x: Float[Tensor, "images pixels"], noise: Float[Tensor, "samples images latent"], batch_size: int
) -> Float[Tensor, " terms"]:
    """The ELBO's terms summed over all images, evaluated in batches; float32 whatever the precision, then float64."""
    vae.eval()
    parts = [elbo(vae, xs, ns) for xs, ns in zip(x.split(batch_size), noise.split(batch_size, dim=1), strict=True)]
    return torch.stack([torch.cat([p[term] for p in parts]).cpu().double().sum() for term in range(2)])
