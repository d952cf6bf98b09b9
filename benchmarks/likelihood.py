"""`python -m benchmarks.likelihood`: decoder evaluations a second, and how many log p(x) costs with each proposal.

The estimator, the decoder's matrix products alone and, where it is installed, pythae's `get_nll` take turns on the same
weights, and medians count. Then each proposal is given more and more samples until the mean of log p(x) stays within
0.1 nat of a reference, the default proposal's with many. Ends with one JSON line. It needs a trained model.
"""

import argparse
import json
import time
from collections.abc import Callable
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.timing import alternating, forward_products, rate
from benchmarks.training import ROOT
from pipeline import config, datasets, runtime, trained
from pipeline.likelihood import convergence, importance
from pipeline.observations import dequantised
from pipeline.vae import VAE

NEAR = 0.1  # nats


def estimator(vae: VAE, x: Tensor, settings: config.Evaluate, samples: int) -> Callable[[], object]:
    """Samples of a fitted proposal and their weights."""
    block = importance.Block(vae, x, range(len(x)), settings)
    proposal = importance.prepare(block, settings.proposal).proposal
    everyone = torch.arange(len(x))
    return lambda: importance.draw(block, proposal, everyone, importance.ESTIMATE, samples)


def get_nll(vae: VAE, x: Tensor, model: config.Model, samples: int) -> Callable[[], object]:
    """Pythae's routine, with our networks in its classes."""
    from pythae import models  # pyright: ignore[reportMissingImports]
    from pythae.models.base.base_utils import ModelOutput  # pyright: ignore[reportMissingImports]
    from pythae.models.nn import BaseDecoder, BaseEncoder  # pyright: ignore[reportMissingImports]

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = vae.encoder.network

        def forward(self, x: Tensor) -> Any:
            mu, log_s = self.network(x).chunk(2, dim=-1)
            return ModelOutput(embedding=mu, log_covariance=2 * log_s)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = nn.Sequential(vae.decoder.network, vae.decoder.observation.link)

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.network(z))

    settings = models.VAEConfig(input_dim=(x.shape[1],), latent_dim=model.latent)
    theirs = models.VAE(settings, Encoder(), Decoder()).eval()

    @torch.no_grad()
    def run() -> None:
        theirs.get_nll(x, n_samples=samples, batch_size=samples)

    return run


def speed(vae: VAE, x: Tensor, params: config.Params, samples: int, rounds: int) -> dict[str, float]:
    """Decoder evaluations a second, medians."""
    count = len(x) * samples
    layers = list(pairwise([vae.latent, *params.model.decoder, x.shape[1]]))
    chunk = params.evaluate.chunk
    products = forward_products(layers, chunk, x.device)

    def alone() -> None:
        for _ in range(count // chunk):
            products()

    def whole() -> Tensor:
        return importance.log_px(vae, x, params.evaluate, params.evaluate.proposal).evaluations

    contenders = {
        "products": rate(count // chunk * chunk, alone),
        "estimator": rate(count, estimator(vae, x, params.evaluate, samples)),
        "fit and estimate": rate(float(whole().sum()), whole),
    }
    if find_spec("pythae"):
        few = x[:8]
        contenders["pythae"] = rate(len(few) * samples, get_nll(vae, few, params.model, samples))
    alternating(contenders, 1)
    return alternating(contenders, rounds)


def accuracy(vae: VAE, x: Tensor, params: config.Params, samples: int) -> dict[str, dict[str, float]]:
    """Decoder evaluations and seconds an image until the mean stays within `NEAR` of the reference."""
    many = params.evaluate.model_copy(update={"seed": params.evaluate.seed + 1})
    reference = convergence.importance_curve(vae, x, many, "mixture", 4 * samples)["log_px"].iloc[-1]
    found: dict[str, dict[str, float]] = {}
    for name in ("prior", "encoder", "laplace", "mixture"):
        start = time.perf_counter()
        curve = convergence.importance_curve(vae, x, params.evaluate, name, samples)
        seconds = (time.perf_counter() - start) / len(x) / curve["evaluations"].iloc[-1]
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
    parser.add_argument("--most", type=int, default=16_384, help="samples that a proposal gets at most")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu", help="cpu (the default), cuda, or auto")
    options = parser.parse_args()
    params = config.load(ROOT / "params.yaml")
    device = runtime.start(options.device, 0)
    dataset, model = datasets.load(options.data), trained.load(options.model, device)
    evaluate = importance.sized(params.evaluate, model.vae)
    params = params.model_copy(update={"evaluate": evaluate, "model": model.description.model})
    x = dequantised(dataset.test_images, dataset.levels, evaluate.seed)[: options.images].to(device)

    rates = speed(model.vae, x, params, options.samples, options.rounds)
    for name, value in rates.items():
        print(
            f"{name:>16}: {value:>9.0f} decoder evaluations/s, {value / rates['products']:5.2f} of the products alone"
        )
    if "pythae" not in rates:
        print("          pythae: not installed; `uv pip install pythae` to see it beside")
    costs = accuracy(model.vae, x, params, options.most)
    for name, cost in costs.items():
        words = "within" if cost["reached"] else "never within"
        print(
            f"{name:>16}: {words} {NEAR} nat ({cost['off']:.2f} off) after {cost['evaluations']:.0f} decoder "
            f"evaluations an image, {cost['milliseconds']:.2f} ms"
        )
    rounded = {name: round(value) for name, value in rates.items()}
    print(json.dumps({"per_second": rounded, "costs": costs, "environment": runtime.environment(device)}))


if __name__ == "__main__":
    main()
