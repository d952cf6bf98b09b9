"""Exact derivatives of the log-joint in z for decoders that are chains of linear layers, from one pass of tangents.

The decoder is a chain of linear layers and elementwise functions, with the observation model's `link` at its end. Its
Hessian then needs no second differentiation: linear layers have none, and a function φ of the units a contributes
Σ_u g_u φ″(a_u) ∂a_u/∂z (∂a_u/∂z)ᵀ, where g is the gradient of the log-density in φ(a). Gauss-Newton needs the
tangents ∂a/∂z anyway, and one pass of the adjoint g back through the layers gives the rest.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import grad

from logpx.model import Model

Units = Float[Tensor, "#batch units"]
Tangents = Float[Tensor, "#batch latent units"]


class Curvature(NamedTuple):
    """Derivatives of log p(x, z) = log p(x | z) + log p(z) at the z of each image; float64 except the value."""

    value: Float[Tensor, " batch"]
    gradient: Float[Tensor, "batch latent"]
    gauss_newton: Float[Tensor, "#batch latent latent"]  # I + JᵀFJ, J = ∂f/∂z, F the Fisher information in f
    hessian: Float[Tensor, "batch latent latent"]  # −∂² log p(x, z) / ∂z²


class ElementwiseLayer(NamedTuple):
    """An elementwise function φ at its input a: φ(a), φ′(a), φ″(a), and the tangents ∂a/∂z."""

    value: Units
    d1: Units
    d2: Units
    tangents: Tangents


def cost(model: Model) -> int:
    """Decoder evaluations of one `curvature`: the value, one per tangent, and the adjoint."""
    return model.latent + 2


@torch.no_grad()
def curvature(model: Model, x: Float[Tensor, "batch pixels"], z: Float[Tensor, "#batch latent"]) -> Curvature:
    """Value, gradient, generalised Gauss-Newton matrix and Hessian of each image, at its z or at one z for all."""
    # 1. Forward: units and their tangents, layer by layer.
    first, *layers = model.decoder.network
    assert isinstance(first, nn.Linear)
    units, tangents = first(z), first.weight.T.expand(len(z), -1, -1)
    passed: list[nn.Linear | ElementwiseLayer] = [first]
    for layer in layers:
        if isinstance(layer, nn.Linear):
            units, tangents = layer(units), tangents @ layer.weight.T
            passed.append(layer)
        else:
            elementwise = _elementwise(layer, units, tangents)
            units, tangents = elementwise.value, tangents * elementwise.d1[:, None]
            passed.append(elementwise)
    p = model.decoder.observation(units)
    link = _elementwise(model.decoder.observation.link, units, tangents)

    # 2. At the output: Gauss-Newton, and what the observation model adds to the Hessian.
    eye = torch.eye(z.shape[-1], dtype=torch.float64, device=z.device)
    squared = link.d1.square()
    gauss_newton = eye + _outer(tangents, p.fisher * squared)
    adjoint = p.score(x)
    hessian = eye + _outer(tangents, p.information(x) * squared - adjoint * link.d2)
    adjoint = adjoint * link.d1

    # 3. Backward: the adjoint, and what each elementwise layer adds to the Hessian.
    for layer in reversed(passed):
        if isinstance(layer, nn.Linear):
            adjoint = adjoint @ layer.weight
        else:
            hessian = hessian - _outer(layer.tangents, adjoint * layer.d2)
            adjoint = adjoint * layer.d1
    return Curvature(p.log_prob(x) + model.prior.log_prob(z), (adjoint - z).double(), gauss_newton, hessian)


def _elementwise(function: nn.Module, units: Units, tangents: Tangents) -> ElementwiseLayer:
    """Each unit is a function of its own input alone, so its derivatives are those of the sum over units."""

    def first(a: Units) -> Units:
        return grad(lambda a: function(a).sum())(a)

    def second(a: Units) -> tuple[Tensor, Units]:
        derivative = first(a)
        return derivative.sum(), derivative

    d2, d1 = grad(second, has_aux=True)(units)
    return ElementwiseLayer(function(units), d1, d2, tangents)


def _outer(tangents: Tangents, weights: Units) -> Float[Tensor, "batch latent latent"]:
    """Σ_u weights_u ∂a_u/∂z (∂a_u/∂z)ᵀ, float64."""
    return ((tangents * weights[:, None]) @ tangents.mT).double()
