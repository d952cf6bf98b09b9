"""Training by stochastic gradient ascent on the ELBO: `fit` is a generator of epoch records."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from pipeline.bounds import Elbo, elbo
from pipeline.config import Train
from pipeline.errors import UserError
from pipeline.observations import dequantise
from pipeline.vae import VAE

OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


@dataclass(frozen=True)
class Epoch:
    """What an epoch came to: means over images, in nats an image."""

    epoch: int
    train_elbo: float
    train_reconstruction: float
    train_kl: float
    validation_elbo: float
    validation_reconstruction: float
    validation_kl: float
    learning_rate: float
    gradient_norm: float
    best: bool


def split(images: int, validation: float, seed: int) -> tuple[Int[Tensor, " train"], Int[Tensor, " held_out"]]:
    """Indices of the images to train on and of those held out, a random split that the seed fixes.

    Raises:
        UserError: if the fraction leaves either part empty.
    """
    held_out = round(images * validation)
    if not 0 < held_out < images:
        raise UserError(f"train.validation = {validation} of {images} images leaves one part of the split empty")
    order = torch.randperm(images, generator=torch.Generator().manual_seed(seed))
    return order[held_out:].sort().values, order[:held_out].sort().values


def fit(vae: VAE, images: UInt8[Tensor, "images pixels"], levels: int, settings: Train) -> Iterator[Epoch]:
    """Train `vae` in place and yield a record after each epoch; at the end it holds the best epoch's weights.

    Every epoch dequantises afresh. The validation images keep one dequantisation and one latent noise,
    so that their ELBO compares between epochs.

    Args:
        vae: the model, on the device to train on.
        images: the training images, on the same device; `settings.validation` of them are held out.
        levels: grey levels of the images, for dequantisation.
        settings: the section `train` of the parameters.

    Raises:
        UserError: when the ELBO is no longer finite.
    """
    device = images.device
    generator = torch.Generator(device).manual_seed(settings.seed)
    train_index, held_out_index = (index.to(device) for index in split(len(images), settings.validation, settings.seed))
    held_out = dequantise(images[held_out_index], levels, generator)
    held_out_noise = torch.randn(1, len(held_out), vae.latent, generator=generator, device=device)

    steps = math.ceil(len(train_index) / settings.batch_size)
    optimizer, schedule = _optimizer(vae, settings, steps * settings.epochs)
    best_elbo, best_weights = -math.inf, _copy_of_weights(vae)
    for epoch in range(1, settings.epochs + 1):
        vae.train()
        order = train_index[torch.randperm(len(train_index), generator=generator, device=device)]
        sums, norms = torch.zeros(2, device=device), torch.zeros((), device=device)
        for batch in order.split(settings.batch_size):
            x = dequantise(images[batch], levels, generator)
            noise = torch.randn(1, len(x), vae.latent, generator=generator, device=device)
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
                terms = elbo(vae, x, noise)
            (-terms.value.mean()).backward()
            norms += nn.utils.clip_grad_norm_(vae.parameters(), settings.clip_norm)
            optimizer.step()
            schedule.step()
            sums += torch.stack([terms.reconstruction.detach().sum(), terms.kl.detach().sum()])
        train = Elbo(*(sums / len(order)).cpu())
        validation = _mean_elbo(vae, held_out, held_out_noise, settings.batch_size)
        value = float(validation.value)
        if not math.isfinite(value) or not math.isfinite(float(train.value)):
            raise UserError(
                f"epoch {epoch}: the ELBO is no longer finite (training {float(train.value)}, validation {value}); "
                "try a smaller train.learning_rate or train.clip_norm, or a larger model.sigma"
            )
        if best := value > best_elbo:
            best_elbo, best_weights = value, _copy_of_weights(vae)
        yield Epoch(
            epoch=epoch,
            train_elbo=float(train.value),
            train_reconstruction=float(train.reconstruction),
            train_kl=float(train.kl),
            validation_elbo=value,
            validation_reconstruction=float(validation.reconstruction),
            validation_kl=float(validation.kl),
            learning_rate=optimizer.param_groups[0]["lr"],
            gradient_norm=float(norms) / steps,
            best=best,
        )
    vae.load_state_dict(best_weights)
    vae.eval()


def learning_rate_factor(step: int, steps: int, warmup: float, final: float) -> float:
    """The learning rate as a fraction of its peak: linear warm-up, then cosine decay to `final`."""
    rise = warmup * steps
    if step < rise:
        return (step + 1) / (rise + 1)
    progress = (step - rise) / max(1.0, steps - rise)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _optimizer(vae: VAE, settings: Train, steps: int) -> tuple[Optimizer, LambdaLR]:
    options: dict[str, Any] = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay, "fused": True}
    optimizer = OPTIMIZERS[settings.optimizer](vae.parameters(), **options)
    schedule = LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, steps, settings.warmup, settings.final_learning_rate)
    )
    return optimizer, schedule


def _copy_of_weights(vae: VAE) -> dict[str, Tensor]:
    return copy.deepcopy(vae.state_dict())


@torch.inference_mode()
def _mean_elbo(
    vae: VAE, x: Float[Tensor, "images pixels"], noise: Float[Tensor, "samples images latent"], batch_size: int
) -> Elbo:
    """The ELBO's terms averaged over all images, evaluated in batches; float32 whatever the precision."""
    vae.eval()
    parts = [elbo(vae, xs, ns) for xs, ns in zip(x.split(batch_size), noise.split(batch_size, dim=1), strict=True)]
    return Elbo(*(torch.cat([p[term] for p in parts]).cpu().double().mean() for term in range(2)))
