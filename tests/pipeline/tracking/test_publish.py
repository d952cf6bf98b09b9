"""One run for each training, a child for each further measurement, and nothing changes the second time."""

import re
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.storage.files import write_json, write_text
from pipeline.tracking.__main__ import main, sync
from pipeline.tracking.mlflow_store import Store
from pipeline.tracking.publish import publish
from pipeline.tracking.results import of_workspace
from tests.pipeline.tracking.project import AFTER_EVALUATION, AFTER_TRAINING, Project, client, runs, steps
from tests.support import write_params


def changes() -> int:
    """Publish the workspace; return the number of changes in the store."""
    store = Store()
    publish(store, of_workspace())
    return store.changes


# They describe the model, whatever the evaluation.
SAMPLES = {"reports/samples.png", "reports/samples.safetensors"}


def artifacts(project: Project) -> set[str]:
    """Files of the only run, besides its model."""
    [run] = runs(project)
    found, folders = set[str](), [None, *(item.path for item in client(project).list_artifacts(run.info.run_id))]
    for folder in folders:
        found |= {item.path for item in client(project).list_artifacts(run.info.run_id, folder) if not item.is_dir}
    return found


def test_results_from_the_cache_are_one_run_and_stay_one(project: Project) -> None:
    project.restore(5.0)
    assert changes() > 0
    assert changes() == 0
    [run] = runs(project)
    assert (run.info.status, run.data.tags["cached"], steps(project, run)) == ("FINISHED", "true", [1, 2])
    assert {"test.log_px", "verify.difference", "compare.ppca"} <= run.data.metrics.keys()


def test_a_second_measurement_is_a_child_and_neither_overwrites_the_other(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.train()
    project.evaluate(5.0, *AFTER_TRAINING[1:])
    assert changes() == 0
    monkeypatch.setenv("DVC_EXP_NAME", "second")
    project.evaluate(6.0, *AFTER_EVALUATION)

    parent, child = runs(project)
    assert (parent.info.run_name, child.info.run_name) == ("workspace", "second")
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    for run, value in ((parent, 5.0), (child, 6.0)):
        measured = {key: run.data.metrics[key] for key in ("test.log_px", "verify.difference", "compare.ppca")}
        assert set(measured.values()) == {value}
        assert client(project).list_artifacts(run.info.run_id, "reports")
    assert "train_elbo" not in child.data.metrics
    assert changes() == 0
    project.restore(5.0)
    assert changes() == 0
    assert len(runs(project)) == 2


def test_an_experiment_that_differs_in_a_later_stage_only_has_all_its_metrics_in_a_child(project: Project) -> None:
    project.train()
    project.evaluate(5.0, "verify", "compare")
    with project.run("compare"):
        project.write("compare", 6.0)
    parent, child = runs(project)
    assert {parent.data.metrics["compare.ppca"], parent.data.metrics["test.log_px"]} == {5.0}
    assert (child.data.metrics["test.log_px"], child.data.metrics["compare.ppca"]) == (5.0, 6.0)


def test_stages_after_a_new_measurement_are_not_published_with_it(project: Project) -> None:
    """Their outputs in the workspace describe the earlier one."""
    project.restore(5.0)
    project.evaluate(6.0)
    assert changes() == 0
    [run] = runs(project)
    assert run.data.metrics["test.log_px"] == 6.0
    assert "verify.difference" not in run.data.metrics
    assert artifacts(project) == SAMPLES


def test_the_samples_and_the_numbers_of_the_judge_belong_to_the_run(project: Project) -> None:
    project.restore(5.0)
    changes()
    [run] = runs(project)
    assert (run.data.metrics["judge.accuracy"], run.data.metrics["sample.recognised"]) == (5.0, 5.0)
    names = {item.path for item in client(project).list_artifacts(run.info.run_id, "reports")}
    assert {"reports/samples.png", "reports/samples.safetensors"} <= names
    assert not [name for name in names if name.endswith(".json")]
    assert not client(project).list_artifacts(run.info.run_id, "metrics")


def test_figures_are_replaced_by_the_experiment_of_the_run_only(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def uploaded() -> str:
        [run] = runs(project)
        return Path(client(project).download_artifacts(run.info.run_id, "reports/report.md")).read_text(
            encoding="utf-8"
        )

    project.restore(5.0)
    changes()
    for name, content in (("workspace", "new plots"), ("another", "other plots")):
        monkeypatch.setenv("DVC_EXP_NAME", name)
        with project.run("report"):
            for path in (Path("reports/report.html"), Path("reports/report.md")):
                write_text(path, content)
    assert uploaded() == "new plots"


def test_a_new_clone_has_files_only_of_what_has_run(project: Project) -> None:
    """Its dvc.lock describes figures that do not exist yet. The training gives the same model again."""
    project.restore(5.0)
    (project.folder / "reports/figures/a.png").unlink()
    (project.folder / "reports/figures").rmdir()
    with project.run("train"):
        project.write_training()
    [run] = runs(project)
    assert (run.info.status, run.data.metrics["test.log_px"]) == ("FINISHED", 5.0)
    assert artifacts(project) == SAMPLES


def test_settings_are_those_that_the_stages_ran_with(project: Project) -> None:
    project.restore(5.0)
    write_params(Path("params.yaml"), verify__images=9, train__epochs=9, evaluate__samples=999)
    project.evaluate(6.0)
    assert of_workspace().parameters["evaluate.samples"] == "999"
    assert "verify.images" not in of_workspace().parameters
    [run] = runs(project)
    assert (run.data.tags["evaluate.samples"], run.data.params["train.epochs"]) == ("999", "2")


def test_files_that_are_not_what_the_lock_says_are_refused(project: Project) -> None:
    with pytest.raises(UserError, match=r"has no training of this data; run `dvc repro`"):
        of_workspace()
    project.restore(5.0)
    write_text(project.arguments("verify").metrics, "{}")
    with pytest.raises(
        UserError, match=r"verify.json is not what dvc.lock says; restore it by `dvc checkout` or `git restore"
    ):
        of_workspace()


def test_dvc_lock_with_another_data_set_has_no_training(project: Project) -> None:
    project.restore(5.0)
    project.write("download", 1.0)
    project.commit("download")
    with pytest.raises(UserError, match="no training of this data"):
        of_workspace()


def test_sync_publishes_each_experiment_with_its_code_and_skips_one_that_cannot_be_read(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.restore(5.0)
    revision = project.save_experiment("first", code="FIRST = 1")
    project.restore(6.0)
    project.save_experiment("second", code="SECOND = 2")
    project.restore(7.0, seed=1)
    project.save_experiment("other-model", code="THIRD = 3")
    project.save_experiment("of-older-code", code=None)
    project.restore(8.0, seed=2)
    project.save_experiment("removed", code="REMOVED = 1")
    project.cached(Path("models/vae.safetensors")).unlink()
    project.restore(5.0)
    sync()
    *skipped, summary = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in skipped] == [["skipped", "of-older-code"], ["skipped", "removed"]]
    assert "pipeline/tracking/pyfunc_model.py" in skipped[0]
    assert "models/vae.safetensors" in skipped[1]
    assert summary.startswith("sqlite:")

    found = {run.info.run_name: run for run in runs(project)}
    assert found.keys() == {"first", "second", "other-model"}
    assert {name: run.data.metrics["test.log_px"] for name, run in found.items()} == {
        "first": 5.0, "second": 6.0, "other-model": 7.0
    }  # fmt: skip
    assert found["second"].data.tags["mlflow.parentRunId"] == found["first"].info.run_id
    assert found["first"].data.tags["git.revision"] == revision
    packed = {
        path.read_text(encoding="utf-8") for path in project.folder.glob("mlruns/artifacts/**/code/logpx/code.py")
    }
    assert packed == {"FIRST = 1", "THIRD = 3"}
    assert [item.name for item in project.folder.glob("mlruns/artifacts/**/data/*.safetensors")] == [
        "vae.safetensors"
    ] * 2

    sync()
    assert capsys.readouterr().out.endswith("the workspace and 3 of DVC's experiments are published; 0 changes\n")


def test_sync_in_a_subfolder_of_a_git_repository_finds_its_experiments(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.restore(5.0)
    project.save_experiment("flat", code="CODE = 1", top=project.folder.parent)
    sync()
    assert "the workspace and 1 of DVC's experiments are published" in capsys.readouterr().out
    [run] = runs(project)
    assert (run.info.run_name, run.data.metrics["test.log_px"]) == ("flat", 5.0)
    assert client(project).list_artifacts(run.info.run_id, "figures")


def test_sync_names_a_store_that_cannot_be_used(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.restore(5.0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr("sys.argv", ["tracking", "sync"])
    with pytest.raises(UserError, match=r"MLflow at http://127.0.0.1:9 cannot be used: .*; start it, or set"):
        main()


def test_sync_says_what_it_published_when_the_workspace_cannot_be_read(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.restore(5.0)
    project.save_experiment("first", code="FIRST = 1")
    (project.folder / "dvc.lock").unlink()
    with pytest.raises(UserError, match=r"dvc.lock is missing"):
        sync()
    assert re.search(r": 1 of DVC's experiments are published; \d+ changes\n$", capsys.readouterr().out)
    assert [run.info.run_name for run in runs(project)] == ["first"]


def test_what_the_store_refuses_is_reported_and_the_rest_is_published(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """MLflow takes no `<` in a metric's name."""
    project.restore(5.0)
    write_json(project.arguments("verify").metrics, {"verify": {"k<0.7": 1.0}})
    for stage in ("verify", "render", "report"):
        project.commit(stage)
    project.save_experiment("refused", code="FIRST = 1")
    project.restore(6.0, seed=1)
    project.save_experiment("taken", code="SECOND = 2")
    for end in ("", "; 0 changes\n"):
        with pytest.raises(
            UserError, match=r"MLflow refuses some results:\nrefused: MLflow at .* refuses this: .*k<0.7"
        ):
            sync()
        assert "the workspace and 1 of DVC's experiments are published; " in (summary := capsys.readouterr().out)
        assert summary.endswith(end)
        refused, taken = runs(project)
        assert (refused.info.run_name, refused.info.status) == ("refused", "FAILED")
        assert (taken.info.status, taken.data.metrics["verify.difference"]) == ("FINISHED", 6.0)


def test_a_run_that_was_deleted_is_made_again(project: Project) -> None:
    """The experiment still exists in DVC. A run that is restored in MLflow is used again."""
    project.train()
    project.evaluate(5.0)
    [deleted] = runs(project)
    client(project).delete_run(deleted.info.run_id)
    project.evaluate(5.0)
    [run] = runs(project)
    assert (run.info.status, steps(project, run), run.data.metrics["test.log_px"]) == ("FINISHED", [1, 2], 5.0)
    assert changes() == 0


def test_a_logged_model_that_was_deleted_stays_deleted(project: Project) -> None:
    project.train()
    [run] = runs(project)
    assert run.outputs is not None
    client(project).delete_logged_model(run.outputs.model_outputs[0].model_id)
    project.evaluate(5.0, *AFTER_TRAINING[1:])
    [run] = runs(project)
    assert (run.info.status, run.data.metrics["test.log_px"]) == ("FINISHED", 5.0)
    assert changes() == 0
