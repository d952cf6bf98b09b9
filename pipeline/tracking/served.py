"""The trained VAE as an MLflow model, which loads with the weights and the copy of this package beside them.

    model = mlflow.pyfunc.load_model("models:/MODEL_ID")
    model.predict(images)                                      # f(μ(x)), the reconstructions
    model.predict(images, params={"output": "mean"})           # μ(x)

Nothing is pickled: MLflow imports this module and calls `_load_pyfunc` with the path of the weights.
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline import trained
from pipeline.errors import UserError

PACKAGES = ("jaxtyping", "mlflow", "numpy", "pydantic", "ruamel.yaml", "safetensors", "torch")
OUTPUTS = ("reconstruction", "mean", "stddev", "decode")


class Served:
    """Images in [0, 1], one a row, to the decoder's mean at the encoder's mean; or what `output` names."""

    def __init__(self, weights: Path) -> None:
        self.vae, description, _ = trained.load(weights, torch.device("cpu"))
        self.pixels = description.height * description.width

    # Without type hints, which MLflow would take for the signature.
    @torch.inference_mode()
    def predict(self, rows, params=None):
        """`output`: reconstruction | mean | stddev of q(z | x), or decode, whose rows are z and not images.

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

    def example(self) -> NDArray[np.float32]:
        """An image to try the model with: the decoder's mean at z = 0."""
        return self.predict(np.zeros((1, self.vae.latent)), {"output": "decode"})


def _load_pyfunc(path: str) -> Served:
    return Served(Path(path))


def requirements() -> list[str]:
    """The packages that the model needs, at the versions that made it."""
    return [f"{name}=={version(name)}" for name in PACKAGES]
