"""`python -m benchmarks.training`: training images a second, ours beside the usual loop and the matrix products alone.

Same architecture, batch size, precision and images; the three take turns, and medians count. The networks are that of
PyTorch's example, 784-400-20-400-784, and the one of params.yaml. The usual loop is that of the example: torchvision's
MNIST, ToTensor, a DataLoader, `loss.item()` at each step, PyTorch as it is installed. The matrix products
are those that a step cannot do without, forward and backward, at the same sizes, into buffers that are there already.
Ours in bfloat16 (`train.precision`) runs beside; the ratios are those of float32.
Ends with one JSON line.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor

from benchmarks.timing import alternating, as_installed, rate, training_products
from pipeline import config, datasets, runtime
from pipeline.training import fit
from pipeline.vae import ACTIVATIONS, VAE

ROOT = Path(__file__).parents[1]


class Pictures(MNIST):
    """Torchvision's own, with images that are there already."""

    def __init__(self, images: Tensor) -> None:
        self.data, self.targets = images, torch.zeros(len(images), dtype=torch.long)
        self.transform, self.target_transform = ToTensor(), None


class Plain(nn.Module):
    """The textbook VAE with the layers of ours."""

    def __init__(self, settings: config.Model, pixels: int) -> None:
        super().__init__()
        self.sigma = settings.sigma
        self.encoder = self._layers([pixels, *settings.encoder, 2 * settings.latent], settings.activation)
        self.decoder = self._layers([settings.latent, *settings.decoder, pixels], settings.activation)

    @staticmethod
    def _layers(sizes: Sequence[int], activation: str) -> nn.Sequential:
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), ACTIVATIONS[activation]()]
        return nn.Sequential(*layers[:-1])

    def loss(self, x: Tensor) -> Tensor:
        mu, log_variance = self.encoder(x).chunk(2, dim=1)
        z = mu + torch.exp(0.5 * log_variance) * torch.randn_like(mu)
        squares = nn.functional.mse_loss(torch.sigmoid(self.decoder(z)), x, reduction="sum")
        kl = -0.5 * torch.sum(1 + log_variance - mu.pow(2) - log_variance.exp())
        return squares / (2 * self.sigma**2) + kl


def plain(images: Tensor, model: config.Model, batch: int, device: torch.device) -> Callable[[], None]:
    """One epoch of the usual loop."""
    network = Plain(model, images[0].numel()).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    loader = DataLoader(Pictures(images), batch_size=batch, shuffle=True)

    def epoch() -> None:
        total = 0.0
        for x, _ in loader:
            optimiser.zero_grad()
            loss = network.loss(x.to(device).flatten(1))
            loss.backward()
            total += loss.item()
            optimiser.step()

    return epoch


def ours(
    images: Tensor,
    levels: int,
    model: config.Model,
    train: config.Train,
    batch: int,
    device: torch.device,
    **changes: str,
) -> Callable[[], object]:
    """One epoch of `fit`, the validation of one image included."""
    settings = train.model_copy(update={"batch_size": batch, "epochs": 10**6, "validation": 1 / len(images), **changes})
    epochs = fit(VAE(model, images[0].numel()).to(device), images.flatten(1).to(device), levels, settings)
    return lambda: next(epochs)


def products(images: Tensor, model: config.Model, batch: int, device: torch.device) -> Callable[[], None]:
    """The products of an epoch alone."""
    pixels = images[0].numel()
    layers = [*pairwise([pixels, *model.encoder, 2 * model.latent]), *pairwise([model.latent, *model.decoder, pixels])]
    step = training_products(layers, 0, batch, device)

    def epoch() -> None:
        for _ in range(len(images) // batch):
            step()

    return epoch


def measure(
    dataset: datasets.Dataset,
    model: config.Model,
    train: config.Train,
    batch: int,
    rounds: int,
    images: int,
    device: torch.device,
) -> dict[str, float]:
    """Medians of images a second, over rounds in which each has its turn."""
    some = dataset.train_images[: images // batch * batch]
    of_ours = some, dataset.levels, model, train, batch, device
    contenders = {
        "plain": as_installed(plain(some, model, batch, device)),
        "ours": ours(*of_ours),
        "products": products(some, model, batch, device),
        "bfloat16": ours(*of_ours, precision="bfloat16"),
    }
    rates = {name: rate(len(some), epoch) for name, epoch in contenders.items()}
    alternating(rates, 1)  # the first turn is slower
    return alternating(rates, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "data/images.safetensors")
    parser.add_argument("--batch", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--device", default="cpu", help="cpu (the default), cuda, or auto")
    options = parser.parse_args()
    params = config.load(ROOT / "params.yaml")
    device = runtime.start(options.device, 0)
    dataset = datasets.load(options.data)
    example = params.model.model_copy(update={"latent": 20, "encoder": (400,), "decoder": (400,), "activation": "relu"})
    found = []
    print(
        f"{'network':>16} {'batch':>6} {'plain':>8} {'ours':>8} {'products':>8} {'ours, bf16':>10}   images/s", end=""
    )
    print("   ours/plain   ours/products")
    for model in (example, params.model):
        network = "-".join(str(size) for size in (*model.encoder, model.latent, *model.decoder))
        for batch in options.batch:
            now = measure(dataset, model, params.train, batch, options.rounds, options.images, device)
            found.append({"network": network, "batch": batch} | {name: round(value) for name, value in now.items()})
            print(
                f"{network:>16} {batch:>6} {now['plain']:>8.0f} {now['ours']:>8.0f} {now['products']:>8.0f} "
                f"{now['bfloat16']:>10.0f}{now['ours'] / now['plain']:>23.2f} {now['ours'] / now['products']:>15.2f}",
                flush=True,
            )
    print(json.dumps({"images_per_second": found, "environment": runtime.environment(device)}))


if __name__ == "__main__":
    main()
