"""Images to measure: one tensor, or a tuple of tensors (image and label, say) aligned along their first dimension.

The estimator slices it and never looks inside.
"""

import torch
from torch import Tensor

Data = Tensor | tuple[Tensor, ...]


def parts_of(x: Data) -> tuple[Tensor, ...]:
    return x if isinstance(x, tuple) else (x,)


def count(x: Data) -> int:
    """Number of images."""
    return len(parts_of(x)[0])


def select(x: Data, rows: Tensor | slice) -> Data:
    """Some of the images."""
    return tuple(part[rows] for part in x) if isinstance(x, tuple) else x[rows]


def device_of(x: Data) -> torch.device:
    return parts_of(x)[0].device


def like(x: Data) -> Tensor:
    """An empty tensor with the device of x and the floating-point type that z has: x's own, or PyTorch's default."""
    floating = [part for part in parts_of(x) if part.is_floating_point()]
    return torch.empty(0, dtype=floating[0].dtype if floating else None, device=device_of(x))
