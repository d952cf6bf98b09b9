"""The best model of a data set has the alias `champion` in MLflow's registry: `models:/vae-mnist@champion`.

Best is the highest validation log p(x): the test images choose nothing. Models of another data set or binarisation have
another name, because their log p(x) does not compare. Each version of a registered model is or was a champion.
"""

import math

from pipeline.tracking.mlflow_store import CHAMPION, Store
from pipeline.tracking.results import Results

TRUSTED = 0.95  # the least share of trusted validation images
METRIC = "validation.log_px"


def name_of(results: Results) -> str:
    """The registered model for the results' data: vae-mnist, vae-mnist-dynamic."""
    return f"vae-{results.dataset}" + (f"-{results.binarise}" if results.binarise != "none" else "")


def update(store: Store, results: Results, digest: str, training: str, model_id: str) -> None:
    """Give the alias to the results' model if its validation log p(x) is higher than the champion's.

    The caller holds `store.lock`.

    Args:
        digest: SHA-256 of the model's file.
        training: id of the run of the model's training.
        model_id: of the model in the store.

    Raises:
        Exception: whatever MLflow raises.
    """
    measured = results.metrics.get("evaluate", {})
    log_px, trusted = measured.get(METRIC, math.nan), measured.get("validation.trusted", 0.0)
    if not (math.isfinite(log_px) and trusted >= TRUSTED):
        return
    name = name_of(results)
    if best := store.champion(name):
        if best.get("model.sha256") == digest:
            return
        if best.get("data.sha256") != results.data_sha256:
            remedy = f"delete the alias {CHAMPION} of {name} in MLflow to choose from models of these images"
            print(f"{name}@{CHAMPION} stays the model of other images with the same name; {remedy}")
            return
        if float(best.get(METRIC, -math.inf)) >= log_px:
            return
    if not store.has_model(model_id):
        return
    tags = {"model.sha256": digest, "data.sha256": results.data_sha256, "dvc.experiment": results.name}
    store.register_champion(name, model_id, training, tags | {METRIC: f"{log_px}", "validation.trusted": f"{trusted}"})
    print(f"models:/{name}@{CHAMPION} is now this model, with a validation log p(x) of {log_px:.1f} nats")
