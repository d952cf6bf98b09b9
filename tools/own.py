"""`python -m tools.own PATH`: check your own images and set data.name, data.path and data.sha256 in params.yaml.

PATH is a folder of PNG or JPEG files, an .npz file, an IDX file, or a folder of IDX files. All other keys and comments
of params.yaml stay as they are.
"""

import argparse
import re
import sys
from pathlib import Path

from pipeline.config import check_params, load_params, read_yaml
from pipeline.data.own import NAME, digest_of_own, read_own
from pipeline.errors import UserError
from pipeline.process.exit import run_cli
from pipeline.storage.files import main_repository, write_text
from tools.presets import merge

PARAMS = Path("params.yaml")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, metavar="PATH")
    path = recorded(parser.parse_args().path)
    # Another mistake in params.yaml is reported before the images are read, with the keys as they will be.
    content = read_yaml(PARAMS)
    values = {"name": NAME, "path": path, "sha256": "0" * 64}
    seed = check_params(PARAMS, merge(content, {"data": values}) if isinstance(content, dict) else content).data.seed
    dataset = read_own(path, seed)
    values["sha256"] = digest_of_own(path)
    write_text(PARAMS, with_values(PARAMS.read_text(encoding="utf-8"), values))
    load_params(PARAMS)
    print(f"{path}: {dataset}")
    print(f"{PARAMS}: data.name = {NAME}, data.path = {path}, data.sha256 = {values['sha256']}")
    print("Now run `dvc repro`. After a change of the images run this command again.")


def recorded(path: Path) -> str:
    """A path as data.path has it: relative to the main repository if it lies in it, or else absolute."""
    path, root = path.expanduser().resolve(), main_repository().resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def with_values(text: str, values: dict[str, str]) -> str:
    """The text of a params.yaml with other values of these keys of its section data; everything else stays.

    Raises:
        UserError: if a key is not on a line of its own.
    """
    start = re.search(r"^data:[ \t]*(#.*)?$", text, re.MULTILINE)
    end = re.compile(r"^[^\s#]", re.MULTILINE).search(text, start.end()) if start else None
    before, section, after = (
        (text[: start.end()], text[start.end() : end.start() if end else len(text)], text[end.start() :] if end else "")
        if start
        else (text, "", "")
    )
    for key, value in values.items():
        # A value of one line: quoted, or up to a comment.
        line = re.compile(rf"""^(\s+{key}:)[ \t]*("[^"\n]*"|'[^'\n]*'|[^#\n]*?)([ \t]+#.*)?$""", re.MULTILINE)
        shown = value if key == "name" else quoted(value)
        section, found = line.subn(lambda match, shown=shown: f"{match[1]} {shown}{match[3] or ''}", section, count=1)
        if not found:
            raise UserError(
                f"{PARAMS}: data.{key} is not on a line of its own; write it as `  {key}: ...` below `data:`"
            )
    return before + section + after


def quoted(value: str) -> str:
    """A quoted YAML string: it is never taken for a number, and may contain `#`."""
    return "'" + value.replace("'", "''") + "'"


if __name__ == "__main__":
    sys.exit(run_cli(main))
