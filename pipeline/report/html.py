"""Pages from templates: HTML that is one file and opens offline, and Markdown."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from latex2mathml.converter import convert
from markupsafe import Markup

from pipeline.config import Model
from pipeline.errors import UserError
from pipeline.report.pictures import PICTURES, Section
from pipeline.report.plotting import minus
from pipeline.report.wording import worded

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class DrawnPicture:
    """A picture as the report shows it."""

    section: Section
    name: str
    title: str
    caption: str
    png: bytes

    @property
    def data_uri(self) -> str:
        return data_uri(self.png)


def data_uri(png: bytes) -> str:
    """A PNG as the address of an image, so that a page needs no other file."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def load_pictures(folder: Path, table: pd.DataFrame, model: Model) -> tuple[list[DrawnPicture], dict[str, str]]:
    """The pictures that were drawn, and the reasons why others were not, by title; in the order of the report.

    Args:
        table: columns `picture`, its name, and `left_out`, the reason, which is empty for a picture in the folder.
        model: what the captions are about.

    Raises:
        UserError: if a picture is missing, or is not in `PICTURES`.
    """
    reasons = dict(zip(table["picture"], table["left_out"], strict=True))
    if unknown := sorted(set(reasons) - set(PICTURES)):
        raise UserError(
            f"no function draws {', '.join(unknown)}; run `dvc repro`, or add it to pipeline/report/pictures.py"
        )
    if missing := [name for name in reasons if not (reasons[name] or (folder / f"{name}.png").is_file())]:
        raise UserError(f"{folder} has no picture {', '.join(missing)}; run `dvc repro` to draw it")
    drawn = [
        DrawnPicture(picture.section, name, picture.title, picture.about(model), (folder / f"{name}.png").read_bytes())
        for name, picture in PICTURES.items()
        if reasons.get(name) == ""
    ]
    return drawn, {picture.title: reasons[name] for name, picture in PICTURES.items() if reasons.get(name)}


def untrusted(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The test images whose log p(x) is not trusted: index in the test set, class, and estimate in nats."""
    rows = table.loc[~table["trusted"].astype(bool), ["label", "log_px"]]
    return [{"image": int(str(i)), "label": int(row["label"]), "log_px": row["log_px"]} for i, row in rows.iterrows()]


def render(template: str, values: Mapping[str, Any], folder: Path = TEMPLATES) -> str:
    """Fill in a template of the folder. In HTML every value is escaped.

    Raises:
        UndefinedError: if the template uses a value that is missing.
    """
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=select_autoescape(["html.jinja"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # Browsers show MathML without a script. `Markup` is safe here: the templates and `model_text` write the formulas,
    # with nothing but numbers filled in.
    environment.filters["math"] = lambda latex: Markup(convert(latex))  # noqa: S704
    environment.filters["block_math"] = lambda latex: Markup(convert(latex, display="block"))  # noqa: S704
    # float(): a missing value raises an error that names it. None is a metric that may be absent.
    environment.filters["number"] = lambda value, digits=0: (
        "–" if value is None else format_number(float(value), digits)
    )
    environment.filters["worded"] = worded
    return environment.get_template(template).render(values)


def format_number(value: float, digits: int = 0) -> str:
    """A number with `digits` decimals, and with a minus sign in place of a hyphen."""
    return minus(f"{value:z.{digits}f}")  # z: no minus sign before zero
