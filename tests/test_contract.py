"""The contract: imports go from higher layers to lower ones, and dvc.yaml declares exactly what each stage uses."""

import ast
import importlib
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

import logpx
from pipeline.code import CODE_ROOTS, ROOT, code_files
from pipeline.config import Data, Params, Runtime
from tests.imports import FOLDERS, closure, imports
from tests.support import STAGES, command

# From the lowest to the highest. A file may import from its own entry and from lower layers, but not from another entry
# of its layer.
LAYERS: list[set[str]] = [
    {"logpx/observations"},
    {"logpx"},
    {"pipeline/errors.py", "pipeline/code.py"},
    {"pipeline/config.py", "pipeline/storage"},
    {"pipeline/data", "pipeline/process"},
    {"pipeline/model"},
    {"pipeline/training", "pipeline/judge", "pipeline/tracking"},
    {"pipeline/evaluation"},
    {"pipeline/report"},
    {"stages", "studies", "pipeline/use"},
]
# A marker without code, in no layer.
PACKAGE = Path("pipeline/__init__.py")
# Stages declare single keys of these sections, if they do not read all of them.
KEYS_OF = {"data": set(Data.model_fields), "runtime": set(Runtime.model_fields)}
BY_KEY = set(KEYS_OF)
# These sections of the parameters change no output, so no stage depends on them.
NOT_DECLARED = {"recovery", "tracking"}
DECLARED = set(Params.model_fields) - NOT_DECLARED

ALL_CODE = sorted(path.relative_to(ROOT) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
CODE = [path for path in ALL_CODE if path != PACKAGE]


def place(path: Path) -> tuple[int, str]:
    """Layer and entry of a file: the longest entry that contains it."""
    entries = [
        (len(entry), level, entry)
        for level, layer in enumerate(LAYERS)
        for entry in layer
        if path.is_relative_to(entry)
    ]
    assert entries, f"{path} is in no layer: add it to LAYERS"
    _, level, entry = max(entries)
    return level, entry


def wrong_imports(path: Path, source: str | None = None) -> list[str]:
    """Imports of a file from a higher layer, or from another entry of its own layer."""
    level, entry = place(path)
    places = {used: place(used) for used in imports(path, source) - {PACKAGE}}
    return [
        f"{path} imports {used}"
        for used, (used_level, used_entry) in places.items()
        if used_level > level or (used_level == level and used_entry != entry)
    ]


@pytest.mark.parametrize("path", CODE, ids=str)
def test_imports_go_to_lower_layers(path: Path) -> None:
    assert wrong_imports(path) == []


def test_every_layer_has_files() -> None:
    """A misspelt or abandoned entry of LAYERS would check nothing."""
    assert {place(path)[1] for path in CODE} == set().union(*LAYERS)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        # One import from a higher layer for each layer.
        ("logpx/observations/new.py", "from logpx.weights import Weights"),
        ("logpx/new.py", "def f():\n    import pipeline.errors"),
        ("pipeline/errors.py", "from pipeline.storage.files import sha256"),
        ("pipeline/config.py", "from pipeline import model"),
        ("pipeline/model/new.py", "from pipeline.training import fit"),
        ("pipeline/training/new.py", "import pipeline.evaluation.auroc as auroc"),
        ("pipeline/evaluation/new.py", "from ..report.plotting import Figure"),
        ("pipeline/report/new.py", "from stages import report"),
        # One from another entry of its layer, for each layer with several.
        ("pipeline/code.py", "from pipeline.errors import UserError"),
        ("pipeline/storage/new.py", "from pipeline.config import Params"),
        ("pipeline/data/new.py", "from pipeline.process.cli import parse_paths"),
        ("pipeline/training/new.py", "from pipeline.tracking.run import Run"),
        ("pipeline/judge/new.py", "from pipeline.training.fit import fit"),
        ("studies/new.py", "from stages.train import main"),
    ],
)
def test_a_wrong_import_is_found(path: str, source: str) -> None:
    assert len(wrong_imports(Path(path), source)) >= 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("logpx/new.py", "from logpx.observations.gaussian import Gaussian\nfrom .weights import Weights"),
        ("pipeline/model/new.py", "from pipeline.errors import UserError\nfrom .vae import VAE\nimport numpy"),
        ("stages/new.py", "from pipeline.tracking.run import Run\nimport logpx.importance"),
    ],
)
def test_imports_from_lower_layers_and_its_own_entry_are_right(path: str, source: str) -> None:
    assert wrong_imports(Path(path), source) == []


@pytest.mark.parametrize("path", [p for p in CODE if p.parts[0] == "pipeline" and "tracking" not in p.parts], ids=str)
def test_in_the_pipeline_only_tracking_itself_imports_tracking(path: Path) -> None:
    """No stage depends on tracking, so nothing that determines an output may use it. Stages import it themselves."""
    assert not [used for used in imports(path) if used.is_relative_to("pipeline/tracking")]


PACKAGES = [path for path in ALL_CODE if path.name == "__init__.py"]
# What a package needs to load its names when they are first used.
LAZY = {"importlib", "typing"}


def imports_at_once(source: str) -> list[str]:
    """Modules that a package imports when it is imported, beside those of `LAZY`.

    Imports in functions and under `if TYPE_CHECKING` do not run then.
    """
    waiting: list[ast.AST] = list(ast.parse(source).body)
    found: list[str] = []
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append("." * node.level + (node.module or ""))
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)
    return [name for name in found if name not in LAZY]


@pytest.mark.parametrize("path", PACKAGES, ids=str)
def test_a_package_imports_nothing_when_it_is_imported(path: Path) -> None:
    """So a stage depends only on the modules that it names, and `logpx.observations` does not load the estimator."""
    assert imports_at_once((ROOT / path).read_text(encoding="utf-8")) == []


def test_importing_a_package_loads_neither_its_modules_nor_pytorch() -> None:
    """The same without reading the source: calls of `import_module` count too."""
    for path in PACKAGES:
        name = ".".join(path.parent.parts)
        code = f"import sys, {name}; print(*sys.modules)"
        result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        ours = {module for module in result.stdout.split() if module.split(".")[0] in {*FOLDERS, "torch"}}
        parents = {".".join(path.parent.parts[: depth + 1]) for depth in range(len(path.parent.parts))}
        assert ours == parents


@pytest.mark.parametrize(
    "source",
    [
        "from logpx.model import Model",
        "import torch",
        "from . import model",
        "if True:\n    import torch",
        "if TYPE_CHECKING:\n    pass\nelse:\n    import torch",
        "try:\n    import torch\nexcept ImportError:\n    pass",
        "class A:\n    import torch",
    ],
)
def test_an_import_of_a_package_is_found(source: str) -> None:
    assert len(imports_at_once(source)) == 1


def test_every_public_name_of_logpx_is_loaded_from_where_type_checkers_see_it() -> None:
    (block,) = (
        node for node in ast.parse((ROOT / "logpx/__init__.py").read_text(encoding="utf-8")).body
        if isinstance(node, ast.If)
    )  # fmt: skip
    declared = {node.names[0].asname: node.module for node in block.body if isinstance(node, ast.ImportFrom)}
    assert sorted(str(name) for name in declared) == sorted(logpx.__all__)
    for name, module in declared.items():
        assert getattr(logpx, str(name)) is getattr(importlib.import_module(str(module)), str(name))
    with pytest.raises(AttributeError, match="no attribute 'estimates'"):
        logpx.estimates  # noqa: B018


def test_every_folder_of_code_is_a_package() -> None:
    assert {path.parent for path in ALL_CODE} == {path.parent for path in ALL_CODE if path.name == "__init__.py"}


def test_type_checks_and_shape_checks_cover_all_code_roots() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    assert set(CODE_ROOTS) <= set(settings["pyright"]["include"])
    options = settings["pytest"]["ini_options"]["addopts"]
    packages = options.partition("--jaxtyping-packages=")[2].split()[0].split(",")
    assert packages == [*CODE_ROOTS, "beartype.beartype"]


def code_dependencies(stage: str) -> set[Path]:
    """Files and folders of code in the stage's `deps`."""
    return {Path(dep) for dep in STAGES[stage]["deps"] if Path(dep).parts[0] in CODE_ROOTS}


def covers(dependencies: set[Path], path: Path) -> bool:
    return not dependencies.isdisjoint({path, *path.parents})


@pytest.mark.parametrize("stage", STAGES)
def test_declared_code_is_what_the_stage_imports(stage: str) -> None:
    """A missing dependency hides an edit from DVC; one too many runs the stage again for nothing."""
    declared = code_dependencies(stage)
    used = {path for path in closure(Path(f"stages/{stage}.py")) if path.name != "__init__.py"}
    assert [path for path in used if not covers(declared, path)] == []
    if stage != "report":  # it depends on all code, whose digest it shows
        assert [dep for dep in declared if not any(path.is_relative_to(dep) for path in used)] == []


def test_the_report_depends_on_all_code_in_its_digest() -> None:
    declared = code_dependencies("report")
    assert [path for path in code_files() if not covers(declared, path)] == []


MEASURES = {"evaluate", "verify", "compare"}
SHOWS = {"render", "report"}


@pytest.mark.parametrize(
    ("edited", "stages"),
    [
        ("pipeline/tracking/run.py", set()),
        ("pipeline/report/plotting.py", {"sample", *SHOWS}),
        ("pipeline/report/pictures.py", SHOWS),
        ("pipeline/report/templates/report.html.jinja", SHOWS),
        ("pipeline/report/templates/explorer.js", SHOWS),
        ("pipeline/training/fit.py", {"train", "report"}),
        ("pipeline/judge/training.py", {"judge", "sample", *SHOWS}),
        ("pipeline/evaluation/ladder.py", {*MEASURES, *SHOWS}),
        ("logpx/importance.py", {*MEASURES, *SHOWS}),
        ("logpx/observations/gaussian.py", {"train", "sample", *MEASURES, *SHOWS}),
        ("pipeline/model/vae.py", {"train", "sample", *MEASURES, *SHOWS}),
        ("stages/train.py", {"train", "report"}),
    ],
)
def test_an_edit_runs_only_the_stages_that_it_can_matter_to(edited: str, stages: set[str]) -> None:
    """Stages whose inputs then change run too."""
    assert (ROOT / edited).is_file()
    assert {stage for stage in STAGES if covers(code_dependencies(stage), Path(edited))} == stages


def test_the_judge_depends_on_neither_the_model_nor_its_settings() -> None:
    """So DVC trains it once for all experiments with the same data."""
    assert [dep for dep in STAGES["judge"]["deps"] if Path(dep).parts[0] == "models"] == []
    assert STAGES["judge"]["params"] == ["judge"]
    used = {path for path in closure(Path("stages/judge.py")) if path.name != "__init__.py"}
    assert not [path for path in used if path.parts[0] == "logpx" or "model" in path.parts]


def sections_used(stage: str) -> set[str]:
    """Sections of the parameters that the stage's script reads; keys, of the sections of `BY_KEY`."""
    return used_in((ROOT / f"stages/{stage}.py").read_text(encoding="utf-8"), lists_all=stage == "report")


def used_in(source: str, lists_all: bool = False) -> set[str]:
    """`sections_used` of the source of a stage; `lists_all`: it may read all sections at once."""
    tree = ast.parse(source)
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    # A section is `params.section`, or a name that is assigned to it.
    sections = {f"{params}.{section}": section for params in ("params", "load_params()") for section in DECLARED}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and (section := sections.get(ast.unparse(node.value))):
            sections |= {target.id: section for target in node.targets if isinstance(target, ast.Name)}
    used = [section for node in attributes if (section := sections.get(ast.unparse(node)))]
    if lists_all and any(ast.unparse(node) == "params.model_dump" for node in attributes):
        return DECLARED
    declared = set(used) - BY_KEY
    for section in set(used) & BY_KEY:
        names = {name for name in sections if sections[name] == section}
        read = [node.attr for node in attributes if ast.unparse(node.value) in names]
        assigned = [
            node for node in ast.walk(tree) if isinstance(node, ast.Assign) and ast.unparse(node.value) in names
        ]
        of_names = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id in names]
        # Uses without a key: of all uses, those that are neither followed by a key nor assigned to a name.
        bare = used.count(section) + len(of_names) - len(read) - 2 * len(assigned)
        declared |= {section} if bare or set(read) == KEYS_OF[section] else {f"{section}.{key}" for key in read}
    return declared


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("f(params.data.name)", {"data.name"}),
        ("f(load_params().data.name)", {"data.name"}),
        ("f(params.data.name, params.data.binarise)", {"data.name", "data.binarise"}),
        ("f(params.runtime.device, params.runtime.processes)", {"runtime"}),
        ("f(params.data)", {"data"}),
        ("f(params.data.name, params.data)", {"data"}),
        ("s = load_params().data\nf(s.name)", {"data.name"}),
        ("s = load_params().data\nf(s.name, s.binarise)", {"data.name", "data.binarise"}),
        ("s = load_params().runtime\nf(s.device, s.processes)", {"runtime"}),
        ("s = load_params().data\nf(s)", {"data"}),
        ("s = params.data\nf(s.name, s)", {"data"}),
        ("set_up(params.runtime.device); f(params.train)", {"runtime.device", "train"}),
        ("f(params.runtime.device, params.runtime.processes, params.recovery)", {"runtime"}),
    ],
)
def test_the_parameters_that_a_source_reads_are_found(source: str, expected: set[str]) -> None:
    assert used_in(source) == expected


@pytest.mark.parametrize("stage", STAGES)
def test_declared_parameters_are_those_that_the_stage_reads(stage: str) -> None:
    assert set(STAGES[stage]["params"]) == sections_used(stage)


def test_every_section_of_the_parameters_is_declared_by_some_stage() -> None:
    assert {name.partition(".")[0] for stage in STAGES.values() for name in stage["params"]} == DECLARED


@pytest.mark.parametrize("stage", STAGES)
def test_every_path_in_a_command_is_declared(stage: str) -> None:
    """DVC would not track or restore an undeclared file."""
    entries = [entry for kind in ("deps", "outs", "metrics", "plots") for entry in STAGES[stage].get(kind, [])]
    declared = {entry if isinstance(entry, str) else next(iter(entry)) for entry in entries}
    assert {word for word in command(stage)[3:] if not word.startswith("--")} <= declared


@pytest.mark.parametrize("stage", STAGES)
def test_stages_run_as_modules_and_have_a_description(stage: str) -> None:
    assert command(stage)[:3] == ["python", "-m", f"stages.{stage}"]
    assert STAGES[stage]["desc"]


@pytest.mark.parametrize(
    ("package", "home"),
    [
        ("mlflow", "pipeline/tracking/mlflow_store.py"),
        ("matplotlib", "pipeline/report/plotting.py"),
        ("ruamel", "pipeline/config.py"),
    ],
)
def test_these_packages_are_imported_in_one_file(package: str, home: str) -> None:
    users = set()
    for path in CODE:
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            users |= {path.as_posix() for name in names if name.split(".")[0] == package}
    assert users == {home}


def test_importing_the_model_does_not_load_what_it_does_not_need() -> None:
    unneeded = {"logpx.estimator", "logpx.importance", "matplotlib", "mlflow", "stages"}
    code = f"import sys, pipeline.model.vae; print(sorted({unneeded} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_lock_names_no_index_and_has_a_hash_for_each_package() -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    assert not any("://" in line or line.startswith(("-i", "--index", "--extra", "--find")) for line in lines)
    for line, following in pairwise(lines):
        if "==" in line:
            assert following.strip().startswith("--hash=sha256:"), line
