"""The trained model for the explorer: its weights in half precision, and what its JavaScript needs to run them."""

import base64
import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from logpx.observations.gaussian import Gaussian
from pipeline.config import Model
from pipeline.model.labels import Labels
from pipeline.model.vae import VAE

MOST_BYTES = 8_000_000  # of the page
OTHER_BYTES = 1_000_000  # at least as much as the page needs besides the weights: images, histograms and scripts


def obstacle(vae: VAE, settings: Model) -> str | None:
    """The reason why the model cannot run in the page; None if it can."""
    if settings.network != "mlp":
        return (
            f"This model has the network “{settings.network}”. The page runs fully connected networks only "
            "(model.network: mlp)."
        )
    if vae.images.channels > 1:
        return "This model is one of colour images. The page draws grey images only."
    largest = MOST_BYTES - OTHER_BYTES
    size = 4 * -(-_weights(vae).numel() * 2 // 3)  # base64 writes three bytes as four characters
    if size > largest:
        return (
            f"This model is too large for the page: its weights take {size / 1e6:.1f} MB in half precision, and the "
            f"page has room for {largest / 1e6:.0f} MB. Smaller layers (model.encoder, model.decoder) or an "
            "observation model with fewer outputs per pixel would fit."
        )
    if not _weights(vae).half().isfinite().all():
        return "This model has weights that are not finite, or that half precision cannot represent."
    return None


def describe(vae: VAE, settings: Model) -> dict[str, Any]:
    """What `load` of `explorer_model.js` takes: sizes, options, and all weights as float16 in base64."""
    observation = vae.decoder.observation
    sizes = {name: _sizes(part) for name, part in (("encoder", vae.encoder), ("decoder", vae.decoder))}
    return {
        "latent": vae.latent,
        "pixels": vae.images.pixels,
        "levels": vae.images.levels,
        "classes": vae.classes,
        "activation": settings.activation,
        "observation": settings.observation,
        "discrete": observation.discrete,
        "sigma": float(observation.sigma) if isinstance(observation, Gaussian) else None,
        "components": settings.components,
        **sizes,
        "couplings": [_sizes(coupling) for coupling in _couplings(vae)],
        "weights": base64.b64encode(_weights(vae).half().numpy().astype("<f2").tobytes()).decode(),
    }


def rounded(vae: VAE) -> VAE:
    """A copy of the model with the weights of the page."""
    same = copy.deepcopy(vae)
    with torch.no_grad():
        for layer in _layers(same):
            for parameter in layer.parameters():
                parameter.copy_(parameter.half())
    return same


@torch.no_grad()
def rounding_cost(vae: VAE, x: Float[Tensor, "images pixels"], y: Labels) -> float:
    """The largest change of a pixel's mean of p(x | z) that half precision causes, at z = μ(x) of these images."""
    same = rounded(vae)
    means = [model.decoder(model.encode(x, y)[0], y).mean for model in (vae, same)]
    return float((means[0] - means[1]).abs().max())


def _couplings(vae: VAE) -> list[nn.Module]:
    return [] if vae.prior.flow is None else list(vae.prior.flow.couplings)


def _linear(module: nn.Module) -> list[nn.Linear]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]


def _layers(vae: VAE) -> list[nn.Linear]:
    """All layers, in the order in which the page reads them."""
    return [layer for part in (vae.encoder, vae.decoder, *_couplings(vae)) for layer in _linear(part)]


def _sizes(module: nn.Module) -> list[tuple[int, int]]:
    """Outputs and inputs of each layer."""
    return [(layer.out_features, layer.in_features) for layer in _linear(module)]


def _weights(vae: VAE) -> Float[Tensor, " weights"]:
    """Weights and biases of all layers in one vector."""
    parts = [part.detach().cpu().float().flatten() for layer in _layers(vae) for part in (layer.weight, layer.bias)]
    return torch.cat(parts)
