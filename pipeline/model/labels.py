"""Labels as an input of networks: a model with `condition: label` depends on the class y of each image."""

import torch
from jaxtyping import Float, Integer
from torch import Tensor

Labels = Integer[Tensor, "*labels"] | None  # None where a model has no classes


def one_hot(y: Labels, classes: int) -> Float[Tensor, "*labels {classes}"]:
    """1 at the label of each image, else 0.

    Raises:
        ValueError: if there are no labels.
    """
    if y is None:
        raise ValueError(f"this model is conditional: it needs the label of each image, one of {classes}")
    # A comparison, because PyTorch's one_hot reads the labels on the host, which a CUDA graph does not allow.
    return (y.unsqueeze(-1) == torch.arange(classes, device=y.device)).float()


def with_label(values: Float[Tensor, "*values dim"], y: Labels, classes: int) -> Float[Tensor, "*values inputs"]:
    """Vectors with the one-hot label of their image appended, or as they are if there are no classes.

    Args:
        values: (*samples, *batch, dim) for labels (*batch).
    """
    if classes == 0:
        return values
    label = one_hot(y, classes).to(values)
    return torch.cat([values, label.expand(*values.shape[:-1], classes)], -1)
