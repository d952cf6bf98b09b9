"""Training by stochastic gradient ascent on an objective: `fit` yields a record after each epoch.

It drives a `Trainer`, and only it knows signals, saving and agreement between processes.
"""

from collections.abc import Generator

from jaxtyping import UInt8
from torch import Tensor

from pipeline.config import Train
from pipeline.model.labels import Labels
from pipeline.model.vae import VAE
from pipeline.process.distributed import SINGLE, Group
from pipeline.process.lifecycle import defer_interrupts, pending_interrupt, raise_interrupt
from pipeline.process.recovery import UnfinishedWork
from pipeline.training.trainer import Epoch, NotFiniteError, Trainer


def fit(
    vae: VAE,
    images: UInt8[Tensor, "images pixels"],
    settings: Train,
    work: UnfinishedWork | None = None,
    group: Group = SINGLE,
    labels: Labels = None,
) -> Generator[Epoch, None, None]:
    """Train `vae` in place and yield a record after each epoch. At the end it has the weights of the best epoch.

    Each epoch draws the noise of the images anew.

    Args:
        vae: the model, on the device to train on.
        images: the training images, on the same device; `settings.validation` of them are held out.
        settings: the section `train` of the parameters.
        work: where the state is saved, and where an earlier process may have saved one. A resumed training gives the
            same records and weights as one without a break. It first yields the records of finished epochs. Of
            several processes only rank 0 needs it; the others get its state.
        group: the processes that train this model together.
        labels: of the images; only a conditional model needs them.

    Raises:
        NotFiniteError: if the objective, a term of the ELBO or the gradient is not finite, and no rollback is left.
        KeyboardInterrupt: after a signal, between two steps. If one of several processes receives a signal, all stop
            after the same step.
    """
    trainer = Trainer(vae, images, settings, group, labels)
    if saved := group.broadcast(work.load() if work else None):
        trainer.restore(*saved)
    del saved  # as large as the whole state
    yield from list(trainer.history)
    try:
        while trainer.epoch <= settings.epochs:
            with defer_interrupts():
                record = _train_epoch(trainer, settings.rollbacks, work, group)
            yield record
    except BaseException:  # GeneratorExit too: the caller may be interrupted while it has the record
        if work:
            with defer_interrupts():
                work.save(*trainer.state())
        raise
    vae.load_state_dict(trainer.best)
    vae.eval()


def _train_epoch(trainer: Trainer, rollbacks: int, work: UnfinishedWork | None, group: Group) -> Epoch:
    """Finish the current epoch. After each step all processes agree whether to stop."""
    record = None
    while record is None:
        try:
            trainer.check()
            if trainer.epoch_complete:
                record = trainer.end_epoch()
            else:
                trainer.step()
                if work and work.due():
                    work.save(*trainer.state())
        except NotFiniteError:
            if trainer.rollbacks == rollbacks:
                raise
            trainer.roll_back()
        if number := group.all_reduce_max(pending_interrupt()):
            raise_interrupt(number)
    return record
