"""`python -m benchmarks.training`: training images per second, beside the usual loop and the matmuls alone.

Same architecture, batch size, precision and images; the three take turns, and medians count. The networks are that of
PyTorch's example, 784-400-20-400-784, and the one of params.yaml. The usual loop is that of the example: torchvision's
MNIST, ToTensor, a DataLoader, `loss.item()` at each step, PyTorch as it is installed. The matmuls are those that a step
needs, forward and backward, at the same sizes, into buffers allocated in advance. Our training in bfloat16
(`train.precision`) takes turns with them; the ratios are those of float32. Ends with one JSON line.
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

from benchmarks.timing import alternating, as_installed, rate, training_matmuls
from pipeline import config
from pipeline.code import ROOT
from pipeline.config import load_params
from pipeline.data import dataset
from pipeline.data.dataset import load_dataset
from pipeline.data.image_format import ImageFormat
from pipeline.model.activations import ACTIVATIONS
from pipeline.model.vae import VAE
from pipeline.process.device import environment, set_up
from pipeline.training.fit import fit


class Pictures(MNIST):
    """Torchvision's MNIST with images in memory, so that nothing is downloaded. Without labels all are 0."""

    def __init__(self, images: Tensor, labels: Tensor | None = None) -> None:
        self.data = images
        self.targets = torch.zeros(len(images), dtype=torch.long) if labels is None else labels
        self.transform, self.target_transform = ToTensor(), None


class Plain(nn.Module):
    """The textbook VAE, with the layers of this project's."""

    def __init__(self, settings: config.Model, pixels: int) -> None:
        super().__init__()
        assert isinstance(settings.sigma, float)
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
    """An epoch of the usual loop."""
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
    seen: ImageFormat,
    model: config.Model,
    train: config.Train,
    batch: int,
    device: torch.device,
    **changes: str,
) -> Callable[[], object]:
    """An epoch of this project's training, with a validation set of one image."""
    settings = train.model_copy(update={"batch_size": batch, "epochs": 10**6, "validation": 1 / len(images), **changes})
    epochs = fit(VAE(model, seen).to(device), images.flatten(1).to(device), settings)
    return lambda: next(epochs)


def matmuls(images: Tensor, model: config.Model, batch: int, device: torch.device) -> Callable[[], None]:
    """The matrix multiplications of an epoch, without anything else."""
    pixels = images[0].numel()
    layers = [*pairwise([pixels, *model.encoder, 2 * model.latent]), *pairwise([model.latent, *model.decoder, pixels])]
    step = training_matmuls(layers, 0, batch, device)

    def epoch() -> None:
        for _ in range(len(images) // batch):
            step()

    return epoch


def measure(
    dataset: dataset.Dataset,
    model: config.Model,
    train: config.Train,
    batch: int,
    rounds: int,
    images: int,
    device: torch.device,
) -> dict[str, float]:
    """Median images per second of each contender."""
    some = dataset.train_images[: images // batch * batch]
    of_ours = some, dataset.format(), model, train, batch, device
    contenders = {
        "plain": as_installed(plain(some, model, batch, device)),
        "ours": ours(*of_ours),
        "matmuls": matmuls(some, model, batch, device),
        "bfloat16": ours(*of_ours, precision="bfloat16"),
    }
    rates = {name: rate(len(some), epoch) for name, epoch in contenders.items()}
    alternating(rates, 1)  # warm up
    return alternating(rates, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "data/images.safetensors")
    parser.add_argument("--batch", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or auto")
    options = parser.parse_args()
    params = load_params(ROOT / "params.yaml")
    device = set_up(options.device, 0)
    dataset = load_dataset(options.data)
    own = params.model
    if (own.network, own.observation) != ("mlp", "gaussian") or own.sigma == "learned":
        parser.error("model.network = mlp and model.observation = gaussian with a fixed model.sigma are needed")
    example = own.model_copy(update={"latent": 20, "encoder": (400,), "decoder": (400,), "activation": "relu"})
    found = []
    print(f"{'network':>16} {'batch':>6} {'plain':>8} {'ours':>8} {'matmuls':>8} {'ours, bf16':>10}   images/s", end="")
    print("   ours/plain   ours/matmuls")
    for model in (example, own):
        network = "-".join(str(size) for size in (*model.encoder, model.latent, *model.decoder))
        for batch in options.batch:
            now = measure(dataset, model, params.train, batch, options.rounds, options.images, device)
            found.append({"network": network, "batch": batch} | {name: round(value) for name, value in now.items()})
            print(
                f"{network:>16} {batch:>6} {now['plain']:>8.0f} {now['ours']:>8.0f} {now['matmuls']:>8.0f} "
                f"{now['bfloat16']:>10.0f}{now['ours'] / now['plain']:>23.2f} {now['ours'] / now['matmuls']:>15.2f}",
                flush=True,
            )
    print(json.dumps({"images_per_second": found, "environment": environment(device)}))


if __name__ == "__main__":
    main()
