"""The report: one HTML file that opens offline, and a short Markdown of the same."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from latex2mathml.converter import convert
from markupsafe import Markup

from pipeline.errors import UserError

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Caption:
    """A picture's title, and what to see in it."""

    title: str
    text: str


CAPTIONS = {
    "reconstructions": Caption(
        "Reconstructions",
        "Test images x, each above f(μ(x)), the decoder's mean at the encoder's mean. Strokes should keep their "
        "slant, width and gaps; what is lost is what the latent variable does not carry.",
    ),
    "samples": Caption(
        "Samples of the prior",
        "f(z) for z ~ N(0, I). A good model draws digits everywhere; shapes between digits show where the prior "
        "has mass that no image uses.",
    ),
    "interpolations": Caption(
        "Interpolations",
        "From one test digit to another, along a straight line and along a great circle. Every step should look "
        "like a digit. The straight line passes nearer to the origin than almost all of the prior's mass, where "
        "strokes tend to fade.",
    ),
    "traversals": Caption(
        "Traversals",
        "One test digit with one coordinate of z changed at a time; the ten coordinates that tell most about an "
        "image, by their mean KL. A coordinate that changes nothing is not used by the model.",
    ),
    "manifold": Caption(
        "The learned manifold",
        "f(z) over the plane, in steps of equal prior mass. Neighbouring cells should look alike; the classes "
        "meet where one digit turns into another.",
    ),
    "latent_space": Caption(
        "Latent space",
        "The encoder's means μ(x) of all test images, coloured by digit. With more than two dimensions it is the "
        "plane that separates the classes best; the labels chose that plane but no label was used in training.",
    ),
    "training": Caption(
        "Training",
        "The ELBO and its two terms; the axis leaves out the first epochs. A training curve that rises above "
        "the validation curve is overfitting; the epoch kept is the one with the best validation ELBO.",
    ),
    "log_px": Caption(
        "Likely and unlikely digits",
        "Log p(x) of each test image. Unlikely digits are unusual, heavily inked, or have stray marks; likely ones are "
        "plain and thin, most often ones.",
    ),
    "convergence": Caption(
        "Estimates against decoder evaluations",
        "Every method estimates the same number, from below. Fitted proposals are there as soon as they are fitted. "
        "The encoder's stays far below while its band, which is its own idea of its error, hardly moves: an error bar "
        "is no witness where a few samples have all the weight. Annealing from the prior knows neither encoder nor "
        "fit, and climbs towards the same line.",
    ),
    "diagnostics": Caption(
        "Can each image's estimate be believed?",
        "Pareto k̂, the heaviness of the weights' tail, with its limit for each number of samples, and the effective "
        "sample size with its minimum. Images that fail either are not trusted.",
    ),
    "gaps": Caption(
        "Why the ELBO falls short",
        "KL[q(z | x) ‖ p(z | x)] in two parts (Cremer et al. 2018). No diagonal Gaussian can close the approximation "
        "gap; the amortisation gap is what the encoder loses against the best one for each image.",
    ),
    "densities": Caption(
        "What the density knows",
        "Log p(x) of images that are no digits, beside that of all test digits. AUROC is how often a digit is "
        "likelier: 1 tells the two apart always, ½ is a coin's toss, and below ½ the model finds the others likelier.",
    ),
    "upside_down": Caption(
        "Upside down, digit by digit",
        "Digits against those of their own class turned by half a circle. A 0, a 1 or an 8 turned is nearly a 0, a 1 "
        "or an 8 again, and should differ least; a 4 or a 7 is no digit any more.",
    ),
}


@dataclass(frozen=True)
class Picture:
    name: str
    caption: Caption
    png: bytes

    @property
    def data_uri(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


def pictures(folder: Path) -> list[Picture]:
    """The figures of a folder, in the order of their captions.

    Raises:
        UserError: for a figure without a caption, or a folder without figures.
    """
    files = {path.stem: path for path in sorted(folder.glob("*.png"))}
    if unknown := sorted(set(files) - set(CAPTIONS)):
        raise UserError(f"{folder}: no caption for {', '.join(unknown)}; add it to CAPTIONS in pipeline/report.py")
    if not files:
        raise UserError(f"{folder} has no figures; run `dvc repro` to make them")
    return [Picture(name, caption, files[name].read_bytes()) for name, caption in CAPTIONS.items() if name in files]


def untrusted(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The test images whose log p(x) is not trusted: their number in the data set, class, and estimate."""
    rows = table.loc[~table["trusted"].astype(bool), ["label", "log_px"]]
    return [{"image": int(str(i)), "label": int(row["label"]), "log_px": row["log_px"]} for i, row in rows.iterrows()]


def code_digest(folders: Sequence[Path]) -> str:
    """SHA-256 over names and content of all code and templates: the same code, the same digest, in any clone."""
    digest = sha256()
    for path in sorted(_code(folders)):
        content = path.read_bytes()
        digest.update(f"{path.as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _code(folders: Sequence[Path]) -> Iterator[Path]:
    for folder in folders:
        yield from (path for suffix in ("*.py", "*.jinja") for path in folder.rglob(suffix))


def render(template: str, values: Mapping[str, Any]) -> str:
    """Fill a template of this package; every value is escaped in HTML, and an undefined one is an error."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(["html.jinja"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # MathML is shown by browsers without a script. The formulas are the templates' own, hence Markup.
    environment.filters["math"] = lambda latex: Markup(convert(latex))  # noqa: S704
    environment.filters["block_math"] = lambda latex: Markup(convert(latex, display="block"))  # noqa: S704
    return environment.get_template(template).render(values)
