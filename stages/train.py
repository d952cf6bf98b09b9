"""Train: fit the VAE to the training images and keep the epoch with the best validation ELBO."""

import sys
import time
from contextlib import closing, nullcontext
from dataclasses import asdict

import pandas as pd
from tqdm import tqdm

from pipeline.config import load_params
from pipeline.data.dataset import load_dataset
from pipeline.model import checkpoint
from pipeline.model.checkpoint import save_checkpoint
from pipeline.model.vae import VAE
from pipeline.process.cli import parse_paths
from pipeline.process.device import environment, require_memory, set_up
from pipeline.process.distributed import join
from pipeline.process.launcher import launch
from pipeline.process.lifecycle import run_stage
from pipeline.process.recovery import open_work
from pipeline.storage.files import sha256, write_json
from pipeline.storage.tables import write_csv
from pipeline.tracking.run import Run
from pipeline.training.fit import fit
from pipeline.training.memory import memory
from pipeline.training.trainer import Epoch


def main() -> None:
    arguments = parse_paths(__doc__, "data", "model", "history", "metrics")
    params = load_params()
    device = set_up(params.runtime.device, params.train.seed)
    dataset = load_dataset(arguments.data)
    if launch(params.runtime.processes, device):
        return
    data_sha256 = sha256(arguments.data)

    seen = dataset.format(params.data.binarise)
    shares = dataset.class_shares() if params.model.condition == "label" else ()
    needed = memory(params.model, seen, shares, params.train.rollbacks)
    fewer_copies = ", or train.rollbacks = 0" if params.train.rollbacks else ""
    require_memory(needed, device, f"a smaller network{fewer_copies}")
    vae = VAE(params.model, seen, shares).to(device)
    images, labels = dataset.train_images.flatten(1).to(device), dataset.train_labels.long().to(device)
    machine = environment(device)
    sections = params.model_dump(mode="json", include={"data", "model", "train"})
    with (
        join(device) as group,
        nullcontext() if group.rank else open_work("train", params.recovery, sections, data_sha256, machine) as work,
        Run("train", params, arguments, active=group.rank == 0) as run,
        closing(fit(vae, images, params.train, work, group, labels)) as epochs,
    ):
        history: list[Epoch] = []
        start = time.monotonic()
        for epoch in tqdm(epochs, total=params.train.epochs, unit="epoch", disable=group.rank > 0 or None):
            history.append(epoch)
            tqdm.write(report(epoch, params.train.epochs))
            run.log_epoch(asdict(epoch))

        if group.rank > 0:
            return
        print(f"training took {time.monotonic() - start:.0f} s")
        best = max(history, key=lambda epoch: epoch.validation_objective)
        description = checkpoint.Description(
            model=params.model, **asdict(seen), shares=vae.shares, dataset=dataset.name, data_sha256=data_sha256,
            epoch=best.epoch, validation=params.train.validation, seed=params.train.seed,
        )  # fmt: skip
        save_checkpoint(arguments.model, vae.state_dict(), description)
        write_csv(arguments.history, pd.DataFrame(history))
        write_json(arguments.metrics, {**metrics(best), "environment": machine})


def report(epoch: Epoch, epochs: int) -> str:
    return (
        f"epoch {epoch.epoch:>3}/{epochs}  ELBO {epoch.train_elbo:9.2f} training  "
        f"{epoch.validation_elbo:9.2f} validation  KL {epoch.validation_kl:6.2f}{'  best' if epoch.best else ''}"
    )


def metrics(best: Epoch) -> dict[str, object]:
    """The metrics that `dvc exp show` lists; the history has the rest."""
    return {
        "epoch": best.epoch,
        "train": {"elbo": round(best.train_elbo, 4)},
        "validation": {"elbo": round(best.validation_elbo, 4)},
    }


if __name__ == "__main__":
    sys.exit(run_stage(main))
