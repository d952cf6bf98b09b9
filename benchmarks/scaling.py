"""`python -m benchmarks.scaling`: the cost of a run by images, samples and parameters, and with two processes.

Decoders and whole models of several sizes are timed. A straight line over their number of parameters is fitted to the
seconds of a decoder evaluation and of a training image; any run is a sum of these (docs/scaling.md). Then one process
and two train and evaluate MNIST on the same cores in a clone, and their results are compared.
`DATA_MIRROR` may name a folder with the data. Ends with one JSON line.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from benchmarks.stages import watched
from benchmarks.timing import rate
from benchmarks.training import ours
from logpx import importance
from logpx.noise import Stream
from pipeline.code import ROOT
from pipeline.config import Params, load_params
from pipeline.data.image_format import ImageFormat
from pipeline.evaluation.settings import estimator, prepare
from pipeline.model.vae import VAE
from pipeline.process.device import environment, set_up
from tools.clones import configure, temporary_clone

SIZES = ((256, 256), (512, 512), (1024, 1024), (1024, 1024, 1024))
IMAGES = ImageFormat(28, 28, 256)
CPU = torch.device("cpu")


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def median(run: Callable[[], float], rounds: int) -> float:
    for _ in range(rounds):
        run()  # the first turns are slower
    return statistics.median(run() for _ in range(rounds))


def line(sizes: list[int], seconds: list[float]) -> tuple[float, float]:
    """Seconds that do not depend on the size, and seconds per parameter: least squares of relative errors."""
    weights = 1 / np.array(seconds)
    design = np.stack([np.ones(len(sizes)), np.array(sizes)], 1)
    (fixed, slope), *_ = np.linalg.lstsq(design * weights[:, None], np.ones(len(sizes)), rcond=None)
    return float(fixed), float(slope)


def costs(params: Params, rounds: int) -> dict[str, Any]:
    """Seconds of a decoder evaluation and of a training image by number of parameters."""
    images = torch.randint(
        0,
        IMAGES.levels,
        (5120, IMAGES.height, IMAGES.width),
        generator=torch.Generator().manual_seed(0),
        dtype=torch.uint8,
    )
    decoders: list[int] = []
    models: list[int] = []
    evaluation: list[float] = []
    training: list[float] = []
    for hidden in SIZES:
        model = params.model.model_copy(update={"encoder": hidden, "decoder": hidden})
        vae = VAE(model, IMAGES).eval()
        settings = replace(estimator(params.evaluate, vae), proposal="encoder")
        block = prepare(vae, torch.rand(settings.chunk // 64, IMAGES.pixels), None, settings)
        proposal = importance.fit_proposal(block).proposal
        draw = rate(
            len(block) * 512,
            lambda block=block, proposal=proposal: importance.sample_log_weights(block, proposal, Stream.ESTIMATE, 512),
        )
        epoch = rate(len(images), ours(images, IMAGES, model, params.train, params.train.batch_size, CPU))
        decoders.append(parameters(vae.decoder))
        models.append(parameters(vae))
        evaluation.append(1 / median(draw, rounds))
        training.append(1 / median(epoch, rounds))
        print(
            f"{'-'.join(map(str, hidden)):>16}: {1e6 * evaluation[-1]:6.2f} µs per decoder evaluation "
            f"({decoders[-1]:>8} parameters), {1e6 * training[-1]:6.1f} µs per training image ({models[-1]:>8})",
            flush=True,
        )
    return {"evaluation": line(decoders, evaluation), "training": line(models, training)}


def several(epochs: int, images: int) -> dict[str, Any]:
    """Seconds of the stages with one process and with two, and the largest difference of their results."""
    found: dict[str, Any] = {}
    tables, elbos = [], []
    with temporary_clone() as folder:
        small = {"train": {"epochs": epochs}, "evaluate": {"images": images, "comparison": 100}}
        for processes in (1, 2):
            configure(folder, {**small, "runtime": {"processes": processes}})
            _, stages = watched(folder, "train")
            found[f"train, {processes}"] = stages["train"][0]
            elbos.append(json.loads((folder / "reports/metrics/train.json").read_text())["validation"]["elbo"])
        for processes in (2, 1):  # both measure the last model
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
    params = load_params(ROOT / "params.yaml")
    set_up("cpu", 0)
    start = time.perf_counter()
    found = costs(params, options.rounds)
    for name, (fixed, slope) in found.items():
        print(f"{name}: {1e6 * fixed:.2f} µs + {1e12 * slope:.2f} µs per million parameters")
    processes = several(options.epochs, options.images)
    for name, value in processes.items():
        print(f"{name} process{'es' if name.endswith('2') else ''}: {value}")
    print(json.dumps({**found, "processes": processes, "seconds": round(time.perf_counter() - start),
                      "environment": environment(torch.device("cpu"))}))  # fmt: skip


if __name__ == "__main__":
    main()
