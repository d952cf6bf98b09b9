"""Tensors and their description in one safetensors file: no pickle, the same bytes every time, damage is known."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.errors import UserError
from pipeline.files import atomic


def save(path: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write atomically, with a digest of the content.

    Raises:
        OSError: when the disk is full or the folder cannot be written.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(description, sort_keys=True)
    # One metadata entry, since the order of several is not fixed.
    header = {"description": json.dumps([_digest(contiguous, text), text])}
    with atomic(path) as temporary:
        try:
            save_file(contiguous, temporary, header)
        except SafetensorError as error:
            raise OSError(str(error)) from None


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors, on the CPU, and their description.

    Raises:
        UserError: when the file is missing, damaged or not one of ours.
    """
    try:
        with safe_open(path, framework="pt") as file:
            expected, text = json.loads((file.metadata() or {})["description"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if _digest(tensors, text) != expected:
            raise ValueError("its content is not what was written")
        return tensors, json.loads(text)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run `dvc repro` to make it") from None
    except (SafetensorError, KeyError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it and run `dvc repro` to make it again") from None


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries under `prefix/`, by the rest of their names."""
    return {name.removeprefix(f"{prefix}/"): value for name, value in tensors.items() if name.startswith(f"{prefix}/")}


def _digest(tensors: Mapping[str, Tensor], description: str) -> str:
    """SHA-256 over description, names, types, shapes and values."""
    digest = hashlib.sha256(description.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
