"""What dvc.yaml declares is what the stages use: imports, parameters; and imports point one way."""

import ast
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from closure import ROOT, closure, imports
from ruamel.yaml import YAML

from pipeline.config import Params, Runtime

PIPELINE: dict[str, Any] = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
STAGES: dict[str, Any] = PIPELINE["stages"]
# Where a run is logged and how often work is saved changes no output: no stage runs again for it.
FIELDS = set(Params.model_fields) - {"recovery", "tracking"}


def command(stage: str) -> list[str]:
    return shlex.split(STAGES[stage]["cmd"])


@pytest.mark.parametrize("stage", STAGES)
def test_declared_code_is_the_import_closure(stage: str) -> None:
    """Else DVC would not see an edit, or would run a stage for one that cannot matter."""
    declared = {Path(dep) for dep in STAGES[stage]["deps"]}
    used = closure(Path(f"stages/{stage}.py"))
    in_folders = {path for path in used if declared & set(path.parents)}
    assert {path for path in declared if path.suffix == ".py"} == used - in_folders


@pytest.mark.parametrize("stage", STAGES)
def test_templates_are_declared_where_they_are_used(stage: str) -> None:
    if Path("pipeline/report.py") in closure(Path(f"stages/{stage}.py")):
        assert "pipeline" in STAGES[stage]["deps"]


def sections_used(stage: str) -> set[str]:
    """Sections of `params` that the stage's script reads, of `runtime` the keys; all where it dumps the whole."""
    used: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / f"stages/{stage}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("params", "config.load()"):
            used.add(node.attr)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "params.runtime":
            used.add(f"runtime.{node.attr}")
    if "model_dump" in used and stage == "report":
        return FIELDS
    keys = {name for name in used if name.startswith("runtime.")}
    every = {f"runtime.{key}" for key in Runtime.model_fields}
    return (used & FIELDS) - {"runtime"} | ({"runtime"} if keys == every else keys)


@pytest.mark.parametrize("stage", STAGES)
def test_declared_parameters_are_those_used(stage: str) -> None:
    assert set(STAGES[stage]["params"]) == sections_used(stage)


def test_every_section_is_declared_by_some_stage() -> None:
    assert {name.partition(".")[0] for stage in STAGES.values() for name in stage["params"]} == FIELDS


@pytest.mark.parametrize("stage", STAGES)
def test_every_path_of_a_command_is_declared(stage: str) -> None:
    """A file that a stage reads or writes without saying so would be lost or stale."""
    entries = [entry for kind in ("deps", "outs", "metrics", "plots") for entry in STAGES[stage].get(kind, [])]
    declared = {entry if isinstance(entry, str) else next(iter(entry)) for entry in entries}
    assert {word for word in command(stage)[3:] if not word.startswith("--")} <= declared


@pytest.mark.parametrize("stage", STAGES)
def test_stages_run_as_modules_and_say_what_they_do(stage: str) -> None:
    assert command(stage)[:3] == ["python", "-m", f"stages.{stage}"]
    assert STAGES[stage]["desc"]


def test_imports_point_one_way() -> None:
    order = ["errors", "files", "config", "observations", "vae", "bounds", "step", "training", "likelihood"]
    rank = {name: place for place, name in enumerate(order)}
    leaves = {
        "scratch",
        "lifetime",
        "graphs",
        "ranks",
        "datasets",
        "checkpoint",
        "runtime",
        "figures",
        "tracking",
        "report",
        "probes",
        "tables",
    }
    for path in (ROOT / "pipeline").rglob("*.py"):
        here = path.relative_to(ROOT)
        used = {p.parts[1].removesuffix(".py") for p in imports(here) if p != here}
        assert all(p.parts[0] == "pipeline" for p in imports(here)), f"{here} imports stages"
        name = here.parts[1].removesuffix(".py")
        if name == "tracking":  # a leaf that packs trained models
            used -= {"tracking", "trained", "checkpoint", "tables"}
        if name in leaves:
            assert used <= {"errors", "files", "config", "tensors"}, here
        if name in rank:
            assert all(rank[u] <= rank[name] for u in used - leaves - {"tensors"}), here
    for path in (ROOT / "stages").glob("*.py"):
        assert all(p.parts[0] == "pipeline" for p in imports(path.relative_to(ROOT)))


@pytest.mark.parametrize(
    ("package", "home"), [("mlflow", {"sink"}), ("matplotlib", {"figures"}), ("ruamel", {"config"})]
)
def test_each_of_these_is_imported_in_one_place(package: str, home: set[str]) -> None:
    users = set()
    for path in [*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "stages").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            users |= {path.stem for name in names if name.split(".")[0] == package}
    assert users == home


def test_the_model_loads_neither_mlflow_nor_matplotlib() -> None:
    code = "import sys, pipeline.vae; print(sorted({'mlflow', 'matplotlib', 'stages'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_lock_names_no_index_and_has_a_hash_for_each_package() -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    assert not any("://" in line or line.startswith(("-i", "--index", "--extra", "--find")) for line in lines)
    for line, following in pairwise(lines):
        if "==" in line:
            assert following.strip().startswith("--hash=sha256:"), line
