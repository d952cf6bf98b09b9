"""Tensors and their description in one safetensors file.

The format runs no code when it is read, as pickle would. Equal content gives equal bytes, and a digest shows damage.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.storage.files import atomic, reading


def save_tensors(path: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write tensors and description atomically, with a digest of both.

    Args:
        description: what `json.dumps` accepts.

    Raises:
        OSError: if the disk is full or the folder is not writable.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(description, sort_keys=True)
    # One metadata entry only: safetensors does not fix the order of several.
    header = {"description": json.dumps([_digest(contiguous, text), text])}
    with atomic(path) as temporary:
        try:
            save_file(contiguous, temporary, header)
        except SafetensorError as error:
            raise OSError(str(error)) from None


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors, onto the CPU, and their description.

    Raises:
        UserError: if the file is missing, damaged, or was not written by `save_tensors`.
    """
    with reading(path, SafetensorError, KeyError, ValueError, TypeError, OverflowError, RecursionError):
        with safe_open(path, framework="pt") as file:
            expected, text = json.loads((file.metadata() or {})["description"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if _digest(tensors, text) != expected:
            raise ValueError("its content does not match its digest")
        return tensors, json.loads(text)


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix/`, by the rest of their names."""
    return {name.removeprefix(f"{prefix}/"): value for name, value in tensors.items() if name.startswith(f"{prefix}/")}


def _digest(tensors: Mapping[str, Tensor], description: str) -> str:
    """SHA-256 of the description and of all names, types, shapes and values."""
    digest = hashlib.sha256(description.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
