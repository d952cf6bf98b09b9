"""Networks of this project in a model of pythae (Chadebec et al. 2022), for the benchmarks that compare with it.

pythae is not a dependency of this project; `uv pip install pythae` adds it.
"""

import contextlib
import io
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from logpx.observations.gaussian import Gaussian
from pipeline.config import Params, Train
from pipeline.model.vae import VAE


def usable(params: Params) -> bool:
    """Whether pythae is installed, and its VAE and its trainer can do the same as a training with these settings."""
    return find_spec("pythae") is not None and has(params)


def has(params: Params) -> bool:
    """Whether pythae has this model: Gaussian pixels with a fixed σ, prior N(0, I), no labels, float32."""
    model, train = params.model, params.train
    kind = model.observation, model.prior, model.condition, train.precision, train.samples
    return kind == ("gaussian", "normal", "none", "float32", 1) and isinstance(model.sigma, float)


class Scale(nn.Module):
    """x times a number."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def wrap(encoder: nn.Module, decoder: nn.Module, pixels: int, latent: int) -> Any:
    """Pythae's `VAE` with these networks, which it shares.

    Args:
        encoder: from x to μ and log s of each image.
        decoder: from z to the pixels' means.
    """
    from pythae import models  # pyright: ignore[reportMissingImports]
    from pythae.models.base.base_utils import ModelOutput  # pyright: ignore[reportMissingImports]
    from pythae.models.nn import BaseDecoder, BaseEncoder  # pyright: ignore[reportMissingImports]

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = encoder

        def forward(self, x: Tensor) -> Any:
            mu, log_s = self.network(x).chunk(2, dim=-1)
            return ModelOutput(embedding=mu, log_covariance=2 * log_s)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = decoder

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.network(z))

    return models.VAE(models.VAEConfig(input_dim=(pixels,), latent_dim=latent), Encoder(), Decoder())


def shared_model(vae: VAE) -> Any:
    """Pythae's VAE with the networks of ours, for images divided by σ.

    Its loss is that of σ = 1. So it gets x / σ and a network that gives f(z) / σ: then the loss is −ELBO but for a
    constant.
    """
    sigma = sigma_of(vae)
    encoder = nn.Sequential(Scale(sigma), vae.encoder.network)
    decoder = nn.Sequential(vae.decoder.network, vae.decoder.link, Scale(1 / sigma))
    return wrap(encoder, decoder, vae.images.pixels, vae.latent)


def sigma_of(vae: VAE) -> float:
    observation = vae.decoder.observation
    assert isinstance(observation, Gaussian)
    return float(observation.sigma)


def training(vae: VAE, images: Tensor, settings: Train) -> Iterator[None]:
    """Train `vae` with pythae's trainer, Adam at a constant learning rate; yield after each epoch.

    The images are dequantised once. It ends early if the loss is NaN.
    """
    generator = torch.Generator(images.device).manual_seed(settings.seed)
    x = vae.images.read(images, generator).cpu() / sigma_of(vae)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        # Imported here, since its log goes to the stderr of the moment of the import.
        from pythae.data.datasets import BaseDataset  # pyright: ignore[reportMissingImports]
        from pythae.trainers import BaseTrainer, BaseTrainerConfig  # pyright: ignore[reportMissingImports]

        config = BaseTrainerConfig(
            output_dir=folder, per_device_train_batch_size=settings.batch_size, num_epochs=settings.epochs,
            learning_rate=settings.learning_rate, seed=settings.seed, no_cuda=images.device.type == "cpu",
        )  # fmt: skip
        trainer = BaseTrainer(shared_model(vae), BaseDataset(x, torch.zeros(len(x))), training_config=config)
        trainer.prepare_training()
    for epoch in range(1, settings.epochs + 1):
        with contextlib.redirect_stderr(io.StringIO()):  # progress bars
            try:
                trainer.train_step(epoch)
            except ArithmeticError:
                return
            trainer.callback_handler.on_epoch_end(training_config=config)
        yield
