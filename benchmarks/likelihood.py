"""`python -m benchmarks.likelihood`: decoder evaluations per second, and the cost of log p(x) with each proposal.

The estimator, the decoder's matmuls and, if it is installed, pythae's `get_nll` take turns on the same weights, and
medians count. Then each proposal gets more and more samples until the mean of log p(x) stays within 0.1 nat of a
reference: the default proposal with many samples. Ends with one JSON line. It needs a trained model.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import pythae_model
from benchmarks.timing import alternating, forward_matmuls, rate
from logpx import importance
from logpx.block import PROPOSALS, Block
from logpx.estimator import estimate_whole
from logpx.noise import Stream
from pipeline.code import ROOT
from pipeline.config import load_params
from pipeline.data.dataset import load_dataset
from pipeline.evaluation.convergence import importance_curve
from pipeline.evaluation.settings import estimator, prepare
from pipeline.model.checkpoint import load_model
from pipeline.model.vae import VAE
from pipeline.process.device import environment, set_up

NEAR = 0.1  # nats


def estimators(whole: Block, samples: int) -> dict[str, Callable[[], float]]:
    """Decoder evaluations per second of samples of fitted proposals with their weights, and of a whole estimate."""
    proposal = importance.fit_proposal(whole).proposal
    spent = float(estimate_whole(whole).evaluations.sum())

    def sample() -> object:
        return importance.sample_log_weights(whole, proposal, Stream.ESTIMATE, samples)

    return {
        "estimator": rate(len(whole) * samples, sample),
        "fit and estimate": rate(spent, lambda: estimate_whole(whole)),
    }


def get_nll(vae: VAE, x: Tensor, samples: int) -> Callable[[], object]:
    """Pythae's routine, with our networks in its classes."""
    decoder = nn.Sequential(vae.decoder.network, vae.decoder.link)
    theirs = pythae_model.wrap(vae.encoder.network, decoder, x.shape[1], vae.latent).eval()

    @torch.no_grad()
    def run() -> None:
        theirs.get_nll(x, n_samples=samples, batch_size=samples)

    return run


def speed(vae: VAE, whole: Block, samples: int, rounds: int) -> dict[str, float]:
    """Decoder evaluations per second, medians."""
    x, chunk = whole.x, whole.settings.chunk
    assert isinstance(x, Tensor)
    turns = max(1, len(x) * samples // chunk)
    widths = [layer.out_features for layer in vae.decoder.network.modules() if isinstance(layer, nn.Linear)]
    matmuls = forward_matmuls(list(pairwise([vae.latent, *widths])), chunk, x.device)

    def limit() -> None:
        for _ in range(turns):
            matmuls()

    contenders = {"matmuls": rate(turns * chunk, limit), **estimators(whole, samples)}
    if find_spec("pythae"):
        few = x[:8]
        contenders["pythae"] = rate(len(few) * samples, get_nll(vae, few, samples))
    alternating(contenders, 1)
    return alternating(contenders, rounds)


def accuracy(whole: Block, samples: int) -> dict[str, dict[str, float]]:
    """Decoder evaluations and seconds per image until the mean stays within `NEAR` of the reference."""
    settings = whole.settings
    many = replace(settings, seed=settings.seed + 1, proposal="mixture")
    reference = importance_curve(replace(whole, settings=many), 4 * samples)["log_px"].iloc[-1]
    found: dict[str, dict[str, float]] = {}
    for name in PROPOSALS:
        start = time.perf_counter()
        curve = importance_curve(replace(whole, settings=replace(settings, proposal=name)), samples)
        seconds = (time.perf_counter() - start) / len(whole) / curve["evaluations"].iloc[-1]
        off = (curve["log_px"] - reference).abs().to_numpy()
        near = next((i for i in range(len(off)) if (off[i:] < NEAR).all()), None)
        used = float(curve["evaluations"].iloc[-1 if near is None else near])
        found[name] = {
            "reached": near is not None, "evaluations": used, "milliseconds": round(1e3 * seconds * used, 3),
            "off": round(float(off[-1 if near is None else near]), 3),
        }  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "data/images.safetensors")
    parser.add_argument("--model", type=Path, default=ROOT / "models/vae.safetensors")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--most", type=int, default=16_384, help="most samples of a proposal")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu", help="cpu (the default), cuda, or auto")
    options = parser.parse_args()
    device = set_up(options.device, 0)
    dataset, model = load_dataset(options.data), load_model(options.model, device)
    of_model = model.description.model
    if (of_model.network, of_model.observation, of_model.prior, of_model.condition) != (
        "mlp", "gaussian", "normal", "none",
    ):  # fmt: skip
        parser.error(
            "a model with model.network = mlp, model.observation = gaussian, model.prior = normal and "
            "model.condition = none is needed"
        )
    settings = estimator(load_params(ROOT / "params.yaml").evaluate, model.vae)
    x = model.vae.images.read_fixed(dataset.test_images, settings.seed)[: options.images].to(device)
    whole = prepare(model.vae, x, None, settings)

    rates = speed(model.vae, whole, options.samples, options.rounds)
    for name, value in rates.items():
        print(f"{name:>16}: {value:>9.0f} decoder evaluations/s, {value / rates['matmuls']:5.2f} of the matmuls' rate")
    if "pythae" not in rates:
        print("          pythae: not installed; `uv pip install pythae` adds it to the comparison")
    costs = accuracy(whole, options.most)
    for name, cost in costs.items():
        words = "within" if cost["reached"] else "never within"
        print(
            f"{name:>16}: {words} {NEAR} nat ({cost['off']:.2f} off) after {cost['evaluations']:.0f} decoder "
            f"evaluations per image, {cost['milliseconds']:.2f} ms"
        )
    rounded = {name: round(value) for name, value in rates.items()}
    print(json.dumps({"per_second": rounded, "costs": costs, "environment": environment(device)}))


if __name__ == "__main__":
    main()
