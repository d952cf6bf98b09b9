"""The cells of dequantised pixels: level v of `levels` has the cell [v, v + 1) / levels of [0, 1].

A discrete observation model gives each level a probability P(v). A model of dequantised images receives
x = (v + u) / levels with u ~ U[0, 1). The log-density of x is then log P(v) + log levels (Theis et al. 2016, section
3.1): constant in each cell, and comparable with the density of a continuous model.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

NOISE_BITS = 12  # of u in samples


def grey_levels(x: Float[Tensor, "*batch pixels"], levels: int) -> Int[Tensor, "*batch pixels"]:
    """v = ⌊levels · x⌋ of dequantised pixels x = (v + u) / levels in [0, 1].

    Exact in float32 for all x of a cell if `levels` is a power of two or 17. For other numbers of levels an x within
    2e-7 of an edge, 1 in 10 000 at most, may count for the neighbouring cell.
    """
    return (x * levels).floor().clamp(0, levels - 1).long()


def uniform_in_cells(
    v: Float[Tensor, "*batch pixels"], levels: int, generator: torch.Generator | None
) -> Float[Tensor, "*batch pixels"]:
    """x = (v + u) / levels, u uniform on the midpoints of 2¹² parts of [0, 1], with the dtype of v.

    No u is so close to 0 or 1 that rounding could move x into another cell.
    """
    u = torch.rand(v.shape, generator=generator, dtype=v.dtype, device=v.device)
    return (v + ((u * 2**NOISE_BITS).floor() + 0.5) / 2**NOISE_BITS) / levels
