"""What the pages call the images: digits only if they are digits."""

import html
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.config import Params
from pipeline.data.dataset import Dataset
from pipeline.report.explorer import explorer
from pipeline.report.html import load_pictures, render
from pipeline.report.pictures import PICTURES
from pipeline.report.wording import worded
from tests.pipeline.report.made_up import SIZES, bars, make_vae, measured
from tests.pipeline.report.test_html import PAGES, PNG, of, values
from tests.support import model_settings


def read(page: str) -> str:
    """The text of a page that a reader sees, without its table of parameters."""
    page = re.sub(r"<h3>Parameters</h3>.*?<h3>", "<h3>", page, flags=re.DOTALL)
    page = re.sub(r"<(style|script).*?</\1>", "", page, flags=re.DOTALL)
    described = " ".join(re.findall(r'(?:alt|aria-label)="([^"]*)"', page))
    return html.unescape(f"{re.sub(r'<[^>]*>', ' ', page)} {described}")


def pages(params: Params, folder: Path, dataset: str, model: dict[str, Any]) -> list[str]:
    """Both reports, with all pictures."""
    for name in PICTURES:
        (folder / f"{name}.png").write_bytes(PNG)
    made_up = of(params, model)
    settings = params.model.model_copy(update=model)
    drawn, _ = load_pictures(folder, pd.DataFrame({"picture": list(PICTURES), "left_out": ""}), settings)
    changes = {
        "data": made_up["data"] | {"name": dataset},
        "pictures": drawn,
        "left_out": {picture.title: "a reason" for picture in PICTURES.values()},
    }
    if model.get("condition") == "label":
        made_up["test"] |= {"log_px_given_label": 1.25, "log_px_given_label_se": 0.5, "accuracy": 0.9}
        made_up["test"] |= {"trusted_given_label": 0.5}
    return [read(render(page, values(params) | made_up | changes)) for page in PAGES]


def test_a_text_about_digits_becomes_one_about_images() -> None:
    text = "Digits: a digit, two digits, another digit. A digit is not a test digit."
    assert worded(text, "mnist") == worded(text, "digits") == text
    for dataset in ("fashion_mnist", "kmnist", "own", "own images"):
        assert worded(text, dataset) == "Images: an image, two images, another image. An image is not a test image."


@pytest.mark.parametrize("model", [{}, {"prior": "flow"}, {"condition": "label"}, {"network": "conv"}])
@pytest.mark.parametrize("dataset", ["own images", "fashion_mnist"])
def test_a_report_of_other_images_never_says_digit(
    params: Params, tmp_path: Path, dataset: str, model: dict[str, Any]
) -> None:
    for text in pages(params, tmp_path, dataset, model):
        assert "digit" not in text.lower()
        assert not re.search(r"\ba image|image images", text)
        assert "test images" in text


def test_a_report_of_digits_says_digit(params: Params, tmp_path: Path) -> None:
    for text in pages(params, tmp_path, "mnist", {"condition": "label"}):
        assert "test digits" in text
    assert "draws a digit like those of the data" in pages(params, tmp_path, "mnist", {})[0]


def page_of(name: str, **changes: Any) -> str:
    some = bars()
    dataset = Dataset(name, some.levels, some.train_images, some.train_labels, some.test_images, some.test_labels)
    settings = model_settings(**SIZES | changes)
    return read(explorer(make_vae(dataset, **changes), settings, dataset, *measured(20)))


@pytest.mark.parametrize("changes", [{}, {"condition": "label", "prior": "flow"}])
def test_an_explorer_of_other_images_never_says_digit(changes: dict[str, Any]) -> None:
    for name in ("own", "fashion_mnist"):
        text = page_of(name, **changes)
        assert "digit" not in text.lower()
        assert "Draw an image" in text
        assert "From one image to another" in text
    assert "Play with a VAE of own images" in page_of("own")
    assert "Draw a digit" in page_of("mnist", **changes)
