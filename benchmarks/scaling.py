"""`python -m benchmarks.scaling`: the cost of a run by images, samples and size of the network, and with two processes.

Models of several sizes are timed, of fully connected layers and of convolutions. Lines are fitted to the seconds of a
training image and of an estimate of log p(x), by the multiply-adds of their matmuls or convolutions (docs/scaling.md).
Then runs that are ten times larger, with networks of other sizes, are timed and compared with the lines. Last, one
process and two train and evaluate MNIST on the same cores in a clone, and their results are compared. `DATA_MIRROR` may
name a folder with the data. Ends with one JSON line.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.optimize import nnls
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.stages import watched
from benchmarks.timing import alternating, rate
from benchmarks.training import ours
from logpx.estimator import estimate_whole
from pipeline.config import Params
from pipeline.data.image_format import ImageFormat
from pipeline.evaluation.settings import estimator, prepare
from pipeline.model.vae import VAE
from pipeline.process.device import environment, set_up
from tools import presets
from tools.clones import configure, temporary_clone

IMAGES = ImageFormat(28, 28, 256)
CPU = torch.device("cpu")
LARGER = 10  # times as many images as in the runs that the lines are fitted to


class Kind(NamedTuple):
    """A preset, whose network's size is changed."""

    preset: str | None  # None for the default
    sizes: Sequence[Mapping[str, Any]]  # of the networks that the lines are fitted to
    other: Mapping[str, Any]  # of the network that is compared with them
    training: int  # images of an epoch
    measured: int  # images whose log p(x) is estimated
    latent: Sequence[int]
    samples: Sequence[int]


KINDS = {
    "mlp": Kind(
        None, [{"encoder": [n, n], "decoder": [n, n]} for n in (256, 512, 1024)],
        {"encoder": [768, 768], "decoder": [768, 768]}, 5120, 80, (4, 16, 32), (64, 512),
    ),
    "conv": Kind("good", [{"width": n} for n in (8, 16, 32)], {"width": 24}, 512, 8, (8, 32), (64, 512)),
}  # fmt: skip


def multiply_adds(work: Callable[[], object]) -> float:
    """Of the matmuls and convolutions of some work."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 2


def seconds(images: int, work: Callable[[], object], rounds: int) -> float:
    """Seconds per image: the median over some rounds, after one that warms up."""
    contender = {"work": rate(images, work)}
    alternating(contender, 1)
    return 1 / alternating(contender, rounds)["work"]


def line(rows: Sequence[Sequence[float]], found: Sequence[float]) -> list[float]:
    """Costs ≥ 0 of one more of each column, by least squares of relative errors."""
    design, weights = np.array(rows), 1 / np.array(found)
    return [float(cost) for cost in nnls(design * weights[:, None], np.ones(len(found)))[0]]


def training_run(params: Params, images: int, rounds: int) -> tuple[list[float], float]:
    """What a training image consists of (itself, and its millions of multiply-adds), and its seconds."""
    data = torch.randint(0, 256, (images, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    vae, batch = VAE(params.model, IMAGES), params.train.batch_size
    x, z = torch.rand(1, IMAGES.pixels), torch.randn(1, vae.latent)
    per_image = multiply_adds(lambda: (vae.encoder(x), vae.decoder(z)))
    epoch = ours(data, IMAGES, params.model, params.train, batch, CPU)
    return [1, per_image / 1e6], seconds(images, epoch, rounds)


def measuring_run(params: Params, images: int, samples: int, rounds: int) -> tuple[list[float], float]:
    """What an estimate consists of, and its seconds per image.

    Itself; its latent dimensions squared; its samples; and the millions of multiply-adds of its decoder
    evaluations.
    """
    torch.manual_seed(0)
    vae = VAE(params.model, IMAGES).eval()
    settings = replace(estimator(params.evaluate, vae), samples=samples, budget=samples, rescue=False)
    with torch.no_grad():
        x = vae.decoder(torch.randn(images, vae.latent)).sample(torch.Generator().manual_seed(0))
    whole, z = prepare(vae, x, None, settings), torch.randn(1, vae.latent)
    evaluations = float(estimate_whole(whole).evaluations.mean())
    work = evaluations * multiply_adds(lambda: vae.decoder(z))
    return [1, vae.latent**2, samples, work / 1e6], seconds(images, lambda: estimate_whole(whole), rounds)


def costs(kind: Kind, rounds: int) -> dict[str, Any]:
    """The lines of a kind of network, and how runs that are ten times larger compare with them."""
    training = [
        training_run(presets.parameters(kind.preset, {"model": size}), kind.training, rounds) for size in kind.sizes
    ]
    measuring = []
    for size, latent, samples in ((s, n, k) for s in kind.sizes for n in kind.latent for k in kind.samples):
        params = presets.parameters(kind.preset, {"model": {**size, "latent": latent}})
        measuring.append(measuring_run(params, kind.measured, samples, rounds))
    found: dict[str, Any] = {}
    other = presets.parameters(kind.preset, {"model": kind.other})
    larger = {
        "training": training_run(other, LARGER * kind.training, 1),
        "measuring": measuring_run(other, LARGER * kind.measured, other.evaluate.samples, 1),
    }
    for name, runs in (("training", training), ("measuring", measuring)):
        of_each = line(*zip(*runs, strict=True))
        row, taken = larger[name]
        predicted = float(np.dot(row, of_each))
        errors = [float(np.dot(parts, of_each)) / actual for parts, actual in runs]
        found[name] = {
            "microseconds": [round(1e6 * cost, 3) for cost in of_each],
            "predicted": round(1e6 * predicted, 1), "taken": round(1e6 * taken, 1),
            "fitted": [round(error, 2) for error in sorted(errors)],
        }  # fmt: skip
    return found


def several(preset: str | None, epochs: int, images: int) -> dict[str, Any]:
    """Seconds of the stages with one process and with two, and the largest difference of their results."""
    found: dict[str, Any] = {}
    tables, elbos = [], []
    with temporary_clone() as folder:
        small = {"train": {"epochs": epochs}, "evaluate": {"images": images, "comparison": 50, "training_images": 10}}
        content = presets.merge(presets.load(preset) if preset else {}, small)
        for processes in (1, 2):
            configure(folder, {**content, "runtime": {"processes": processes}})
            _, stages = watched(folder, "train")
            found[f"train_{processes}"] = stages["train"][0]
            elbos.append(json.loads((folder / "reports/metrics/train.json").read_text())["validation"]["elbo"])
        for processes in (2, 1):  # both measure the last model
            configure(folder, {"runtime": {"processes": processes}})
            _, stages = watched(folder, "--single-item", "--force", "evaluate")
            found[f"evaluate_{processes}"] = stages["evaluate"][0]
            tables.append(pd.read_parquet(folder / "reports/images.parquet"))
    apart = np.abs(tables[0]["log_px"] - tables[1]["log_px"])
    return found | {"validation_elbo": elbos, "apart": float(apart.max()), "apart_median": float(apart.median())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    set_up("cpu", 0)
    found: dict[str, Any] = {}
    for name, kind in KINDS.items():
        found[name] = costs(kind, options.rounds)
        for part, of_part in found[name].items():
            print(
                f"{name}, {part}: {of_part['microseconds']} µs; a run {LARGER} times larger takes "
                f"{of_part['taken']:.0f} µs per image, predicted {of_part['predicted']:.0f}", flush=True,
            )  # fmt: skip
    processes = {
        "default": several(None, 5, 2000),
        "digits_on_request": several("digits_on_request", 1, 100),
        "good": several("good", 1, 50),
    }
    for name, values in processes.items():
        print(f"{name}: {values}")
    print(json.dumps({**found, "processes": processes, "environment": environment(CPU)}))


if __name__ == "__main__":
    main()
