"""The model with the best validation log p(x) has the alias `champion`, by which it is loaded."""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.storage.files import sha256, write_json
from pipeline.storage.tensors import load_tensors, save_tensors
from pipeline.tracking import champion
from pipeline.tracking.__main__ import sync
from pipeline.tracking.mlflow_store import Store
from pipeline.tracking.publish import publish
from pipeline.tracking.pyfunc_model import PackedModel
from pipeline.tracking.results import of_workspace
from tests.pipeline.tracking.project import Project, client, runs

X = np.linspace(0, 1, 24, dtype=np.float32).reshape(2, 12)


def evaluate(
    project: Project,
    log_px: float | None,
    *,
    trusted: float = 1.0,
    test_log_px: float = 0.0,
    seed: int = 0,
    **data: str,
) -> str:
    """Train a model, measure it as the stage does, and return its digest.

    Args:
        log_px: of the validation images; None if no estimate is finite.
        data: changes of what the model's file says about its data.
    """
    with project.run("train"):
        project.write_training(seed=seed)
        weights = project.arguments("train").model
        tensors, description = load_tensors(weights)
        save_tensors(weights, tensors, description | data)
    project.commit("train")
    with project.run("evaluate"):
        project.write("evaluate", 0.0)
        validation = {"trusted": trusted} | ({} if log_px is None else {"log_px": log_px})
        metrics = {"test": {"log_px": test_log_px, "trusted": 1.0}, "validation": validation}
        write_json(project.arguments("evaluate").metrics, metrics)
    project.commit("evaluate")
    return sha256(weights)


def versions(project: Project, name: str = "vae-digits") -> list[str]:
    """Digests of the models that are or were the champion, the oldest first."""
    found = client(project).search_model_versions(f"name = '{name}'", order_by=["version_number ASC"])
    return [version.tags["model.sha256"] for version in found]


def best(project: Project, name: str = "vae-digits") -> str:
    """The champion's digest."""
    return client(project).get_model_version_by_alias(name, "champion").tags["model.sha256"]


def test_the_better_model_takes_the_alias_and_the_worse_one_does_not(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """The validation images choose; the test images say the opposite here."""
    first = evaluate(project, 5.0, test_log_px=9.0, seed=0)
    assert "models:/vae-digits@champion is now this model, with a validation log p(x) of 5.0" in capsys.readouterr().out
    second = evaluate(project, 6.0, test_log_px=8.0, seed=1)
    evaluate(project, 5.5, test_log_px=99.0, seed=2)
    assert versions(project) == [first, second]
    assert best(project) == second
    version = client(project).get_model_version_by_alias("vae-digits", "champion")
    assert version.run_id == runs(project)[1].info.run_id
    assert (version.tags["validation.log_px"], version.tags["data.sha256"]) == ("6.0", "d" * 64)


def test_a_model_is_registered_once_however_often_it_is_published(project: Project) -> None:
    digest = evaluate(project, 5.0)
    store = Store()
    publish(store, of_workspace())
    assert (store.changes, versions(project)) == (0, [digest])


@pytest.mark.parametrize(
    ("changes", "data"),
    [
        ({"trusted": 0.9499}, {}),
        ({"log_px": None}, {}),
        ({}, {"data_sha256": "e" * 64}),
        ({}, {"binarise": "threshold"}),
        ({}, {"dataset": "mnist"}),
    ],
)
def test_a_model_that_does_not_qualify_or_compare_does_not_take_the_alias(
    project: Project, changes: dict[str, Any], data: dict[str, str]
) -> None:
    first = evaluate(project, 5.0, trusted=0.95)
    evaluate(project, **dict[str, Any]({"log_px": 6.0, "seed": 1} | changes | data))
    assert versions(project) == [first]
    assert best(project) == first


def test_other_images_of_the_same_name_are_reported_with_the_way_out(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(project, 5.0)
    capsys.readouterr()
    second = evaluate(project, 4.0, seed=1, data_sha256="e" * 64)
    assert "vae-digits@champion stays the model of other images with the same name; delete" in capsys.readouterr().out
    client(project).delete_registered_model_alias("vae-digits", "champion")
    publish(Store(), of_workspace())
    assert best(project) == second


def test_each_data_set_and_binarisation_has_its_champion(project: Project) -> None:
    first = evaluate(project, 5.0)
    second = evaluate(project, 4.0, seed=1, binarise="dynamic")
    assert (best(project), best(project, "vae-digits-dynamic")) == (first, second)


def test_sync_chooses_among_the_experiments_of_dvc(project: Project) -> None:
    digests = []
    for name, log_px in (("good", 7.0), ("bad", 3.0)):
        digests.append(evaluate(project, log_px, seed=int(log_px)))
        project.save_experiment(name, code="CODE = 1")
    client(project).delete_registered_model("vae-digits")
    sync()
    assert best(project) == digests[0]


def test_a_model_that_was_deleted_is_not_registered(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.train()
    [run] = runs(project)
    assert run.outputs is not None
    client(project).delete_logged_model(run.outputs.model_outputs[0].model_id)
    with project.run("evaluate"):
        project.write("evaluate", 0.0)
        write_json(project.arguments("evaluate").metrics, {"validation": {"log_px": 5.0, "trusted": 1.0}})
    assert capsys.readouterr().err == ""
    assert client(project).search_registered_models() == []


def test_a_registry_that_fails_costs_one_warning_and_the_run_is_complete(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> None:
        raise OSError("the registry is closed")

    monkeypatch.setattr(Store, "register_champion", fails)
    evaluate(project, 5.0)
    [warning] = capsys.readouterr().err.splitlines()
    assert "the registry is closed" in warning
    [run] = runs(project)
    assert (run.info.status, run.data.metrics["validation.log_px"]) == ("FINISHED", 5.0)


def test_of_two_that_publish_at_once_the_better_one_is_the_champion(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the lock, both would find no champion, and both would register a model of that name."""
    first = evaluate(project, 5.0)
    results = [of_workspace()]
    keep = project.folder.parent / "kept.safetensors"
    keep.write_bytes(results[0].model.read_bytes())
    second = evaluate(project, 6.0, seed=1)
    results = [of_workspace(), type(results[0])(**{**vars(results[0]), "model": keep})]
    client(project).delete_registered_model("vae-digits")
    overlap, inside = [], []
    update = champion.update

    def observed(*arguments: object) -> None:
        inside.append(1)
        overlap.append(len(inside))
        time.sleep(1)  # long enough for the other one to come in, if it can
        update(*arguments)  # pyright: ignore[reportArgumentType]
        inside.pop()

    monkeypatch.setattr(champion, "update", observed)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda found: publish(Store(), found), results))
    assert overlap == [1, 1]
    assert set(versions(project)) <= {first, second}
    assert best(project) == second


@pytest.mark.slow
def test_the_champion_of_two_experiments_is_loaded_by_its_name_in_a_fresh_process(project: Project) -> None:
    evaluate(project, 5.0, seed=0)
    evaluate(project, 6.0, seed=1)
    expected = PackedModel(project.arguments("train").model).predict(X)
    evaluate(project, 4.0, seed=2)
    code = f"""
import json, warnings
warnings.simplefilter("ignore")
import mlflow, numpy as np
mlflow.set_tracking_uri("sqlite:///{project.folder}/mlruns/mlflow.db")
model = mlflow.pyfunc.load_model("models:/vae-digits@champion")
print(json.dumps(model.predict(np.array({X.tolist()}, np.float32)).tolist()))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=project.folder / "mlruns", capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    found = torch.tensor(json.loads(result.stdout.splitlines()[-1]))
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=0, atol=1e-6)
