"""A trained model as the stages after training use it: on its device, ready to evaluate, with its identity."""

from pathlib import Path
from typing import NamedTuple

import torch

from pipeline import checkpoint
from pipeline.checkpoint import Description
from pipeline.files import sha256
from pipeline.vae import VAE


class Trained(NamedTuple):
    """The model of a file; the file's digest is its identity."""

    vae: VAE
    description: Description
    sha256: str

    @property
    def data(self) -> tuple[str, str]:
        """Name and digest of the data that it was trained on."""
        return self.description.dataset, self.description.data_sha256


def load(path: Path, device: torch.device) -> Trained:
    """Build the model that the file describes, with its weights.

    Raises:
        UserError: when the file is missing, damaged or not a model of this project.
    """
    weights, description = checkpoint.load(path)
    vae = VAE(description.model, description.height * description.width)
    checkpoint.restore(vae, weights, path)
    return Trained(vae.to(device), description, sha256(path))
