"""The trained VAE as an MLflow model: MLflow imports this module from the packed code and calls `_load_pyfunc`.

model = mlflow.pyfunc.load_model("models:/MODEL_ID")
model.predict(images)                                      # f(μ(x)), the reconstructions
model.predict(images, params={"output": "mean"})           # μ(x)
"""

from pathlib import Path

import numpy as np
import torch
from packaging.requirements import Requirement

from pipeline.errors import UserError
from pipeline.model.checkpoint import load_model

# What the packed code imports, by the names in requirements.lock.
PACKAGES = ("jaxtyping", "mlflow", "numpy", "packaging", "pydantic", "ruamel-yaml", "safetensors", "torch")
OUTPUTS = ("reconstruction", "mean", "stddev", "decode")


class PackedModel:
    """The VAE with rows of numbers as input and output."""

    def __init__(self, weights: Path) -> None:
        self.vae, description, _ = load_model(weights, torch.device("cpu"))
        self.pixels = description.height * description.width

    # Without type hints, from which MLflow would infer a signature.
    @torch.inference_mode()
    def predict(self, rows, params=None):
        """The `output` in `params`: reconstruction, mean or stddev of q(z | x) for images; decode for rows of z.

        Raises:
            UserError: for another `output`, or rows of another length.
        """
        output = (params or {}).get("output", OUTPUTS[0])
        rows = torch.from_numpy(np.array(rows, np.float32))
        width = self.vae.latent if output == "decode" else self.pixels
        if output not in OUTPUTS or rows.ndim != 2 or rows.shape[1] != width:
            raise UserError(
                f"output = {output}, input of shape {tuple(rows.shape)}: output is one of {', '.join(OUTPUTS)}; images "
                f"are rows of {self.pixels} numbers in [0, 1], and z for decode are rows of {self.vae.latent}"
            )
        if output == "decode":
            return self.vae.decoder(rows).mean.numpy()
        q = self.vae.encoder(rows)
        return {"mean": q.mean, "stddev": q.stddev}.get(output, self.vae.decoder(q.mean).mean).numpy()


def _load_pyfunc(path: str) -> PackedModel:
    return PackedModel(Path(path))


def requirements(lock: Path) -> list[str]:
    """The packages that the model needs, at the versions that requirements.lock has for this Python."""
    lines = [line for line in lock.read_text(encoding="utf-8").splitlines() if line[:1].isalnum() and "==" in line]
    pinned = [Requirement(line.rstrip(" \\")) for line in lines]
    needed = [item for item in pinned if item.name in PACKAGES and (not item.marker or item.marker.evaluate())]
    return [f"{item.name}{item.specifier}" for item in needed]
