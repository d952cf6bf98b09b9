"""Derivatives of the log-joint in z, for any model, by automatic differentiation; batched over images.

A `Decoder` whose network is a chain of linear layers and elementwise functions takes the closed form of
`mlp_curvature`; every other model takes `torch.func`. Both give the same numbers.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad_and_value, jacrev, vmap

from logpx import mlp_curvature
from logpx.data import Data, parts_of
from logpx.model import Model, log_joint

FLOOR = 1e-6  # least eigenvalue of the surrogate, relative to the largest


class Curvature(NamedTuple):
    """Derivatives of log p(x, z) = log p(x | z) + log p(z) at the z of each image; float64 except the value."""

    value: Float[Tensor, " batch"]
    gradient: Float[Tensor, "batch latent"]
    surrogate: Float[Tensor, "batch latent latent"]  # positive definite: Gauss-Newton, or |Hessian|
    hessian: Float[Tensor, "batch latent latent"]  # −∂² log p(x, z) / ∂z²


class Derivatives(NamedTuple):
    """How a model's derivatives are computed.

    `at(x, z)` gives the `Curvature` of each image at its z. `cost` is its number of decoder evaluations per image; a
    tangent or a gradient counts as one.
    """

    at: Callable[[Data, Tensor], Curvature]
    cost: int


def derivatives(model: Model, latent: int) -> Derivatives:
    """The closed form if the model has one, else automatic differentiation."""
    chain = mlp_curvature.chain(model)
    if chain is not None:
        return Derivatives(lambda x, z: Curvature(*mlp_curvature.curvature(chain, x, z)), latent + 2)
    # A value, a gradient, and the gradient of each of its coordinates, which passes both again.
    return Derivatives(lambda x, z: automatic(model, x, z), 2 + 2 * latent)


@torch.no_grad()
def automatic(model: Model, x: Data, z: Float[Tensor, "batch latent"]) -> Curvature:
    """Value and gradient by one backward pass, the Hessian by a backward pass of the gradient per coordinate.

    Raises:
        ValueError: if the model does something that `torch.func` cannot follow.
    """

    def gradient_and_value(z: Tensor, *parts: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        one = tuple(part[None] for part in parts)
        gradient, value = grad_and_value(
            lambda z: log_joint(model, one if isinstance(x, tuple) else one[0], z[None])[0]
        )(z)
        return gradient, (gradient, value)

    try:
        found: Any = vmap(jacrev(gradient_and_value, has_aux=True))(z, *parts_of(x))
    except RuntimeError as error:
        raise ValueError(
            "the model's derivatives cannot be computed: torch.func does not follow operations in place, branches that "
            "depend on z, .item(), or batch normalisation in training mode. PyTorch says: " + str(error).split("\n")[0]
        ) from error
    hessian, (gradient, value) = found
    hessian = -0.5 * (hessian + hessian.mT).double()
    return Curvature(value, gradient.double(), absolute(hessian), hessian)


def absolute(hessian: Float[Tensor, "batch latent latent"]) -> Float[Tensor, "batch latent latent"]:
    """|H|: the Hessian with the absolute values of its eigenvalues. Steps by it lead away from saddle points.

    Dauphin et al. 2014, "Identifying and attacking the saddle point problem".
    """
    # Where float32 overflows nothing is known: no curvature.
    eigenvalues, vectors = torch.linalg.eigh(hessian.nan_to_num(0, 0, 0))
    size = eigenvalues.abs()
    size = size.clamp(min=FLOOR * size.amax(-1, keepdim=True).clamp(min=1))
    return (vectors * size[:, None]) @ vectors.mT
