"""`python -m benchmarks.foreign WEIGHTS`: log p(x) of a decoder that others trained, by the library alone.

WEIGHTS is the VAE of binarised MNIST that is published with lxuechen/BDMC (`checkpoints/model.pth`), as a safetensors
file. The first test images are measured, with pixels above 127 as 1 and the others as 0, with three starts of the
search for the posterior: the encoder's mean and standard deviation, its mean only, and none. For comparison, the usual
estimate: importance samples of the encoder. Ends with one JSON line. It needs the data that `dvc repro` prepares.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import elu

import logpx
from logpx.block import PROPOSALS, Block, Settings, Start, prepare
from logpx.importance import fit_proposal, sample_log_weights
from logpx.noise import Stream
from pipeline.code import ROOT
from pipeline.config import load_params
from pipeline.data.dataset import load_dataset
from pipeline.errors import UserError
from pipeline.evaluation.convergence import annealed_curve, importance_curve
from pipeline.evaluation.settings import annealer
from pipeline.evaluation.summary import Metrics, mean_and_error, plus_minus, rounded
from pipeline.process.device import environment, set_up
from pipeline.process.exit import run_cli
from pipeline.report import estimate_plots, plotting

PIXELS, HIDDEN, LATENT = 784, 200, 50
USUAL = 5000  # importance samples of the encoder


class Published(nn.Module):
    """The published VAE: q(z | x) = N(μ(x), diag s²(x)), and independent Bernoulli pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(PIXELS, HIDDEN), nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, 100)
        self.fc4, self.fc5, self.fc6 = nn.Linear(LATENT, HIDDEN), nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, PIXELS)

    @torch.no_grad()
    def posteriors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(z | x). The network computes the mean and log s²."""
        mean, log_variance = self.fc3(elu(self.fc2(elu(self.fc1(x))))).chunk(2, dim=-1)
        return mean, (0.5 * log_variance).exp()

    @property
    def decoder(self) -> logpx.Decoder:
        return logpx.Decoder(nn.Sequential(self.fc4, nn.ELU(), self.fc5, nn.ELU(), self.fc6), logpx.Bernoulli())


def load(path: Path) -> Published:
    """Read the weights.

    Raises:
        UserError: if the file is missing, is not a safetensors file, or has other weights.
    """
    network = Published()
    try:
        network.load_state_dict(load_file(path))
    except FileNotFoundError:
        raise _wrong(path, "no such file") from None
    except (OSError, SafetensorError) as error:
        raise _wrong(path, f"is not a safetensors file ({error})") from None
    except RuntimeError:
        raise _wrong(path, "has other weights") from None
    return network.eval()


def _wrong(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path}: {reason}; give the weights of the published VAE: layers fc1 to fc6, 50 latent dimensions"
    )


def binary_images(path: Path, count: int) -> Tensor:
    """The first test images of a data set, with pixels 0 and 1."""
    images = load_dataset(path).test_images[:count].flatten(1)
    if count < 1 or images.shape[1] != PIXELS:
        raise UserError(f"{path}: {count} images of {images.shape[1]} pixels; at least one, of {PIXELS}, is needed")
    return (images > 127).float()


def measure(model: logpx.Decoder, x: Tensor, start: Start) -> tuple[Metrics, Tensor]:
    """Summary of the library's estimates with its default settings, and log p(x) of each image."""
    found = logpx.estimate(model, x, latent=LATENT, start=start)
    return rounded(mean_and_error("log_px", found.log_px.numpy()) | {
        "standard_error": float(found.standard_error.median()), "trusted": float(found.trusted.double().mean()),
        "ess": float(found.ess.median()), "rescued": float(found.rescued.double().mean()),
        "evaluations": float(found.evaluations.mean()),
    }), found.log_px  # fmt: skip


def usual(whole: Block) -> Metrics:
    """Importance samples of the encoder, as they are published most often."""
    log_w = sample_log_weights(whole, fit_proposal(whole).proposal, Stream.ESTIMATE, USUAL)
    found = logpx.diagnose(log_w)
    return rounded(mean_and_error("log_px", found.log_px.numpy()) | {
        "standard_error": float(found.standard_error.median()), "trusted": float(found.trusted.double().mean()),
        "ess": float(found.ess.median()), "evaluations": USUAL,
    })  # fmt: skip


def curves(whole: Block) -> pd.DataFrame:
    """The estimate against decoder evaluations, with each proposal and by annealing from the prior."""
    verify = load_params(ROOT / "params.yaml").verify
    by_proposal = [replace(whole, settings=replace(whole.settings, proposal=name)) for name in PROPOSALS]
    annealed = annealed_curve(whole, annealer(verify), verify.curve_temperatures)
    return pd.concat([*(importance_curve(block, verify.curve_samples) for block in by_proposal), annealed])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--images", type=Path, default=ROOT / "data/images.safetensors", help="prepared MNIST")
    parser.add_argument("--count", type=int, default=24, help="test images, from the first on")
    parser.add_argument("--figure", type=Path, help="draw the estimate against decoder evaluations into this PNG")
    options = parser.parse_args()
    device = set_up("cpu", 0)
    network, x = load(options.weights), binary_images(options.images, options.count)
    mean, deviation = network.posteriors(x)
    whole = prepare(network.decoder, x, Settings(proposal="encoder"), latent=LATENT, start=(mean, deviation))
    starts: dict[str, Start] = {"encoder": (mean, deviation), "mean": mean, "none": None}
    found = {name: measure(network.decoder, x, start) for name, start in starts.items()}
    results = {name: metrics for name, (metrics, _) in found.items()} | {"usual": usual(whole)}
    apart = torch.stack([log_px for _, log_px in found.values()])
    for name, metrics in results.items():
        print(
            f"{name:>8}: log p(x) = {plus_minus(metrics, 'log_px')}, median error of an image "
            f"{metrics['standard_error']:.3f}, trusted {100 * metrics['trusted']:.1f} %, median effective sample size "
            f"{metrics['ess']:.0f}, {metrics['evaluations']:.0f} decoder evaluations per image"
        )
    if options.figure:
        plotting.save(estimate_plots.convergence(curves(whole)), options.figure)
    largest = round(float((apart.amax(0) - apart.amin(0)).max()), 4)
    print(json.dumps({"images": len(x), **results, "largest_difference": largest, "environment": environment(device)}))


if __name__ == "__main__":
    sys.exit(run_cli(main))
