"""`python -m benchmarks.missed`: how often a trusted estimate of log p(x) misses a large part of it.

Images are simulated from the trained model, so that an exact posterior sample of each is known: the z that made it.
Bidirectional Monte Carlo then bounds log p(x) from both sides. A trusted estimate more than three standard errors below
the lower bound has missed a part of p(x); the 95 % interval of their share is that of Clopper & Pearson (1934). The
lower bound starts from the estimator's proposal. If both miss the same mode, the bounds are far apart: the largest gap
is reported too.

Test images are then measured with the encoder's posterior as the start of the search, and without a start. A trusted
estimate has missed a mode if the other one is more than a nat, and more than three standard errors, higher. Ends with
one JSON line. It needs a trained model and its data.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch

import logpx
from logpx.block import Settings
from pipeline.code import ROOT
from pipeline.config import load_params
from pipeline.data.dataset import load_dataset
from pipeline.errors import UserError
from pipeline.evaluation.second_opinions import SIGNIFICANT, missed, on_simulated_images
from pipeline.evaluation.settings import data, estimator, joint
from pipeline.evaluation.summary import mean_and_error, plus_minus, rounded
from pipeline.model.checkpoint import load_model
from pipeline.model.labels import Labels
from pipeline.model.vae import VAE
from pipeline.process.device import environment, set_up
from pipeline.process.exit import run_cli
from pipeline.storage.tables import numbers


def by_start(vae: VAE, x: torch.Tensor, y: Labels, settings: Settings) -> dict[str, dict[str, float]]:
    """Trusted estimates with and without a start that have missed a mode: their number, and nats of the worst."""
    starts = {"encoder": vae.encode(x, y), "none": None}
    found = {
        name: logpx.estimate(joint(vae), data(vae, x, y), latent=vae.latent, start=start, **asdict(settings))
        for name, start in starts.items()
    }
    results: dict[str, dict[str, float]] = {}
    for (name, one), other in zip(found.items(), reversed(found.values()), strict=True):
        low = other.log_px - one.log_px
        wrong = one.trusted & (low > 1) & (low > SIGNIFICANT * torch.hypot(one.standard_error, other.standard_error))
        results[name] = {
            "trusted": int(one.trusted.sum()), "missed": int(wrong.sum()),
            "largest": round(float(low[wrong].max()) if wrong.any() else 0.0, 1),
        }  # fmt: skip
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models/vae.safetensors")
    parser.add_argument("--data", type=Path, default=ROOT / "data/images.safetensors")
    parser.add_argument("--images", type=int, default=1500, help="images that are simulated")
    parser.add_argument("--test-images", type=int, default=1000, help="test images, from the first on")
    parser.add_argument(
        "--chains", type=int, default=64, help="annealing chains; with few, standard errors are too small"
    )
    parser.add_argument("--seed", type=int, default=5, help="of the images and of all samples")
    parser.add_argument("--device", default="cpu", help="cpu (the default), cuda, or auto")
    options = parser.parse_args()
    if min(options.images, options.test_images) < 1 or not 2 <= options.chains <= 128:
        raise UserError("--images and --test-images: at least 1 each; --chains: 2 to 128")
    device = set_up(options.device, 0)
    params, vae = load_params(ROOT / "params.yaml"), load_model(options.model, device).vae
    verify = params.verify.model_copy(update={"images": options.images, "chains": options.chains, "seed": options.seed})
    evaluate = params.evaluate.model_copy(update={"seed": options.seed})

    dataset, settings = load_dataset(options.data), estimator(evaluate, vae)
    x = vae.images.read_fixed(dataset.test_images[: options.test_images], params.evaluate.seed).to(device)

    table = on_simulated_images(vae, verify, settings)
    gap = numbers(table, "upper") - numbers(table, "annealed")
    found = rounded(missed(table) | mean_and_error("bdmc_gap", gap) | {"largest_gap": float(gap.max())})
    print(f"trusted: {found['trusted']} of {len(table)}")
    if found["trusted"]:
        share, low, high = (100 * found[name] for name in ("missed", "missed_low", "missed_high"))
        print(f"too low: {share:.2f} % of the trusted ones; 95 % interval {low:.2f} to {high:.2f} %")
    print(f"upper bound − lower bound: {plus_minus(found, 'bdmc_gap')} nats, at most {gap.max():.1f}")
    starts = by_start(vae, x, dataset.test_labels[: len(x)].long().to(device), settings)
    for name, of_start in starts.items():
        print(
            f"{len(x)} test images, start = {name}:", *(f"{key} {value}" for key, value in of_start.items()), sep="  "
        )
    print(json.dumps({
        "images": len(table), "chains": options.chains, "seed": options.seed, **found,
        "test": {"images": len(x), **starts}, "environment": environment(device),
    }))  # fmt: skip


if __name__ == "__main__":
    sys.exit(run_cli(main))
