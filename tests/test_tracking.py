"""Tracking, with a real embedded store: one run a model, found by its digest; failures never reach the stage."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline import tracking
from pipeline.tracking import EXPERIMENT, Run


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for the module: making one takes seconds."""
    return tmp_path_factory.mktemp("repository")


@pytest.fixture
def client(repository: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.setenv("DVC_ROOT", str(repository))
    monkeypatch.chdir(repository.parent)  # as from a temporary workspace
    return MlflowClient(f"sqlite:///{repository}/mlruns/mlflow.db")


def test_stages_of_one_model_share_a_run(
    client: MlflowClient, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "humble-fish")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "abc123")
    model = repository / "vae.safetensors"
    model.write_bytes(b"weights")
    folder = repository / "figures"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"png")

    with Run("train") as run:
        run.params({"model": {"latent": 2, "encoder": (3, 4)}, "data": {"name": "digits"}})
        for epoch in (1, 2):
            run.metrics({"train_elbo": 10.0 * epoch, "best": True}, step=epoch)
        run.model(model, "f00d")
    with Run("evaluate", "f00d") as run:
        run.metrics({"test.elbo": 5.0})
    with Run("report", "f00d") as run:
        run.artifacts("figures", folder, model)

    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    [stored] = client.search_runs([experiment.experiment_id], "tags.`model.sha256` = 'f00d'")
    assert stored.info.run_name == "humble-fish"
    assert stored.info.status == "FINISHED"
    assert stored.data.params == {"model.latent": "2", "model.encoder": "(3, 4)", "data.name": "digits"}
    assert stored.data.metrics == {"train_elbo": 20.0, "best": 1.0, "test.elbo": 5.0}
    assert [m.value for m in client.get_metric_history(stored.info.run_id, "train_elbo")] == [10.0, 20.0]
    assert stored.data.tags["dvc.baseline_rev"] == "abc123"
    names = [f.path for top in ("model", "figures") for f in client.list_artifacts(stored.info.run_id, top)]
    assert names == ["model/vae.safetensors", "figures/a.png", "figures/vae.safetensors"]
    assert stored.info.artifact_uri is not None
    assert stored.info.artifact_uri.startswith(f"file://{repository}/mlruns/artifacts")


def test_evaluation_without_a_training_run_opens_one(client: MlflowClient) -> None:
    for _ in range(2):
        with Run("evaluate", "beef") as run:
            run.metrics({"test.elbo": 7.0})
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    [stored] = client.search_runs([experiment.experiment_id], "tags.`model.sha256` = 'beef'")
    assert (stored.info.run_name, stored.data.metrics) == ("workspace", {"test.elbo": 7.0})


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_run_that_breaks_off_says_so(client: MlflowClient, error: type[BaseException], status: str) -> None:
    with pytest.raises(error), Run("train", status):
        raise error
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    [stored] = client.search_runs([experiment.experiment_id], f"tags.`model.sha256` = '{status}'")
    assert stored.info.status == status


def test_a_dead_server_costs_one_warning(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    for name, value in tracking._ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with Run("train") as run:
        for epoch in range(5):
            run.metrics({"elbo": 1.0}, step=epoch)
        run.model(Path("missing"), "f00d")
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].startswith("warning: this stage is not tracked in MLflow at http://127.0.0.1:9")
