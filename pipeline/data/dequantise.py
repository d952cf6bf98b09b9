"""Dequantisation: uniform noise turns discrete pixels into continuous ones, which have a density on [0, 1]."""

import math

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def dequantise(
    images: UInt8[Tensor, "*batch pixels"], levels: int, generator: torch.Generator
) -> Float[Tensor, "*batch pixels"]:
    """x = (v + u) / levels with u ~ U[0, 1) for each pixel (Uria et al. 2013).

    Args:
        images: pixel values v in 0 .. levels − 1.
        levels: number of grey levels, 256 for bytes.
        generator: source of u, on the images' device. u has 16 bits, since float32 can hold no more beside a byte.
    """
    words = torch.empty(math.ceil(images.numel() / 4), dtype=torch.int64, device=images.device)
    bits = words.random_(-(2**63), None, generator=generator).view(torch.int16)[: images.numel()]
    # Exact: v + u − ½ fits the 24 bits of float32.
    centred = images.float().add_(bits.view_as(images), alpha=2.0**-16)
    return torch.add(torch.full((), 0.5 / levels, device=images.device), centred, alpha=1 / levels)
