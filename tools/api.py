"""The page docs/logpx-api.md, from the docstrings of logpx's public names. `python -m tools.documents` writes it.

The source is read and not imported, so the page is the same on every machine.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.code import ROOT

PAGE = Path("docs/logpx-api.md")
# What each part of the page describes: names of the package, and of modules in it that are not loaded by default.
PARTS = {
    "Functions": ("estimate", "anneal", "bidirectional", "best_gaussian", "diagnose"),
    "Models": ("Decoder", "Model"),
    "Observation models": (
        "Gaussian", "GaussianPerPixel", "Bernoulli", "DiscretisedLogistic", "LogisticMixture", "BetaBinomial",
        "Categorical",
    ),
    "Results": ("Estimate", "Diagnosis"),
    "Settings": ("block.Settings", "annealing.Settings"),
}  # fmt: skip
INTRODUCTION = """# logpx: reference

Made from the docstrings by `python -m tools.documents`; edit those. [logpx.md](logpx.md) is the guide. An observation
model has the members of `Observation` in `logpx/observations/distribution.py`: `log_prob`, `mean`, `sample` and more.
"""
WIDTH = 100  # of a signature that is written on one line
SECTION = re.compile(r"(Args|Attributes|Returns|Raises):")
Definition = ast.FunctionDef | ast.ClassDef


def page(root: Path = ROOT) -> str:
    """The whole page, as Markdown."""
    parts = [INTRODUCTION]
    for title, names in PARTS.items():
        parts.append(f"## {title}\n")
        for name in names:
            source, node = find(root, name)
            parts.append(f"### `logpx.{name}`\n\n```python\n{signature(source, node)}\n```\n")
            parts.append(markdown(ast.get_docstring(node) or "") + "\n")
    return "\n".join(parts)


def find(root: Path, name: str) -> tuple[str, Definition]:
    """The source of the module that defines a public name, and the definition.

    Raises:
        LookupError: if it does not exist.
    """
    module, _, last = name.rpartition(".")
    if not module:
        block = (root / "logpx/__init__.py").read_text(encoding="utf-8")
        homes = dict(re.findall(r'^    "(\w+)": "([\w.]+)",$', block, re.MULTILINE))
        module = homes[name]
    source = (root / "logpx" / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, Definition) and node.name == last:
            return source, node
    raise LookupError(f"logpx.{name} is not defined in {module}")


def signature(source: str, node: Definition) -> str:
    """A function's arguments, or a class's fields and, of a protocol, its methods."""
    if isinstance(node, ast.FunctionDef):
        return _call(node)
    lines = source.splitlines()
    # As they are written, with their comments.
    fields = [lines[item.lineno - 1] for item in node.body if isinstance(item, ast.AnnAssign)]
    if any(ast.unparse(base) == "Protocol" for base in node.bases):
        fields += [f"    def {_call(item)}" for item in node.body if isinstance(item, ast.FunctionDef)]
    return "\n".join([f"class {node.name}:", *fields]) if fields else f"class {node.name}: ..."


def _call(node: ast.FunctionDef) -> str:
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    arguments = ast.unparse(node.args).replace("=", " = ")
    one_line = f"{node.name}({arguments}){returns}".replace("'", '"')
    if len(one_line) <= WIDTH:
        return one_line
    # Split at the commas between arguments, and not at those in their types.
    lines = re.sub(r",\s(?![^\[]*\])", ",\n    ", arguments)
    return f"{node.name}(\n    {lines},\n){returns}".replace("'", '"')


def markdown(docstring: str) -> str:
    """A docstring with its sections as lists and its examples as code."""
    return "\n".join(_blocks(inspect.cleandoc(docstring).splitlines()))


def _blocks(lines: list[str]) -> Iterator[str]:
    items = example = False
    for line in lines:
        if example and not line:
            yield "```"
        if line.startswith(">>>") and not example:
            yield "```pycon"
        example = line.startswith(">>>") or (example and bool(line))
        if match := SECTION.fullmatch(line):
            items = True
            yield f"{match[1]}:\n"
        elif example:
            yield line
        elif items and line.startswith("    "):
            text = line[4:]
            named = re.match(r"([\w, ]+): (.*)", text)
            if text.startswith(" "):
                yield f"  {_escaped(text.strip())}"
            else:
                yield f"- `{named[1]}`: {_escaped(named[2])}" if named else f"- {_escaped(text)}"
        else:
            items = items and not line
            yield _escaped(line)
    if example:
        yield "```"


def _escaped(text: str) -> str:
    """Without emphasis in "(*samples, batch)". Code in backticks stays as it is."""
    return "".join(
        part if part.startswith("`") else part.replace("*", r"\*").replace("<", r"\<")
        for part in re.split(r"(`[^`]*`)", text)
    )
