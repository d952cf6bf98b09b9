"""Derivatives of the log-joint in z, all exact and all from one pass of tangents through the decoder.

The decoder is a chain of linear layers and of functions that act on each unit alone, with the observation model's
`link` at its end. Its Hessian then needs no second differentiation: linear layers have none, and a function φ of the
units a adds Σ_u g_u φ″(a_u) ∂a_u/∂z (∂a_u/∂z)ᵀ, with g the gradient of the log-density in φ(a). The tangents ∂a/∂z
are those that Gauss-Newton needs anyway, and g comes back through the layers once.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import grad

from pipeline.vae import VAE

Units = Float[Tensor, "#batch units"]
Tangents = Float[Tensor, "#batch latent units"]


class Curvature(NamedTuple):
    """Of log p(x, z) = log p(x | z) + log p(z) at the z of each image; float64 but for the value."""

    value: Float[Tensor, " batch"]
    gradient: Float[Tensor, "batch latent"]
    gauss_newton: Float[Tensor, "#batch latent latent"]  # I + JᵀFJ, J = ∂f/∂z, F the Fisher information in f
    hessian: Float[Tensor, "batch latent latent"]  # −∂² log p(x, z) / ∂z²


class Bend(NamedTuple):
    """A function of each unit, where it was passed: value, first and second derivative, and ∂a/∂z before it."""

    value: Units
    first: Units
    second: Units
    tangents: Tangents


def cost(vae: VAE) -> int:
    """Decoder evaluations of a curvature, each tangent counted as one: the value, the tangents, the way back."""
    return vae.latent + 2


@torch.no_grad()
def curvature(vae: VAE, x: Float[Tensor, "batch pixels"], z: Float[Tensor, "#batch latent"]) -> Curvature:
    """Value, gradient, generalised Gauss-Newton matrix and Hessian, of each image at its z or at one z for all."""
    first, *layers = vae.decoder.network
    assert isinstance(first, nn.Linear)
    units, tangents = first(z), first.weight.T.expand(len(z), -1, -1)
    passed: list[nn.Linear | Bend] = [first]
    for layer in layers:
        if isinstance(layer, nn.Linear):
            units, tangents = layer(units), tangents @ layer.weight.T
            passed.append(layer)
        else:
            bend = _bend(layer, units, tangents)
            units, tangents = bend.value, tangents * bend.first[:, None]
            passed.append(bend)
    p = vae.decoder.observation(units)
    link = _bend(vae.decoder.observation.link, units, tangents)

    eye = torch.eye(z.shape[-1], dtype=torch.float64, device=z.device)
    squared = link.first.square()
    gauss_newton = eye + _outer(tangents, p.fisher * squared)
    back = p.score(x)
    hessian = eye + _outer(tangents, p.information(x) * squared - back * link.second)
    back = back * link.first
    for layer in reversed(passed):
        if isinstance(layer, nn.Linear):
            back = back @ layer.weight
        else:
            hessian = hessian - _outer(layer.tangents, back * layer.second)
            back = back * layer.first
    return Curvature(p.log_prob(x) + vae.prior.log_prob(z), (back - z).double(), gauss_newton, hessian)


def _bend(function: nn.Module, units: Units, tangents: Tangents) -> Bend:
    """A function that acts on each unit alone: its derivatives are those of the sum over units."""

    def first(a: Units) -> Units:
        return grad(lambda a: function(a).sum())(a)

    def second(a: Units) -> tuple[Tensor, Units]:
        derivative = first(a)
        return derivative.sum(), derivative

    curved, slope = grad(second, has_aux=True)(units)
    return Bend(function(units), slope, curved, tangents)


def _outer(tangents: Tangents, weights: Units) -> Float[Tensor, "batch latent latent"]:
    """Σ_u weights_u ∂a_u/∂z (∂a_u/∂z)ᵀ, float64."""
    return ((tangents * weights[:, None]) @ tangents.mT).double()
