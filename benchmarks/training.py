"""`python -m benchmarks.training`: training images a second, ours beside the usual loop and the matrix products alone.

Same architecture, batch size, precision and images; the three take turns, and medians count. The usual loop is that
of the textbook examples: a Dataset of pictures, ToTensor, a DataLoader, `loss.item()` at each step. The matrix products
are those that a step cannot do without, forward and backward, at the same sizes, into buffers that are there already.
Ends with one JSON line.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import ToTensor

from pipeline import config, datasets, runtime
from pipeline.training import fit
from pipeline.vae import ACTIVATIONS, VAE

ROOT = Path(__file__).parents[1]


class Pictures(Dataset[Tensor]):
    """As torchvision's MNIST gives them: a picture from an array, and ToTensor."""

    def __init__(self, images: Tensor) -> None:
        self.images, self.transform = images, ToTensor()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(Image.fromarray(self.images[index].numpy()))


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


def plain(images: Tensor, model: config.Model, batch: int) -> Callable[[], float]:
    """Images a second of one epoch of the usual loop."""
    network = Plain(model, images[0].numel())
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    loader = DataLoader(Pictures(images), batch_size=batch, shuffle=True)

    def epoch() -> float:
        start, total = time.perf_counter(), 0.0
        for x in loader:
            optimiser.zero_grad()
            loss = network.loss(x.flatten(1))
            loss.backward()
            total += loss.item()
            optimiser.step()
        return len(images) / (time.perf_counter() - start)

    return epoch


def ours(images: Tensor, levels: int, model: config.Model, train: config.Train, batch: int) -> Callable[[], float]:
    """Images a second of one epoch of `fit`, the validation included."""
    settings = train.model_copy(update={"batch_size": batch, "epochs": 10**6, "validation": 1 / len(images)})
    epochs = fit(VAE(model, images[0].numel()), images.flatten(1), levels, settings)
    next(epochs)

    def epoch() -> float:
        start = time.perf_counter()
        next(epochs)
        return len(images) / (time.perf_counter() - start)

    return epoch


def products(images: Tensor, model: config.Model, batch: int) -> Callable[[], float]:
    """Images a second of the products alone: y = x Wᵀ, ∂W = ∂yᵀ x, ∂x = ∂y W (not for the first layer)."""
    pixels = images[0].numel()
    layers = [*pairwise([pixels, *model.encoder, 2 * model.latent]), *pairwise([model.latent, *model.decoder, pixels])]
    tensors = [
        (torch.randn(batch, i), torch.randn(o, i), torch.randn(batch, o), torch.empty(batch, i), torch.empty(o, i))
        for i, o in layers
    ]

    def epoch() -> float:
        start = time.perf_counter()
        for _ in range(len(images) // batch):
            for number, (x, weight, y, dx, dweight) in enumerate(tensors):
                torch.mm(x, weight.T, out=y)
                torch.mm(y.T, x, out=dweight)
                if number:
                    torch.mm(y, weight, out=dx)
        return len(images) // batch * batch / (time.perf_counter() - start)

    return epoch


def measure(dataset: datasets.Dataset, params: config.Params, batch: int, rounds: int, images: int) -> dict[str, float]:
    """Medians of images a second, over rounds in which each has its turn."""
    some = dataset.train_images[:images]
    contenders = {
        "plain": plain(some, params.model, batch),
        "ours": ours(some, dataset.levels, params.model, params.train, batch),
        "products": products(some, params.model, batch),
    }
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, epoch in contenders.items():
            rates[name].append(epoch())
    return {name: statistics.median(values) for name, values in rates.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "data/images.safetensors")
    parser.add_argument("--batch", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=20_000)
    options = parser.parse_args()
    params = config.load(ROOT / "params.yaml")
    runtime.start(params.runtime.model_copy(update={"device": "cpu"}), 0)
    dataset = datasets.load(options.data)
    found = {}
    print(f"{'batch':>6} {'plain':>10} {'ours':>10} {'products':>10}   images/s   ours/plain   ours/products")
    for batch in options.batch:
        rate = found[batch] = measure(dataset, params, batch, options.rounds, options.images)
        print(
            f"{batch:>6} {rate['plain']:>10.0f} {rate['ours']:>10.0f} {rate['products']:>10.0f}"
            f"{rate['ours'] / rate['plain']:>23.2f} {rate['ours'] / rate['products']:>15.2f}",
            flush=True,
        )
    environment = runtime.environment(torch.device("cpu"))
    rates = {str(batch): {name: round(value) for name, value in rate.items()} for batch, rate in found.items()}
    print(json.dumps({"images_per_second": rates, "environment": environment}))


if __name__ == "__main__":
    main()
