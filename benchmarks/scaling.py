"""`python -m benchmarks.scaling`: what a run costs against images, samples and parameters, and with two processes.

Decoders and whole models of several sizes are timed, and a straight line over their number of parameters is fitted to
the seconds of a decoder evaluation and of a training image: with those, any run is a sum (docs/scaling.md). Then, in a
clone of its own, one process and two train and evaluate MNIST on the same cores, and what comes out is compared.
`DATA_MIRROR` may name a folder with the data. Ends with one JSON line.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from benchmarks.chaos import configure
from benchmarks.pipeline import watched
from benchmarks.queue import ROOT, clone, settle
from benchmarks.timing import rate
from benchmarks.training import ours
from pipeline import config, runtime
from pipeline.likelihood import importance
from pipeline.vae import VAE

SIZES = ((256, 256), (512, 512), (1024, 1024), (1024, 1024, 1024))
PIXELS, LEVELS = 784, 256
CPU = torch.device("cpu")


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def median(run: Callable[[], float], rounds: int) -> float:
    for _ in range(rounds):
        run()  # the first turns are slower
    return statistics.median(run() for _ in range(rounds))


def line(sizes: list[int], seconds: list[float]) -> tuple[float, float]:
    """Seconds that do not depend on the size, and seconds a parameter: least squares of relative errors."""
    weights = 1 / np.array(seconds)
    design = np.stack([np.ones(len(sizes)), np.array(sizes)], 1)
    (fixed, slope), *_ = np.linalg.lstsq(design * weights[:, None], np.ones(len(sizes)), rcond=None)
    return float(fixed), float(slope)


def costs(params: config.Params, rounds: int) -> dict[str, Any]:
    """Seconds of a decoder evaluation and of a training image by number of parameters."""
    images = torch.randint(0, LEVELS, (5120, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    decoders: list[int] = []
    models: list[int] = []
    evaluation: list[float] = []
    training: list[float] = []
    for hidden in SIZES:
        model = params.model.model_copy(update={"encoder": hidden, "decoder": hidden})
        vae = VAE(model, PIXELS).eval()
        settings = importance.sized(params.evaluate, vae)
        x = torch.rand(settings.chunk // 64, PIXELS)
        block = importance.Block(vae, x, range(len(x)), settings)
        proposal = importance.propose("encoder", vae, x).proposal
        everyone = torch.arange(len(x))
        draw = rate(len(x) * 512, lambda b=block, p=proposal, e=everyone: importance.draw(b, p, e, 1, 512))
        epoch = rate(len(images), ours(images, LEVELS, model, params.train, params.train.batch_size, CPU))
        decoders.append(parameters(vae.decoder))
        models.append(parameters(vae))
        evaluation.append(1 / median(draw, rounds))
        training.append(1 / median(epoch, rounds))
        print(
            f"{'-'.join(map(str, hidden)):>16}: {1e6 * evaluation[-1]:6.2f} µs a decoder evaluation "
            f"({decoders[-1]:>8} parameters), {1e6 * training[-1]:6.1f} µs a training image ({models[-1]:>8})",
            flush=True,
        )
    return {"evaluation": line(decoders, evaluation), "training": line(models, training)}


def several(epochs: int, images: int) -> dict[str, Any]:
    """One process and two: seconds of the stages, and how far apart the results are."""
    found: dict[str, Any] = {}
    tables, elbos = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "project"
        folder.mkdir()
        clone(folder)
        small = {"train": {"epochs": epochs}, "evaluate": {"images": images, "comparison": 100}}
        for processes in (1, 2):
            configure(folder, {**small, "runtime": {"processes": processes}})
            _, stages = watched(folder, "train")
            found[f"train, {processes}"] = stages["train"][0]
            elbos.append(json.loads((folder / "reports/metrics/train.json").read_text())["validation"]["elbo"])
        for processes in (2, 1):  # of one model, the last
            configure(folder, {"runtime": {"processes": processes}})
            _, stages = watched(folder, "--single-item", "--force", "evaluate")
            found[f"evaluate, {processes}"] = stages["evaluate"][0]
            tables.append(pd.read_parquet(folder / "reports/images.parquet"))
    apart = np.abs(tables[0]["log_px"] - tables[1]["log_px"])
    found |= {
        "validation_elbo": elbos,
        "log_px_apart": float(apart.max()),
        "log_px_apart_median": float(apart.median()),
    }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--images", type=int, default=2000)
    options = parser.parse_args()
    settle()
    params = config.load(ROOT / "params.yaml")
    runtime.start("cpu", 0)
    start = time.perf_counter()
    found = costs(params, options.rounds)
    for name, (fixed, slope) in found.items():
        print(f"{name}: {1e6 * fixed:.2f} µs + {1e12 * slope:.2f} µs for each million parameters")
    processes = several(options.epochs, options.images)
    for name, value in processes.items():
        print(f"{name} process{'es' if name.endswith('2') else ''}: {value}")
    print(json.dumps({**found, "processes": processes, "seconds": round(time.perf_counter() - start),
                      "environment": runtime.environment(torch.device("cpu"))}))  # fmt: skip


if __name__ == "__main__":
    main()
