"""A model with random weights, and made-up measurements of its test images, for the explorer."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.data.dataset import Dataset
from pipeline.model.vae import VAE
from tests.support import model_settings, moved

SHARES = (0.2, 0.3, 0.1, 0.25, 0.15)
SIZES: dict[str, Any] = {"latent": 5, "encoder": [16, 12], "decoder": [16, 12], "couplings": 3}


def bars() -> Dataset:
    """Twenty images of 6 × 5 pixels with 17 grey levels, to train and to test: bars whose place is the class."""
    labels = torch.arange(20) % 5
    images = torch.zeros(20, 6, 5, dtype=torch.uint8)
    images[torch.arange(20), :, labels] = 12
    images[:, 0, 0] += torch.arange(20) % 4  # no two are equal
    return Dataset("bars", 17, images, labels, images, labels)


def make_vae(dataset: Dataset, by: float = 0.1, **changes: Any) -> VAE:
    torch.manual_seed(0)
    binarise = "threshold" if changes.get("observation") == "bernoulli" else "none"
    settings = model_settings(**SIZES | {"sigma": 0.3} | changes)
    return moved(VAE(settings, dataset.format(binarise), SHARES), by).eval()


def measured(count: int) -> tuple[pd.DataFrame, list[Tensor]]:
    """Measurements of test images, and log-weights of each. The third is not trusted, the fourth is not finite."""
    columns = ("elbo", "log_px", "log_px_se", "ess", "khat")
    table = pd.DataFrame({name: np.arange(count) - 10.0 for name in columns}).assign(trusted=True)
    table.loc[2, "trusted"] = table.loc[3, "trusted"] = False
    table.loc[3, "log_px"] = np.nan
    return table, [torch.randn(64), torch.randn(32), 9 * torch.randn(32), torch.full((8,), torch.nan)] * (count // 4)
