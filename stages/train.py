"""Train: fit the VAE to the training images and keep the epoch with the best validation ELBO."""

import sys
from contextlib import closing, nullcontext
from dataclasses import asdict

import pandas as pd
from tqdm import tqdm

from pipeline import checkpoint, config, datasets, lifetime, ranks, runtime, scratch, tables
from pipeline.files import sha256, write_json
from pipeline.tracking.run import OFF, TRAINING, Run
from pipeline.training import Epoch, fit, memory
from pipeline.vae import VAE


def main() -> None:
    arguments = runtime.paths(__doc__, "data", "model", "history", "metrics")
    params = config.load()
    device = runtime.start(params.runtime.device, params.train.seed)
    dataset = datasets.load(arguments.data)
    if ranks.launch(params.runtime.processes, device):
        return
    data_sha256 = sha256(arguments.data)

    runtime.require_memory(memory(params.model, dataset.pixels), device, "smaller model.encoder and model.decoder")
    vae = VAE(params.model, dataset.pixels).to(device)
    images = dataset.train_images.flatten(1).to(device)
    environment = runtime.environment(device)
    sections = params.model_dump(mode="json", include={"model", "train"})
    with (
        ranks.joined(device) as group,
        Run("train", params.tracking if group.rank == 0 else OFF, (dataset.name, data_sha256)) as run,
        scratch.opened("train", params.recovery, sections, data_sha256, environment)
        if group.rank == 0
        else nullcontext() as kept,
        closing(fit(vae, images, dataset.levels, params.train, kept, group)) as epochs,
    ):
        run.params(params.model_dump(include=set(TRAINING)))
        history: list[Epoch] = []
        for epoch in tqdm(epochs, total=params.train.epochs, unit="epoch", disable=group.rank > 0 or None):
            history.append(epoch)
            tqdm.write(report(epoch, params.train.epochs))
            run.metrics({key: value for key, value in asdict(epoch).items() if key != "epoch"}, step=epoch.epoch)

        if group.rank > 0:
            return
        best = max(history, key=lambda epoch: epoch.validation_elbo)
        height, width = dataset.shape
        description = checkpoint.Description(
            model=params.model, height=height, width=width, levels=dataset.levels,
            dataset=dataset.name, data_sha256=data_sha256, epoch=best.epoch,
        )  # fmt: skip
        checkpoint.save(arguments.model, vae.state_dict(), description)
        tables.write_csv(arguments.history, pd.DataFrame(history))
        write_json(arguments.metrics, {**metrics(best), "environment": environment})
        run.model(arguments.model, sha256(arguments.model))
        run.metrics(metrics(best))


def report(epoch: Epoch, epochs: int) -> str:
    return (
        f"epoch {epoch.epoch:>3}/{epochs}  ELBO {epoch.train_elbo:9.2f} training  "
        f"{epoch.validation_elbo:9.2f} validation  KL {epoch.validation_kl:6.2f}{'  best' if epoch.best else ''}"
    )


def metrics(best: Epoch) -> dict[str, object]:
    """What `dvc exp show` lists of the training; the rest is in the history."""
    return {
        "epoch": best.epoch,
        "train": {"elbo": round(best.train_elbo, 4)},
        "validation": {"elbo": round(best.validation_elbo, 4)},
    }


if __name__ == "__main__":
    sys.exit(lifetime.run(main))
