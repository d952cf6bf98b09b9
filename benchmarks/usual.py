"""The usual training loop, over the layers of this project's models."""

from collections.abc import Callable

import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.training import Pictures
from pipeline.config import Train
from pipeline.model.objectives import draw
from pipeline.model.vae import VAE


def usual_epoch(
    vae: VAE, images: UInt8[Tensor, "images pixels"], labels: Int[Tensor, " images"], settings: Train
) -> Callable[[], None]:
    """An epoch of torchvision's MNIST, ToTensor, a shuffling DataLoader, PyTorch's default memory layout, Adam at a
    constant learning rate, and `loss.item()` at each step. It ignores the other settings of the optimiser.

    Args:
        vae: on the device to train on; it is changed in place.
    """
    device, seen = vae.prior.zero.device, vae.images
    vae.to(memory_format=torch.contiguous_format)
    optimiser = torch.optim.Adam(vae.parameters(), lr=settings.learning_rate)
    generator = torch.Generator(device).manual_seed(settings.seed)
    order = torch.Generator().manual_seed(settings.seed)
    pictures = Pictures(images.unflatten(1, seen.shape).cpu(), labels.cpu())
    loader = DataLoader(pictures, settings.batch_size, shuffle=True, generator=order)

    def epoch() -> None:
        vae.train()
        total = 0.0
        for batch, y in loader:
            optimiser.zero_grad()
            x = seen.read((batch * 255).round().byte().flatten(1).to(device), generator)
            noise = torch.randn(settings.samples, len(x), vae.latent, generator=generator, device=device)
            with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
                elbo = draw(vae, x, noise, y.to(device)).elbo.value.mean()
            (-elbo).backward()
            total += elbo.item()
            optimiser.step()

    return epoch
