"""The packed model computes what the VAE computes, also without this repository."""

import ast
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.code import CODE_ROOTS, ROOT
from pipeline.errors import UserError
from pipeline.model.checkpoint import load_model
from pipeline.tracking.pyfunc_model import PACKAGES, PackedModel, requirements
from tests.imports import closure
from tests.pipeline.tracking.project import Project, client, runs

X = np.linspace(0, 1, 24, dtype=np.float32).reshape(2, 12)


def expected(weights: Path) -> dict[str, torch.Tensor]:
    vae = load_model(weights, torch.device("cpu")).vae
    with torch.inference_mode():
        q = vae.encoder(torch.from_numpy(X))
        return {"reconstruction": vae.decoder(q.mean).mean, "mean": q.mean, "stddev": q.stddev}


def test_each_output_is_that_of_the_networks(project: Project) -> None:
    project.write_training()
    weights = project.arguments("train").model
    model, outputs = PackedModel(weights), expected(weights)
    assert np.array_equal(model.predict(X), outputs["reconstruction"].numpy())
    for name, values in outputs.items():
        assert np.array_equal(model.predict(X, {"output": name}), values.numpy())
    decoded = model.predict(outputs["mean"].numpy(), {"output": "decode"})
    assert np.array_equal(decoded, outputs["reconstruction"].numpy())


@pytest.mark.parametrize(("output", "shape"), [("median", (1, 12)), ("mean", (1, 11)), ("decode", (1, 12))])
def test_another_output_or_shape_is_refused(project: Project, output: str, shape: tuple[int, int]) -> None:
    project.write_training()
    model = PackedModel(project.arguments("train").model)
    with pytest.raises(UserError, match="output is one of reconstruction, mean, stddev, decode"):
        model.predict(np.zeros(shape), {"output": output})


def test_requirements_are_the_installed_versions() -> None:
    found = dict(item.split("==") for item in requirements(ROOT / "requirements.lock"))
    assert found == {name: version(name).partition("+")[0] for name in PACKAGES}


def test_the_packages_are_those_that_the_packed_code_imports() -> None:
    used: set[str] = set()
    for path in closure(Path("pipeline/tracking/pyfunc_model.py")):
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            used |= {name.partition(".")[0].replace("ruamel", "ruamel-yaml") for name in names}
    # pydantic pins pydantic_core; mlflow loads the model.
    others = sys.stdlib_module_names | {*CODE_ROOTS, "pydantic_core"}
    assert used - others | {"mlflow"} == set(PACKAGES)


@pytest.mark.slow
def test_the_logged_model_has_its_metrics_and_works_without_this_repository(project: Project) -> None:
    project.train()
    project.evaluate(5.0)
    [run] = runs(project)
    assert run.outputs is not None
    [output] = run.outputs.model_outputs
    logged = client(project).get_logged_model(output.model_id)
    assert (logged.status, logged.source_run_id) == ("READY", run.info.run_id)
    assert {("test.log_px", 5.0), ("validation.elbo", 19.5)} <= {(m.key, m.value) for m in logged.metrics or []}

    code = f"""
import json, sys, warnings
warnings.simplefilter("ignore")
import mlflow, numpy as np
mlflow.set_tracking_uri("sqlite:///{project.folder}/mlruns/mlflow.db")
model = mlflow.pyfunc.load_model("models:/{output.model_id}")
x = np.array({X.tolist()}, np.float32)
names = ("reconstruction", "mean", "stddev")
outputs = {{name: model.predict(x, params={{"output": name}}).tolist() for name in names}}
import logpx, pipeline
print(json.dumps([outputs, [*pipeline.__path__, *logpx.__path__]]))
"""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=project.folder / "mlruns", env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    outputs, folders = json.loads(result.stdout.splitlines()[-1])
    assert not any(str(ROOT) in folder for folder in folders)
    for name, values in expected(project.arguments("train").model).items():
        torch.testing.assert_close(torch.tensor(outputs[name]), values, rtol=0, atol=1e-6)
