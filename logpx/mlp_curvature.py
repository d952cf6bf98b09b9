"""Exact derivatives of the log-joint in z for decoders that are chains of linear layers, from one pass of tangents.

The decoder is a chain of linear layers and elementwise functions, under N(0, I), with an observation model that has one
parameter per pixel. Its Hessian then needs no second differentiation of the network: linear layers have none, and a
function φ of the units a contributes Σ_u g_u φ″(a_u) ∂a_u/∂z (∂a_u/∂z)ᵀ, where g is the gradient of the log-density in
φ(a). Gauss-Newton needs the tangents ∂a/∂z anyway, and one pass of the adjoint g back through the layers gives the
rest.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import grad

from logpx.data import Data
from logpx.model import Decoder, Model
from logpx.observations.bernoulli import Bernoulli
from logpx.observations.gaussian import Gaussian

Units = Float[Tensor, "#batch units"]
Tangents = Float[Tensor, "#batch latent units"]

ELEMENTWISE = (nn.ELU, nn.GELU, nn.Identity, nn.ReLU, nn.Sigmoid, nn.SiLU, nn.Softplus, nn.Tanh)
# One parameter per pixel, and the information in it does not depend on x: it is the Fisher information.
CANONICAL = (Gaussian, Bernoulli)


class Chain(NamedTuple):
    """Linear layers and elementwise functions, the first of them linear, and the observation model."""

    layers: tuple[nn.Module, ...]
    model: Decoder


class ElementwiseLayer(NamedTuple):
    """An elementwise function φ at its input a: φ(a), φ′(a), φ″(a), and the tangents ∂a/∂z."""

    value: Units
    d1: Units
    d2: Units
    tangents: Tangents


def chain(model: Model) -> Chain | None:
    """The model as such a chain, or None if it is none."""
    if not (isinstance(model, Decoder) and model.prior is None and isinstance(model.observation, CANONICAL)):
        return None
    layers = _flat(model.decode) if isinstance(model.decode, nn.Module) else []
    if not (
        layers and isinstance(layers[0], nn.Linear) and all(isinstance(m, (nn.Linear, *ELEMENTWISE)) for m in layers)
    ):
        return None
    return Chain(tuple(layers), model)


def _flat(module: nn.Module) -> list[nn.Module]:
    return [each for part in module for each in _flat(part)] if isinstance(module, nn.Sequential) else [module]


@torch.no_grad()
def curvature(chain: Chain, x: Data, z: Float[Tensor, "#batch latent"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Value, gradient, Gauss-Newton matrix and Hessian of each image, at its z or at one z for all.

    The Gauss-Newton matrix is I + JᵀFJ, J = ∂f/∂z, F the Fisher information in the observation model's parameter f.
    """
    assert isinstance(x, Tensor)
    # 1. Forward: units and their tangents, layer by layer.
    first, *layers = chain.layers
    assert isinstance(first, nn.Linear)
    units, tangents = first(z), first.weight.T.expand(len(z), -1, -1)
    passed: list[nn.Linear | ElementwiseLayer] = [first]
    for layer in layers:
        if isinstance(layer, nn.Linear):
            units, tangents = layer(units), tangents @ layer.weight.T
            passed.append(layer)
        else:
            elementwise = ElementwiseLayer(*_derivatives(layer, units), tangents)
            units, tangents = elementwise.value, tangents * elementwise.d1[:, None]
            passed.append(elementwise)

    # 2. At the output: the observation model.
    images = x.flatten(1)
    value, adjoint, second = _derivatives(
        lambda f: chain.model.observation.log_prob(images, f), units.expand_as(images)
    )
    eye = torch.eye(z.shape[-1], dtype=torch.float64, device=z.device)
    gauss_newton = eye + _outer(tangents, -second)
    hessian = gauss_newton

    # 3. Backward: the adjoint, and what each elementwise layer adds to the Hessian.
    for layer in reversed(passed):
        if isinstance(layer, nn.Linear):
            adjoint = adjoint @ layer.weight
        else:
            hessian = hessian - _outer(layer.tangents, adjoint * layer.d2)
            adjoint = adjoint * layer.d1
    return value + chain.model.log_prior(z), (adjoint - z).double(), gauss_newton, hessian


def _derivatives(function: Callable[[Tensor], Tensor], units: Units) -> tuple[Tensor, Units, Units]:
    """Value, first and second derivative; each result depends on its own input alone, or is a sum of such results."""

    def first(a: Units) -> tuple[Units, Tensor]:
        def total(a: Units) -> tuple[Tensor, Tensor]:
            value = function(a)
            return value.sum(), value

        return grad(total, has_aux=True)(a)

    def second(a: Units) -> tuple[Tensor, tuple[Tensor, Units]]:
        d1, value = first(a)
        return d1.sum(), (value, d1)

    d2, (value, d1) = grad(second, has_aux=True)(units)
    return value, d1, d2


def _outer(tangents: Tangents, weights: Units) -> Float[Tensor, "batch latent latent"]:
    """Σ_u weights_u ∂a_u/∂z (∂a_u/∂z)ᵀ, float64."""
    return ((tangents * weights[:, None]) @ tangents.mT).double()
