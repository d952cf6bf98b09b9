"""`python -m benchmarks.convolutions`: a convolutional VAE, beside a plain loop of its layers and its convolutions.

Training: images per second of this project's epochs; of the usual loop over the same layers, with a DataLoader,
`loss.item()` at each step and PyTorch's default memory layout; and of the convolutions alone, forward and backward,
with the same shapes. Measuring: decoder evaluations per second of the estimator's samples and weights; of the estimator
with the fit of its proposals; of plain calls of the decoder and the observation model; and of the decoder's
convolutions alone, forward. All take turns, and medians count.
The model is that of presets/good.yaml. Training is measured in both precisions; the estimator computes in float32. Ends
with one JSON line.
"""

import argparse
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.likelihood import estimators
from benchmarks.timing import alternating, as_installed, rate
from benchmarks.usual import usual_epoch
from pipeline.code import ROOT
from pipeline.config import Params
from pipeline.data.dataset import Dataset, load_dataset
from pipeline.data.image_format import ImageFormat
from pipeline.evaluation.settings import estimator, prepare
from pipeline.model.vae import VAE
from pipeline.process.device import environment, set_up
from pipeline.training.fit import fit
from tools import presets

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Convolution(NamedTuple):
    """A convolution with an input of the shape that it has in the network; its result's gradient is the result."""

    layer: nn.Conv2d
    x: Tensor
    first: bool

    def forward(self) -> Tensor:
        return nn.functional.conv2d(self.x, self.layer.weight, self.layer.bias, self.layer.stride, self.layer.padding)

    def both(self) -> None:
        y, layer = self.forward(), self.layer
        torch.ops.aten.convolution_backward(
            y, self.x, layer.weight, [y.shape[1]], layer.stride, layer.padding, [1, 1], False, [0, 0], 1,
            [not self.first, True, True],
        )  # fmt: skip


def convolutions(network: nn.Module, example: Tensor, dtype: torch.dtype, images_first: bool) -> list[Convolution]:
    """The convolutions of a network for a batch like `example`, in our memory layout."""
    found: list[Convolution] = []

    def remember(layer: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        assert isinstance(layer, nn.Conv2d)
        x = torch.randn_like(inputs[0]).to(dtype, memory_format=torch.channels_last)
        own = copy.deepcopy(layer).to(dtype)
        own.weight.data = own.weight.to(memory_format=torch.channels_last)
        found.append(Convolution(own, x, images_first and not found))

    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    hooks = [layer.register_forward_hook(remember) for layer in layers]
    with torch.no_grad():
        network(example)
    for hook in hooks:
        hook.remove()
    return found


def training_contenders(
    dataset: Dataset, params: Params, images: int, device: torch.device
) -> dict[str, Callable[[], float]]:
    """Images per second of ours, the plain loop and the convolutions alone, in both precisions."""
    batch, seen = params.train.batch_size, dataset.format()
    some = dataset.train_images[: images // batch * batch]
    contenders: dict[str, Callable[[], object]] = {}
    for name, dtype in PRECISIONS.items():
        changes = {"epochs": 10**6, "validation": 1 / len(some), "precision": name}
        settings = params.train.model_copy(update=changes)
        epochs = fit(VAE(params.model, seen).to(device), some.flatten(1).to(device), settings)
        contenders[f"ours {name}"] = lambda epochs=epochs: next(epochs)
        slow = params.train.model_copy(update={"learning_rate": 1e-4, "precision": name})  # stable without clipping
        labels = torch.zeros(len(some), dtype=torch.long)
        usual = usual_epoch(VAE(params.model, seen).to(device), some.flatten(1), labels, slow)
        contenders[f"plain {name}"] = as_installed(usual)
        contenders[f"convolutions {name}"] = alone(params, seen, len(some) // batch, dtype, device)
    return {name: rate(len(some), work) for name, work in contenders.items()}


def alone(
    params: Params, seen: ImageFormat, steps: int, dtype: torch.dtype, device: torch.device
) -> Callable[[], None]:
    """The convolutions of an epoch, forward and backward."""
    vae, batch = VAE(params.model, seen).to(device), params.train.batch_size
    of_encoder = convolutions(vae.encoder.network, torch.rand(batch, seen.pixels, device=device), dtype, True)
    of_decoder = convolutions(vae.decoder.network, torch.randn(batch, vae.latent, device=device), dtype, False)

    @torch.no_grad()
    def epoch() -> None:
        for _ in range(steps):
            for convolution in (*of_encoder, *of_decoder):
                convolution.both()

    return epoch


def measuring_contenders(
    dataset: Dataset, params: Params, images: int, device: torch.device
) -> dict[str, Callable[[], float]]:
    """Decoder evaluations per second: the estimator without and with its fit, plain calls, the convolutions alone."""
    torch.manual_seed(0)
    seen = dataset.format()
    vae = VAE(params.model, seen).to(device)
    list(fit(vae, dataset.train_images[:4000].flatten(1).to(device), params.train.model_copy(update={"epochs": 2})))
    x = seen.read_fixed(dataset.test_images[:images], 1).to(device)
    settings = estimator(params.evaluate.model_copy(update={"budget": params.evaluate.samples}), vae)
    z = torch.randn(settings.chunk, vae.latent, device=device)
    some = x[:1].expand(len(z), -1)
    layers = convolutions(vae.decoder.network, z, torch.float32, False)

    @torch.inference_mode()
    def calls() -> None:
        vae.decoder(z).log_prob(some)

    @torch.inference_mode()
    def forward() -> None:
        for convolution in layers:
            convolution.forward()

    return {
        **estimators(prepare(vae, x, None, settings), settings.samples),
        "plain calls": rate(len(z), calls),
        "convolutions": rate(len(z), forward),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "data/images.safetensors")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=2_560, help="in an epoch")
    parser.add_argument("--test-images", type=int, default=16)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or auto")
    options = parser.parse_args()
    params = presets.parameters("good")
    device = set_up(options.device, 0)
    dataset = load_dataset(options.data)
    found = {}
    for kind, unit, contenders in (
        ("training", "images/s", training_contenders(dataset, params, options.images, device)),
        ("measuring", "decoder evaluations/s", measuring_contenders(dataset, params, options.test_images, device)),
    ):
        alternating(contenders, 1)  # warm up
        found[kind] = alternating(contenders, options.rounds)
        for name, value in found[kind].items():
            print(f"{kind:>10} {name:>22} {value:>10.0f} {unit}", flush=True)
    ratios = {
        f"ours / {other}, {name}": found["training"][f"ours {name}"] / found["training"][f"{other} {name}"]
        for name in PRECISIONS
        for other in ("plain", "convolutions")
    }
    ratios["bfloat16 / float32"] = found["training"]["ours bfloat16"] / found["training"]["ours float32"]
    measured = found["measuring"]
    ratios |= {
        f"{name} / {other}": measured[name] / measured[other]
        for name in ("estimator", "fit and estimate")
        for other in ("plain calls", "convolutions")
    }
    for name, value in ratios.items():
        print(f"{name}: {value:.2f}")
    rounded = {kind: {name: round(value) for name, value in rates.items()} for kind, rates in found.items()}
    print(
        json.dumps(
            rounded | {"ratios": {k: round(v, 3) for k, v in ratios.items()}, "environment": environment(device)}
        )
    )


if __name__ == "__main__":
    main()
