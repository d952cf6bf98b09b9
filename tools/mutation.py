"""`python -m tools.mutation`: put small faults into the code, one at a time, and count those that the tests notice.

From each folder of `FOLDERS` faults are drawn at random, fixed by the seed: a third of them evenly, the others in
proportion to the faults that the folder could have. A fault changes one place: an operator, a comparison, a number, a
condition, a sign, a name such as min or sum, or the order of two arguments; or it leaves out a keyword argument or a
statement. The folder's own fast tests run on it in a temporary clone, first those of the changed module. They notice it
if one fails, or if they take too long. Prints a line for each fault, and writes the share that was noticed, with a 95 %
interval (Wilson 1927), and all faults that were not.

No fault is put where a test of values could not see it: annotations, docstrings, decorators, assertions, texts of
errors and warnings, the appearance of figures, and options such as `strict` or `device` (`UNSEEN`).

mutmut and cosmic-ray find such faults too, but draw no sample by folder and have one test command for all folders.
"""

import argparse
import ast
import difflib
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from threading import Timer
from typing import Any, NamedTuple

from scipy.stats import binomtest

from pipeline.code import ROOT
from pipeline.errors import UserError
from pipeline.process.exit import run_cli
from pipeline.storage.files import write_json
from tools.clones import environment, temporary_clone

# Where faults are put: folders, whose tests are in tests/, and patterns of their files.
FOLDERS = {
    "logpx": ("**/*.py",),
    "pipeline/model": ("*.py",),
    "pipeline/data": ("image_format.py", "split.py"),
    "pipeline/training": ("step.py", "schedule.py", "trainer.py"),
    "pipeline/evaluation": ("*.py",),
    "pipeline/report": ("latent_paths.py", "scene.py", "pictures.py", "*_plots.py"),
}
LIMIT = 3.0  # tests that take longer than this many times their time without a fault have noticed it
START = 20.0  # seconds added to the limit: other work on the machine delays the start of Python

# Loads libraries, then runs pytest in a fork for each pair of lines: whether to keep no bytecode, and the arguments.
# Answers with the fork's process ID, then with its exit code.
SERVER = """
import json, os, sys
from pytest import main
for name in sys.argv[2:]:
    __import__(name)
log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for line in sys.stdin:
    sys.dont_write_bytecode, arguments = json.loads(line)
    os.truncate(log, 0)
    if not (pid := os.fork()):
        os.setsid()
        os.dup2(log, 1), os.dup2(log, 2)
        os._exit(main(arguments))
    print(pid, flush=True)
    sys.stdin.readline()
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
LIBRARIES = ["torch", "scipy.stats", "pandas", "sklearn.decomposition", "matplotlib.figure", "pydantic", "ruamel.yaml"]

# What may take the place of each other, and of what only in one direction.
OPERATORS: list[tuple[type[ast.AST], type[ast.AST]]] = [
    (ast.Add, ast.Sub), (ast.Mult, ast.Div), (ast.BitAnd, ast.BitOr), (ast.And, ast.Or), (ast.Eq, ast.NotEq),
    (ast.Is, ast.IsNot), (ast.In, ast.NotIn), (ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Lt, ast.Gt),
    (ast.LtE, ast.GtE),
]  # fmt: skip
OPERATORS += [(b, a) for a, b in OPERATORS]
OPERATORS += [(ast.FloorDiv, ast.Div), (ast.Mod, ast.Mult), (ast.Pow, ast.Mult), (ast.USub, ast.UAdd)]
PAIRS = [
    ("min", "max"), ("amin", "amax"), ("argmin", "argmax"), ("minimum", "maximum"), ("sum", "mean"), ("floor", "ceil"),
    ("all", "any"), ("sin", "cos"), ("exp", "log"), ("zeros", "ones"), ("zeros_like", "ones_like"),
]  # fmt: skip
NAMES = dict(PAIRS) | {b: a for a, b in PAIRS}

# Keyword arguments and calls whose values no test of values could see.
UNSEEN = {
    "strict", "validate_args", "device", "encoding", "persistent", "file", "flush", "cmap", "color",
    "fontsize", "ha", "interpolation", "layout", "linewidth", "linewidths", "linscale", "linthresh", "loc", "ls",
    "lw", "marker", "ms", "ncols", "rasterized", "rotation", "s", "textcoords", "va", "visible", "weight",
    "xycoords", "xytext",
}  # fmt: skip
HIDDEN = {"annotation", "returns", "decorator_list", "exc", "format_spec"}  # fields of a syntax tree
UNSEEN_CALLS = {
    "print",
    "warn",
    "new",
    "grid",
    "margins",
    "minorticks_off",
    "align_ylabels",
    "tick_params",
    "set_width_ratios",
}

Change = tuple[ast.AST, str, Any, int]  # a node of a syntax tree, one of its fields, the field's new value, the line


class Mutant(NamedTuple):
    """A file with one fault: its path from the root, the line of the fault, and the file's new text."""

    folder: str
    path: str
    line: int
    source: str


def mutants(source: str) -> Iterator[tuple[int, str]]:
    """Every version of a module with one fault: the line of the fault, and the whole text without comments."""
    tree = ast.parse(source)
    found: set[str] = set()
    for node, field, value, line in list(_changes(tree)):
        before = getattr(node, field)
        setattr(node, field, value)
        changed = ast.unparse(ast.fix_missing_locations(tree))
        setattr(node, field, before)
        if changed not in found:  # for one, `if not x` can become `if not not x` in two ways
            yield line, changed
        found.add(changed)


def _changes(node: ast.AST, line: int = 1) -> Iterator[Change]:
    """The changes of a node and of all nodes below it."""
    line = getattr(node, "lineno", line)
    if isinstance(node, ast.Assert) or _calls(node, UNSEEN_CALLS):
        return
    yield from ((*change, line) for change in _own_changes(node))
    for field, value in ast.iter_fields(node):
        children = value if isinstance(value, list) else [value]
        for i, child in enumerate(children):
            if _can_be_left_out(child):
                yield node, field, [*children[:i], ast.Pass(), *children[i + 1 :]], child.lineno
            if isinstance(child, ast.AST) and field not in HIDDEN and getattr(child, "arg", None) not in UNSEEN:
                yield from _changes(child, line)


def _own_changes(node: ast.AST) -> Iterator[tuple[ast.AST, str, Any]]:
    """The changes of a node itself."""
    match node:
        case ast.BinOp() | ast.AugAssign() | ast.BoolOp() | ast.UnaryOp(op=ast.USub()):
            yield from ((node, "op", new) for new in _others(node.op))
        case ast.UnaryOp(op=ast.Invert() | ast.Not()):
            yield node, "operand", ast.UnaryOp(node.op, node.operand)
        case ast.Compare(ops=[operator, *rest]):
            yield from ((node, "ops", [new, *rest]) for new in _others(operator))
        case ast.Constant(value=bool(value)):
            yield node, "value", not value
        case ast.Constant(value=int(value)):
            yield from ((node, "value", new) for new in sorted({value + 1, abs(value - 1)}))
        case ast.Constant(value=float(value)):
            yield node, "value", 2 * value or 1.0
        case ast.If() | ast.IfExp() | ast.While():
            yield node, "test", ast.UnaryOp(ast.Not(), node.test)
        case ast.comprehension(ifs=[test, *rest]):
            yield node, "ifs", [ast.UnaryOp(ast.Not(), test), *rest]
        case ast.Name(id=name) if name in NAMES:
            yield node, "id", NAMES[name]
        case ast.Attribute(attr=name) if name in NAMES:
            yield node, "attr", NAMES[name]
        case ast.keyword(arg=str(name)) if name in NAMES:
            yield node, "arg", NAMES[name]
        case ast.Call(args=arguments, keywords=keywords):
            for i, keyword in enumerate(keywords):
                if keyword.arg and keyword.arg not in UNSEEN:
                    yield node, "keywords", keywords[:i] + keywords[i + 1 :]
            if len(arguments) > 1 and not _calls(node, {"max", "min", "maximum", "minimum"}):
                yield node, "args", [arguments[1], arguments[0], *arguments[2:]]


def _others(operator: ast.AST) -> list[ast.AST]:
    """What may take the place of an operator."""
    return [new() for old, new in OPERATORS if isinstance(operator, old)]


def _calls(node: object, names: set[str]) -> bool:
    """Whether a node is a call of a function or method with one of these names."""
    function = node.func if isinstance(node, ast.Call) else None
    return getattr(function, "attr", getattr(function, "id", None)) in names


def _can_be_left_out(node: object) -> bool:
    """Whether a node is a statement that names nothing: without it the module can still be run."""
    call = node.value if isinstance(node, ast.Expr) else None
    return isinstance(node, ast.AugAssign | ast.Raise | ast.Continue | ast.Break) or (
        isinstance(call, ast.Call) and not _calls(call, UNSEEN_CALLS)
    )


def draw(root: Path, folders: Sequence[str], count: int, seed: int) -> tuple[list[Mutant], dict[str, int]]:
    """Draw about `count` faults from the folders; also return how many each folder could have."""
    found: dict[str, list[Mutant]] = {}
    for folder in folders:
        files = sorted({path for pattern in FOLDERS[folder] for path in (root / folder).glob(pattern)})
        found[folder] = [
            Mutant(folder, path.relative_to(root).as_posix(), line, source)
            for path in files
            for line, source in mutants(path.read_text(encoding="utf-8"))
        ]
        random.Random(f"{seed} {folder}").shuffle(found[folder])  # noqa: S311
    sizes = {folder: len(candidates) for folder, candidates in found.items()}
    shares = {
        folder: count / 3 / len(sizes) + count * 2 / 3 * size / sum(sizes.values()) for folder, size in sizes.items()
    }
    return [mutant for folder in folders for mutant in found[folder][: math.ceil(shares[folder])]], sizes


class Runner:
    """Runs tests in a clone, each time in a fork of one process that has loaded the libraries."""

    def __init__(self, clone: Path) -> None:
        self.clone, self.log = clone, clone.parent / "log"
        variables = {"OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(self.log), *LIBRARIES], cwd=clone, env=environment() | variables,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self) -> "Runner":
        return self

    def __exit__(self, *_: object) -> None:
        self.server.communicate()

    def run(self, folder: str, path: str = "", limit: float = 3600.0) -> str:
        """Run the fast tests of a folder, first those of the module `path`: noticed, unnoticed or too slow."""
        module = f"tests/{Path(path).parent}/test_{Path(path).name}"
        first = [module] if (self.clone / module).is_file() else []
        options = ["-q", "-x", "-p", "no:cacheprovider", "-p", "jaxtyping._pytest_plugin", "-m", "not slow"]
        # A module and its fault may have the same size and time: no bytecode of a fault may be kept.
        pid = int(self._ask(json.dumps([bool(path), [*options, *first, f"tests/{folder}"]])))
        timer = Timer(limit, os.killpg, (pid, signal.SIGKILL))
        timer.start()
        code = int(self._ask(""))
        timer.cancel()
        return {0: "unnoticed", -signal.SIGKILL: "too slow"}.get(code, "noticed")

    def time(self, folder: str) -> float:
        """Seconds that the tests of a folder take without a fault.

        Raises:
            UserError: if they fail.
        """
        start = time.monotonic()
        if self.run(folder) != "unnoticed":
            log = self.log.read_text(encoding="utf-8")
            raise UserError(f"tests/{folder} fail without a fault; fix them first\n{log}")
        return time.monotonic() - start

    def try_fault(self, mutant: Mutant, limit: float) -> str:
        """Run the tests with this fault. The clone is left as it was."""
        file = self.clone / mutant.path
        before, status = file.read_bytes(), file.stat()
        file.write_text(mutant.source, encoding="utf-8")
        try:
            return self.run(mutant.folder, mutant.path, limit)
        finally:
            file.write_bytes(before)
            os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # so that its bytecode is still valid

    def _ask(self, line: str) -> str:
        assert self.server.stdin
        assert self.server.stdout
        self.server.stdin.write(f"{line}\n")
        self.server.stdin.flush()
        return self.server.stdout.readline()


def difference(source: str, changed: str) -> list[str]:
    """The lines that differ, as `- before` and `+ after`, both without comments."""
    lines = difflib.unified_diff(ast.unparse(ast.parse(source)).splitlines(), changed.splitlines(), n=0, lineterm="")
    return [f"{line[0]} {line[1:].strip()}" for line in lines if line[:3] not in ("---", "+++") and line[:2] != "@@"]


def try_all(drawn: list[Mutant], jobs: int) -> list[str]:
    """What the tests made of each fault."""
    with ExitStack() as stack:
        runners = [stack.enter_context(Runner(stack.enter_context(temporary_clone()))) for _ in range(jobs)]
        pool = stack.enter_context(ThreadPoolExecutor(jobs))
        limits = {
            folder: START + LIMIT * max(pool.map(Runner.time, runners, [folder] * jobs))
            for folder in dict.fromkeys(mutant.folder for mutant in drawn)
        }
        free: SimpleQueue[Runner] = SimpleQueue()
        for runner in runners:
            free.put(runner)

        def try_one(mutant: Mutant) -> str:
            runner, start = free.get(), time.monotonic()
            try:
                outcome = runner.try_fault(mutant, limits[mutant.folder])
            finally:
                free.put(runner)
            print(f"{outcome:9} {time.monotonic() - start:5.1f} s  {mutant.path}:{mutant.line}", flush=True)
            return outcome

        return list(pool.map(try_one, drawn))


def summarise(drawn: list[Mutant], outcomes: list[str], root: Path = ROOT) -> dict[str, Any]:
    """The share of faults that was noticed, over all and by folder, and the faults that were not."""
    scores: dict[str, dict[str, float]] = {}
    for name in ("all", *dict.fromkeys(mutant.folder for mutant in drawn)):
        part = [outcome for mutant, outcome in zip(drawn, outcomes, strict=True) if name in ("all", mutant.folder)]
        noticed = len(part) - part.count("unnoticed")
        interval = binomtest(noticed, len(part)).proportion_ci(0.95, method="wilson")
        share, low, high = (round(float(value), 4) for value in (noticed / len(part), interval.low, interval.high))
        scores[name] = {
            "drawn": len(part), "noticed": noticed, "too_slow": part.count("too slow"),
            "share": share, "low": low, "high": high,
        }  # fmt: skip
    unnoticed = [
        {"file": m.path, "line": m.line, "change": difference((root / m.path).read_text(encoding="utf-8"), m.source)}
        for m, outcome in zip(drawn, outcomes, strict=True)
        if outcome == "unnoticed"
    ]
    return {"scores": scores, "unnoticed": unnoticed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=300, help="number of faults, over all folders")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="how many run at a time, with one thread each")
    parser.add_argument("--folders", nargs="+", default=list(FOLDERS), choices=FOLDERS, metavar="FOLDER")
    parser.add_argument("--output", type=Path, default=ROOT / "reports/benchmarks/mutation.json")
    options = parser.parse_args()
    drawn, sizes = draw(ROOT, options.folders, options.faults, options.seed)
    summary = summarise(drawn, try_all(drawn, options.jobs))
    write_json(options.output, {"seed": options.seed, "possible": sizes, **summary})
    for name, score in summary["scores"].items():
        interval = f"{score['low']:.0%} to {score['high']:.0%}"
        print(f"{name:20} {score['noticed']:3} of {score['drawn']:3} noticed: {score['share']:.0%} ({interval})")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(run_cli(main))
