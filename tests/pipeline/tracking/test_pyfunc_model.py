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
from pipeline.model.checkpoint import Description, load_model, save_checkpoint
from pipeline.model.vae import VAE
from pipeline.tracking.pyfunc_model import PACKAGES, PackedModel, requirements
from tests.imports import closure
from tests.pipeline.tracking.project import Project, client, runs
from tests.support import flat_format, model_settings

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
    for output in ("decode", "generate"):  # the prior is N(0, I), so z and its noise are the same
        decoded = model.predict(outputs["mean"].numpy(), {"output": output, "labels": [99]})  # labels are ignored
        assert np.array_equal(decoded, outputs["reconstruction"].numpy())


@pytest.fixture
def conditional(tmp_path: Path) -> tuple[PackedModel, VAE]:
    """A model of three classes with a flow, whose last layers are not zero."""
    torch.manual_seed(0)
    settings = model_settings(
        latent=3, encoder=[4], decoder=[4], sigma=0.1, prior="flow", couplings=2, condition="label"
    )
    description = Description(
        model=settings, height=1, width=12, grey_levels=256, binarise="none", shares=(0.5, 0.25, 0.25),
        dataset="digits", data_sha256="d" * 64, epoch=1, validation=0.1, seed=0,
    )  # fmt: skip
    vae = VAE(settings, flat_format(12), description.shares).eval()
    with torch.no_grad():
        for parameter in vae.prior.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    save_checkpoint(tmp_path / "vae.safetensors", vae.state_dict(), description)
    return PackedModel(tmp_path / "vae.safetensors"), vae


def test_a_conditional_model_draws_the_class_that_is_asked_for(conditional: tuple[PackedModel, VAE]) -> None:
    model, vae = conditional
    noise = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for labels, y in (([2], torch.tensor([2, 2])), ([0, 1], torch.tensor([0, 1]))):
            z, x = vae.prior.from_noise(noise, y), torch.from_numpy(X)
            expected = {"generate": (noise, vae.decoder(z, y).mean), "decode": (z, vae.decoder(z, y).mean)}
            expected |= {"mean": (x, vae.encoder(x, y).mean), "stddev": (x, vae.encoder(x, y).stddev)}
            expected["reconstruction"] = x, vae.decoder(vae.encoder(x, y).mean, y).mean
            for output, (rows, values) in expected.items():
                found = model.predict(rows.numpy(), {"output": output, "labels": labels})
                assert np.array_equal(found, values.numpy()), output
    twos, ones = (model.predict(noise.numpy(), {"output": "generate", "labels": [y]}) for y in (2, 1))
    assert not np.allclose(twos, ones)


@pytest.mark.parametrize("labels", [None, [], [3], [-1], [0.5], [0, 1, 2]])
def test_labels_that_are_not_those_of_the_model_are_refused(
    conditional: tuple[PackedModel, VAE], labels: list[float] | None
) -> None:
    with pytest.raises(UserError, match=r"needs one label for each row, or one for all, from 0 to 2"):
        conditional[0].predict(X, {} if labels is None else {"labels": labels})


@pytest.mark.parametrize(("output", "shape"), [("median", (1, 12)), ("mean", (1, 11)), ("decode", (1, 12))])
def test_another_output_or_shape_is_refused(project: Project, output: str, shape: tuple[int, int]) -> None:
    project.write_training()
    model = PackedModel(project.arguments("train").model)
    with pytest.raises(UserError, match="output is one of reconstruction, mean, stddev, decode, generate"):
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
