"""A normalising flow: an invertible network between noise ε ~ N(0, I) and z (Dinh et al. 2017, Real NVP)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.model.labels import Labels, with_label
from pipeline.model.mlp import layers

HIDDEN = (64, 64)  # units of each coupling's network
ACTIVATION = "silu"  # smooth: the estimator of log p(x) needs second derivatives
MOST = 2.0  # of a coupling's log-scale, so that no chain of them overflows

Vectors = Float[Tensor, "*batch latent"]


class Coupling(nn.Module):
    """ε_b = z_b · exp(s(z_a, y)) + t(z_a, y), where a and b are the two halves of the coordinates; equation 7.

    It is the identity at first.

    Args:
        given: coordinates in a.
        moved: coordinates in b.
    """

    def __init__(self, given: int, moved: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.network = layers([given + classes, *HIDDEN, 2 * moved], ACTIVATION)
        last = self.network[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, given: Vectors, y: Labels) -> tuple[Tensor, Tensor]:
        """Log-scale s and shift t, each (*batch, moved)."""
        log_scale, shift = self.network(with_label(given, y, self.classes)).chunk(2, -1)
        return MOST * (log_scale / MOST).tanh(), shift


class Flow(nn.Module):
    """A chain of couplings; from one to the next, the two halves of the coordinates change their roles.

    Args:
        latent: coordinates of z, at least 2.
        couplings: their number.
        classes: number of classes that the flow depends on; 0 if it depends on none.
    """

    def __init__(self, latent: int, couplings: int, classes: int) -> None:
        super().__init__()
        self.halves = latent // 2, latent - latent // 2
        sizes = [self.halves if number % 2 == 0 else self.halves[::-1] for number in range(couplings)]
        self.couplings = nn.ModuleList(Coupling(given, moved, classes) for given, moved in sizes)

    def to_noise(self, z: Vectors, y: Labels) -> tuple[Vectors, Float[Tensor, "*batch"]]:
        """ε = g⁻¹(z), and log |det ∂ε/∂z|, the sum of all log-scales."""
        given, moved = z.split(self.halves, -1)
        log_determinant = torch.zeros_like(z[..., 0])
        for coupling in self.couplings:
            log_scale, shift = coupling(given, y)
            given, moved = moved * log_scale.exp() + shift, given
            log_determinant = log_determinant + log_scale.sum(-1)
        return torch.cat(self._in_order(given, moved), -1), log_determinant

    def from_noise(self, noise: Vectors, y: Labels) -> Vectors:
        """z = g(ε)."""
        given, moved = self._in_order(*noise.split(self.halves, -1))
        for coupling in reversed(self.couplings):
            given, moved = moved, given
            log_scale, shift = coupling(given, y)
            moved = (moved - shift) * (-log_scale).exp()
        return torch.cat([given, moved], -1)

    def _in_order(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """The halves, exchanged if an odd number of couplings has exchanged them."""
        return (first, second) if len(self.couplings) % 2 == 0 else (second, first)
