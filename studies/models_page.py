"""The page of the study `models`: models.html, which opens offline, models.md, models.json and the pictures of both.

The README shows a picture of some of the models, models_story.png.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.config import read_yaml
from pipeline.data.image_format import ImageFormat
from pipeline.evaluation import ladder
from pipeline.report import html, plotting
from pipeline.report.plotting import GREY as SOFT
from pipeline.report.plotting import Figure
from pipeline.storage.files import write_json, write_text
from studies import models_figure
from studies.records import PARAMS, ROOT, SAMPLES, Record, changed_settings
from studies.rungs import DEFAULT, RUNGS, STORY, Text
from tools import presets

GREY = ImageFormat(*ladder.MNIST)


class Section(NamedTuple):
    """A model's section of the page.

    Attributes:
        published: the result to compare with, or None.
        uri: of its picture.
        settings: keys of params.yaml that differ from the default, as KEY = VALUE.
        outdated: whether the preset has other settings now.
    """

    text: Text
    record: Record
    published: ladder.Rung | None
    uri: str
    settings: list[str]
    outdated: bool


def write(records: Mapping[str, Record], folder: Path) -> None:
    """Write all files of the page from the records that exist, into a folder with the models' pictures in `models/`.

    Models of another data set than MNIST are in the tables, but not in the pictures.
    """
    ordered = sort(records.values())
    write_json(folder / "models.json", {"rungs": [record.model_dump(mode="json") for record in ordered]})
    mnist = [record for record in ordered if record.dataset == "mnist"]
    grey = [record for record in mnist if record.binarise == "none"]
    binarised = [record for record in mnist if record.binarise == "dynamic"]
    histogram = GREY.bits_per_dim(max(grey, key=lambda record: record.images).histogram) if grey else None
    plotting.save(models_figure.draw_grey(models_figure.grey_rows(grey, GREY), GREY, histogram), folder / "models.png")
    plotting.save(
        models_figure.draw_binarised(models_figure.binarised_rows(binarised)), folder / "models_binarised.png"
    )
    drawn = [record for record in mnist if samples_path(record, folder).is_file()]
    if drawn:
        plotting.save(draw_samples(drawn, folder), folder / "models_samples.png")
    if story := [records[name] for name in STORY if records.get(name) in drawn]:
        plotting.save(draw_story(story, folder), folder / "models_story.png")
    published = ladder.published("mnist", "none") + ladder.published("mnist", "dynamic")
    pictures = ["models", "models_binarised", *(["models_samples"] if drawn else [])]
    values = {
        "records": ordered,
        "missing": [name for name in RUNGS if name not in records],
        "texts": RUNGS,
        "default": DEFAULT,
        "sections": [_section(record, published, folder) for record in ordered],
        "published": published,
        "uris": {name: html.data_uri((folder / f"{name}.png").read_bytes()) for name in pictures},
        "drawn": bool(drawn),
        "overfitting": {record.name: overfitting(record) for record in ordered},
        "time": time,
    }
    for kind in ("html", "md"):
        write_text(folder / f"models.{kind}", html.render(f"models.{kind}.jinja", values, Path(__file__).parent))
    print(f"{folder / 'models.html'}")


def samples_path(record: Record, folder: Path) -> Path:
    """The samples of a model. Records of older code have none."""
    return folder / "models" / f"{record.name}_samples.png"


def draw_samples(records: Sequence[Record], folder: Path) -> Figure:
    """A row of samples of each model."""
    rows = [plotting.read_strip(samples_path(record, folder), SAMPLES) for record in records]
    labels = [f"{record.name}\n{RUNGS[record.name].label}" for record in records]
    return plotting.grid(np.stack(rows), row_labels=labels)


def draw_story(records: Sequence[Record], folder: Path) -> Figure:
    """The README's picture: samples of some models, each row below what the model is and two of its numbers."""
    figure, axes = plotting.new(9.0, 1.25 * len(records), rows=len(records))
    if engine := figure.get_layout_engine():
        engine.set(h_pad=0.07)  # pyright: ignore[reportCallIssue]  (a row is nearer to its own title than to the next)
    for panel, record in zip(axes[:, 0], records, strict=True):
        plotting.show(panel, plotting.read_strip(samples_path(record, folder), SAMPLES)[None])
        recognised = "" if record.recognised is None else f"{100 * record.recognised:.0f} % recognised, "
        nats = plotting.minus(f"{record.log_px:,.0f}".replace(",", "\u202f"))
        panel.set_title(f"{STORY[record.name]} ({record.name})", loc="left", fontsize=13, weight="bold", pad=1)
        panel.set_title(f"{recognised}{nats} nats", loc="right", fontsize=12, color=SOFT, pad=1)
    return figure


def sort(records: Iterable[Record]) -> list[Record]:
    """Grey images first, and the worst model first."""
    return sorted(records, key=lambda record: (record.binarise != "none", -record.bits_per_dim))


def overfitting(record: Record) -> tuple[float, float | None]:
    """Log p(x) of training images minus that of test images, in nats, and its standard error."""
    errors = record.train_log_px_se, record.log_px_se
    known = [error for error in errors if error is not None]
    return record.train_log_px - record.log_px, math.hypot(*known) if len(known) == len(errors) else None


def time(seconds: float | None) -> str:
    """A duration for a reader."""
    if seconds is None:
        return "not timed"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _section(record: Record, published: list[ladder.Rung], folder: Path) -> Section:
    text = RUNGS[record.name]
    compared = next((rung for rung in published if rung.name == text.published), None)
    uri = html.data_uri((folder / "models" / f"{record.name}.png").read_bytes())
    settings = [
        f"{section}.{key} = {value if isinstance(value, str) else json.dumps(value)}"
        for section, values in record.settings.items()
        for key, value in values.items()
    ]
    return Section(text, record, compared, uri, settings, record.settings != _settings_now(record.name))


def _settings_now(name: str) -> dict[str, dict[str, Any]]:
    """What the preset changes now, as a record has it."""
    default = read_yaml(ROOT / PARAMS)
    changes = {} if name == DEFAULT else presets.load(name)
    return changed_settings(default, presets.merge(default, changes))
