"""Faults that `tools.mutation` puts into code, and what it makes of the tests' answer."""

import ast
import json
from pathlib import Path

import pytest

from tests.support import ROOT
from tools.clones import sh
from tools.mutation import FOLDERS, Mutant, Runner, difference, draw, mutants, summarise

MODULE = '''
"""Distances are 3 metres - no more."""

LIMIT: "Literal[2]" = 5


@decorated(scale=2)
def distance(x: Shape[3], far=False) -> Shape[3]:
    """At most 1."""
    assert x > 0, 1 + 1
    if x < 2.5 and far:
        raise ValueError(f"{x + 1} is too far")
    total = sum(v for v in x if v)
    total += min(x, LIMIT, key=-x)
    print(total + 1)
    store(total)
    return zip(x[1], total, strict=True)
'''


def test_every_kind_of_place_gets_its_faults_and_texts_get_none() -> None:
    changes = {(line, " ".join(difference(MODULE, source)[1:])) for line, source in mutants(MODULE)}
    assert changes == {
        (4, "+ LIMIT: 'Literal[2]' = 4"),
        (4, "+ LIMIT: 'Literal[2]' = 6"),
        (8, "+ def distance(x: Shape[3], far=True) -> Shape[3]:"),
        (11, "+ if x < 2.5 or far:"),
        (11, "+ if x <= 2.5 and far:"),
        (11, "+ if x > 2.5 and far:"),
        (11, "+ if x < 5.0 and far:"),
        (11, "+ if not (x < 2.5 and far):"),
        (12, "+ pass"),
        (13, "+ total = mean((v for v in x if v))"),
        (13, "+ total = sum((v for v in x if not v))"),
        (14, "+ total -= min(x, LIMIT, key=-x)"),
        (14, "+ total += max(x, LIMIT, key=-x)"),
        (14, "+ total += min(x, LIMIT)"),
        (14, "+ total += min(x, LIMIT, key=+x)"),
        (14, "+ pass"),
        (16, "+ pass"),
        (17, "+ return zip(total, x[1], strict=True)"),
        (17, "+ return zip(x[0], total, strict=True)"),
        (17, "+ return zip(x[2], total, strict=True)"),
    }


def test_each_fault_is_the_only_one_in_a_module_that_compiles() -> None:
    source = (ROOT / "pipeline/training/schedule.py").read_text(encoding="utf-8")
    found = [text for _, text in mutants(source)]
    assert len(found) > 20
    for text in found:
        ast.parse(text)
        assert len(difference(source, text)) == 2


def test_the_seed_fixes_the_draw_and_every_folder_has_its_part(tmp_path: Path) -> None:
    for folder, count in {"logpx": 100, "pipeline/model": 10}.items():
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "sums.py").write_text("x = a + b\n" * count, encoding="utf-8")

    def lines(count: int, seed: int) -> dict[str, list[int]]:
        drawn, sizes = draw(tmp_path, ("logpx", "pipeline/model"), count, seed)
        assert sizes == {"logpx": 100, "pipeline/model": 10}
        return {folder: [mutant.line for mutant in drawn if mutant.folder == folder] for folder in sizes}

    first = lines(33, 0)
    assert {folder: len(set(part)) for folder, part in first.items()} == {"logpx": 26, "pipeline/model": 8}
    assert lines(33, 0) == first != lines(33, 1)
    assert lines(60, 0)["logpx"][:26] == first["logpx"]


def test_the_default_folders_have_tests_and_faults() -> None:
    for folder, patterns in FOLDERS.items():
        assert (ROOT / "tests" / folder).is_dir()
        assert all(any((ROOT / folder).glob(pattern)) for pattern in patterns)


@pytest.mark.parametrize(
    ("body", "limit", "outcome"),
    [("return a - b", 60.0, "noticed"), ("return b + a", 60.0, "unnoticed"), ("while True: pass", 1.0, "too slow")],
)
def test_a_fault_is_noticed_if_a_test_fails_or_does_not_end(
    tmp_path: Path, body: str, limit: float, outcome: str
) -> None:
    module = tmp_path / "clone/pack/sums.py"
    tests = tmp_path / "clone/tests/pack/test_sums.py"
    for path in (module, tests):
        path.parent.mkdir(parents=True)
    module.write_text("def add(a, b):\n    return a + b\n", encoding="utf-8")
    (module.parents[1] / "pyproject.toml").write_text("[tool.pytest.ini_options]\npythonpath = ['.']\n")
    tests.write_text("from pack.sums import add\n\ndef test_add():\n    assert add(1, 2) == 3\n", encoding="utf-8")
    before = module.read_bytes(), module.stat().st_mtime_ns
    mutant = Mutant("pack", "pack/sums.py", 2, f"def add(a, b):\n    {body}\n")
    with Runner(tmp_path / "clone") as runner:
        assert runner.time("pack") < 60
        assert runner.try_fault(mutant, limit) == outcome
    assert (module.read_bytes(), module.stat().st_mtime_ns) == before


def test_the_share_has_an_interval_and_faults_that_nothing_noticed_are_listed(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1  # one\n\ny = a + b\n", encoding="utf-8")
    drawn = [Mutant("one", "a.py", 3, "x = 1\ny = a - b"), *[Mutant("two", "a.py", 1, "x = 2\ny = a + b")] * 9]
    summary = summarise(drawn, ["unnoticed", "too slow", *["noticed"] * 8], tmp_path)
    # Wilson 1927 for 9 of 10: (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n), z = 1.96.
    score = {"drawn": 10, "noticed": 9, "too_slow": 1, "share": 0.9, "low": 0.5958, "high": 0.9821}
    assert summary["scores"]["all"] == score
    assert [(name, part["noticed"]) for name, part in summary["scores"].items()] == [("all", 9), ("one", 0), ("two", 9)]
    assert summary["unnoticed"] == [{"file": "a.py", "line": 3, "change": ["- y = a + b", "+ y = a - b"]}]


@pytest.mark.slow
def test_the_command_writes_the_shares_of_the_folders_asked_for(tmp_path: Path) -> None:
    output = tmp_path / "mutation.json"
    options = ["--folders", "pipeline/model", "--faults", "2", "--output", str(output)]
    printed = sh(ROOT, "python", "-m", "tools.mutation", *options)
    assert "pipeline/model" in printed.splitlines()[-1]
    assert json.loads(output.read_text(encoding="utf-8"))["scores"]["pipeline/model"]["drawn"] == 2
