"""`python -m tools.documents`: bring the numbers in README.md, CONTRIBUTING.md and docs/ up to date with reports/.

A number that comes from a file under reports/ is followed by a comment that names its source and is not rendered:

    856.69<!-- metrics/evaluate: test.log_px -->      reports/metrics/evaluate.json, the value of test, log_px
    99.4 %<!-- metrics/evaluate: test.trusted -->     a percentage is 100 times the value
    409.5<!-- studies/sigma: experiments.2.log_px --> list items by index, from 0
    3712.4<!-- studies/models/good: log_px -->        folders may be nested
    2.2<!-- benchmarks/scaling: a.b / a.c * 1e6 -->   values and numbers, multiplied and divided from left to right

A number keeps its decimals and its thousands separator. `--check` changes no file and lists the numbers that differ.
A source that does not exist is an error. docs/logpx-api.md is written from the docstrings of logpx (`tools/api.py`).
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from pipeline.code import ROOT
from pipeline.errors import UserError
from pipeline.process.exit import run_cli
from tools import api

SEPARATORS = " \u00a0\u202f,"  # between thousands
SOURCED = re.compile(
    rf"(?P<number>(?<![\d.])−?(?:\d{{1,3}}(?:[{SEPARATORS}]\d{{3}})+|\d+)(?:\.\d+)?)?(?P<percent>\s?%)?"
    r"<!--\s+(?P<file>\w+(?:/\w+)+):\s+(?P<expression>[^>]+?)\s+-->"
)


def documents(root: Path = ROOT) -> list[Path]:
    """All documents whose numbers are kept up to date."""
    return [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").glob("*.md"))]


def read_value(content: Any, expression: str) -> float:
    """Evaluate a source such as `test.log_px` or `a.0 / b * 1e6` on the content of a JSON file."""

    def operand(word: str) -> float:
        if re.fullmatch(r"[\d.]+(e-?\d+)?", word):
            return float(word)
        value = content
        for key in word.split("."):
            value = value[int(key)] if isinstance(value, list) else value[key]
        return float(value)

    first, *rest = re.split(r" ([*/]) ", expression)
    result = operand(first)
    for operator, word in zip(rest[::2], rest[1::2], strict=True):
        result = result * operand(word) if operator == "*" else result / operand(word)
    return result


def format_like(value: float, number: str) -> str:
    """Write a value with the decimals and the thousands separator of a number, and a true minus sign."""
    separator = next((character for character in SEPARATORS if character in number), "")
    text = f"{value:z,.{len(number.partition('.')[2])}f}"
    return text.replace(",", separator).replace("-", "−")


def update(text: str, reports: Path) -> tuple[str, list[str], list[str]]:
    """Replace the numbers of a document.

    Returns:
        The new text, a line for each number that has changed, and a line for each source that cannot be read.
    """
    changes: list[str] = []
    errors: list[str] = []

    def replace(match: re.Match[str]) -> str:
        number, file, expression = match["number"], match["file"], " ".join(match["expression"].split())
        place = f"line {text.count(chr(10), 0, match.start()) + 1}: {file}: {expression}"
        try:
            if number is None:
                raise ValueError("follows no number")
            content = json.loads((reports / f"{file}.json").read_text(encoding="utf-8"))
            value = read_value(content, expression)
        except (OSError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            errors.append(f"{place}: {error.strerror if isinstance(error, OSError) else error}")
            return match[0]
        new = format_like(100 * value if match["percent"] else value, number)
        if new != number:
            changes.append(f"{place}: {number} -> {new}")
        return match[0].replace(number, new, 1)

    return SOURCED.sub(replace, text), changes, errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change no file; fail if something differs")
    check = parser.parse_args().check
    wrong: list[str] = []
    made, target = api.page(), ROOT / api.PAGE
    if not target.exists() or made != target.read_text(encoding="utf-8"):
        if check:
            wrong.append(f"  {api.PAGE} differs from the docstrings of logpx")
        else:
            target.write_text(made, encoding="utf-8")
            print(f"{api.PAGE} is new")
    for path in documents():
        text = path.read_text(encoding="utf-8")
        new, changes, errors = update(text, ROOT / "reports")
        if not check:
            path.write_text(new, encoding="utf-8")
            print(*(f"{path.relative_to(ROOT)}, {line}" for line in changes), sep="\n", end="\n" * bool(changes))
        wrong += [f"  {path.relative_to(ROOT)}, {line}" for line in (errors + changes if check else errors)]
    if wrong:
        remedy = "run `python -m tools.documents`; make the files that are missing, or correct their names"
        raise UserError("\n".join(["these documents differ from reports/ or from the code:", *wrong, remedy]))


if __name__ == "__main__":
    sys.exit(run_cli(main))
