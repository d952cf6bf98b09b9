"""The trained VAE as an MLflow model: MLflow imports this module from the packed code and calls `_load_pyfunc`.

model = mlflow.pyfunc.load_model("models:/MODEL_ID")
model.predict(images)                                      # f(μ(x)), the reconstructions
model.predict(images, params={"output": "mean"})           # μ(x)
model.predict(noise, params={"output": "generate"})        # f(g(ε)), samples of the prior for ε ~ N(0, I)
model.predict(noise, params={"output": "generate", "labels": [7]})  # of a conditional model: sevens
"""

from pathlib import Path

import numpy as np
import torch
from packaging.requirements import Requirement
from torch import Tensor

from pipeline.errors import UserError
from pipeline.model.checkpoint import load_model

# What the packed code imports, by the names in requirements.lock.
PACKAGES = ("jaxtyping", "mlflow", "numpy", "packaging", "pydantic", "ruamel-yaml", "safetensors", "torch")
OUTPUTS = ("reconstruction", "mean", "stddev", "decode", "generate")


class PackedModel:
    """The VAE with rows of numbers as input and output."""

    def __init__(self, weights: Path) -> None:
        self.vae, description, _ = load_model(weights, torch.device("cpu"))
        self.pixels = description.images.pixels

    # Without type hints, from which MLflow would infer a signature.
    @torch.inference_mode()
    def predict(self, rows, params=None):
        """The `output` in `params`: reconstruction, or mean or stddev of q(z | x), for rows of pixels; the decoder's
        mean for rows of z (decode), or for rows of noise ε, with z = g(ε) (generate).

        A conditional model needs `labels` in `params`: the class of each row, or one class for all rows.

        Raises:
            UserError: for another `output`, rows of another length, or labels that the model does not know.
        """
        params = params or {}
        output = params.get("output", OUTPUTS[0])
        rows = torch.from_numpy(np.array(rows, np.float32))
        width = self.vae.latent if output in ("decode", "generate") else self.pixels
        if output not in OUTPUTS or rows.ndim != 2 or rows.shape[1] != width:
            raise UserError(
                f"output = {output}, input of shape {tuple(rows.shape)}: output is one of {', '.join(OUTPUTS)}; images "
                f"are rows of {self.pixels} numbers in [0, 1], and z for decode and ε for generate are rows of "
                f"{self.vae.latent}"
            )
        y = self._labels(params.get("labels"), len(rows)) if self.vae.classes else None
        if output == "decode":
            return self.vae.decoder(rows, y).mean.numpy()
        if output == "generate":
            return self.vae.generate(rows, y).mean.numpy()
        q = self.vae.encoder(rows, y)
        return {"mean": q.mean, "stddev": q.stddev}.get(output, self.vae.decoder(q.mean, y).mean).numpy()

    def _labels(self, labels, rows: int) -> Tensor:
        """One label per row."""
        given = np.array([] if labels is None else labels, dtype=np.float64).reshape(-1)
        whole = given.astype(np.int64)
        if len(given) not in (1, rows) or (whole != given).any() or not np.isin(whole, range(self.vae.classes)).all():
            raise UserError(
                f"labels = {given.tolist()} for {rows} rows: this model is conditional and needs one label for each "
                f"row, or one for all, from 0 to {self.vae.classes - 1}: params={{'labels': [1]}}"
            )
        return torch.from_numpy(whole).expand(rows)


def _load_pyfunc(path: str) -> PackedModel:
    return PackedModel(Path(path))


def requirements(lock: Path) -> list[str]:
    """The packages that the model needs, at the versions that requirements.lock has for this Python."""
    lines = [line for line in lock.read_text(encoding="utf-8").splitlines() if line[:1].isalnum() and "==" in line]
    pinned = [Requirement(line.rstrip(" \\")) for line in lines]
    needed = [item for item in pinned if item.name in PACKAGES and (not item.marker or item.marker.evaluate())]
    return [f"{item.name}{item.specifier}" for item in needed]
