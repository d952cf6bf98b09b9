"""`logpx` can be installed without the project around it."""

import ast
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest

from pipeline.code import ROOT

FOLDER = ROOT / "logpx"
ALONE = tomllib.loads((FOLDER / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WHOLE = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CODE = sorted(path.relative_to(ROOT).as_posix() for path in FOLDER.rglob("*.py"))


def test_it_needs_the_versions_that_the_project_needs() -> None:
    assert set(ALONE["dependencies"]) <= set(WHOLE["dependencies"])
    for key in ("version", "license", "requires-python"):
        assert ALONE[key] == WHOLE[key]


def test_it_declares_the_packages_that_it_imports() -> None:
    names: set[str] = set()
    for path in CODE:
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module or "")
    imported = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"logpx"}
    declared = {requirement.partition(">=")[0] for requirement in ALONE["dependencies"]}
    assert imported <= declared
    assert declared - imported <= {"numpy"}  # torch.Tensor.numpy() and SciPy need it


@pytest.mark.slow
def test_the_wheel_has_the_code_and_works_alone(tmp_path: Path) -> None:
    copytree(FOLDER, tmp_path / "logpx", ignore=ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "uv", "build", "--wheel", "--out-dir", "dist", "logpx"]
    built = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    if built.returncode and "hatchling" in built.stderr:
        pytest.skip("hatchling, which builds the wheel, is not available")
    assert built.returncode == 0, built.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        assert sorted(name for name in content.namelist() if ".dist-info/" not in name) == CODE
        content.extractall(tmp_path / "site")
    five_lines = (
        "import logpx, torch\n"
        "model = logpx.Decoder(torch.nn.Linear(2, 5), logpx.Bernoulli())\n"
        "found = logpx.estimate(model, torch.ones(3, 5), latent=2)\n"
        "print(logpx.__file__)\n"
        "assert found.trusted.all()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    command = [sys.executable, "-c", five_lines]
    ran = subprocess.run(
        command, cwd=tmp_path / "dist", env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == str(tmp_path / "site/logpx/__init__.py")
