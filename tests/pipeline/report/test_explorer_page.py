"""The explorer in a browser: it loads without an error, and each control changes what it should and nothing else."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipeline.data.dataset import Dataset
from pipeline.model.vae import VAE
from pipeline.report.explorer import explorer
from tests.pipeline.report.made_up import SIZES, bars, make_vae, measured
from tests.support import in_colour, model_settings, unlabelled

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next((found for name in NAMES if (found := shutil.which(name))), None)
DRIVER = Path(__file__).with_name("explorer_driver.js").read_text(encoding="utf-8")
DARK = "--blink-settings=preferredColorScheme=0"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium, which opens the page, is installed"),
]

IMAGE = {"drawing", "reconstruction", "encoding", "density", "live"}
SIGMA = {"clean", "noisy", "curve", "sigma"}
LATENT = {"map", "decoded", "sliders"}


def browse(page: str, folder: Path, width: int, *options: str, driver: str = DRIVER) -> dict[str, Any]:
    """Open a page at this width, and use all its controls. Returns what the driver reports, and errors as `console`."""
    assert CHROMIUM is not None
    path = folder / "page.html"
    path.write_text(f"{page}<script>{driver}</script>", encoding="utf-8")
    words = [
        CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
        "--enable-logging=stderr", "--virtual-time-budget=300000", f"--window-size={width},900", *options,
        "--dump-dom", path.as_uri(),
    ]  # fmt: skip
    result = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    found = re.search(r'<pre id="results">(.*?)</pre>', result.stdout, re.DOTALL)
    assert found, result.stderr
    console = [line for line in result.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(found[1])) | {"console": console}


def page_of(dataset: Dataset, **changes: Any) -> str:
    settings = model_settings(**SIZES | {"sigma": 0.3} | changes)
    # Weights large enough that every input changes the output.
    return explorer(make_vae(dataset, by=0.4, **changes), settings, dataset, *measured(20))


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the driver reports of two models: one on a screen, in light; the other on a phone, in dark."""
    dataset = bars()
    gaussian = page_of(dataset, observation="gaussian")
    conditional = page_of(dataset, observation="logistic", prior="flow", condition="label")
    return {
        "gaussian": browse(gaussian, tmp_path_factory.mktemp("gaussian"), 1000),
        "conditional": browse(conditional, tmp_path_factory.mktemp("conditional"), 400, DARK),
    }


BOTH = pytest.mark.parametrize("name", ["gaussian", "conditional"])


@BOTH
def test_the_page_loads_without_an_error(seen: dict[str, dict[str, Any]], name: str) -> None:
    assert seen[name]["console"] == []
    assert "error" not in seen[name]
    assert seen[name]["first"] == "test image 1 of 20, class 0"


@BOTH
@pytest.mark.parametrize("action", ["next", "previous", "pick by keyboard", "pick by mouse"])
def test_another_test_image_is_encoded_and_shown_with_its_measurements(
    seen: dict[str, dict[str, Any]], name: str, action: str
) -> None:
    sigma = SIGMA if name == "gaussian" else set()
    assert set(seen[name][action]) == IMAGE | sigma | {"source", "fitted"}


@BOTH
def test_labelled_images_are_shown_with_their_class(seen: dict[str, dict[str, Any]], name: str) -> None:
    assert seen[name]["picker text"].startswith("Image 4, class 3: log p(x")
    assert "of the way from class 0 to class 1" in seen[name]["path"]
    assert "class" in seen[name]["text"]


@BOTH
def test_a_verdict_is_shown_for_each_test_image(seen: dict[str, dict[str, Any]], name: str) -> None:
    assert "−8.0 ± −8.00 nats, measured" in seen[name]["third"]
    assert "✕ not trusted" in seen[name]["third"]
    assert "–" in seen[name]["fourth"]  # not finite


@BOTH
def test_the_picker_opens_takes_an_image_and_closes(seen: dict[str, dict[str, Any]], name: str) -> None:
    assert seen[name]["picker opens"] is True
    assert seen[name]["picked by keyboard"] == ["test image 5 of 20, class 4", False]
    assert seen[name]["picked by mouse"] == ["test image 1 of 20, class 0", False]
    assert seen[name]["picker closes"] is True


@BOTH
def test_a_drawing_is_encoded_and_has_a_bound(seen: dict[str, dict[str, Any]], name: str) -> None:
    sigma = SIGMA if name == "gaussian" else set()
    assert set(seen[name]["clear"]) == IMAGE | sigma | {"source", "fitted"}
    for action in ("draw", "centre", "draw by keyboard"):
        assert IMAGE - set(seen[name][action]) <= {"encoding", "density"}, action  # labels may change what is seen of z
        assert {"source", *LATENT}.isdisjoint(seen[name][action])
    source, density = seen[name]["drawn"]
    assert source == "your drawing"
    assert re.search(r"^ELBO−?\d+\.\d nats, a lower bound on log p\(x", density)


@BOTH
@pytest.mark.parametrize(
    "action",
    ["map", "map by keyboard", "jump", "jump by keyboard", "slider", "last slider", "sample", "another sample",
     "origin"],
)  # fmt: skip
def test_a_move_through_the_latent_space_changes_its_panel_only(
    seen: dict[str, dict[str, Any]], name: str, action: str
) -> None:
    found = set(seen[name][action])
    # With a flow or labels, a slider may be one whose coordinate is not on the map.
    assert {"decoded", "sliders"} <= found <= LATENT


@BOTH
def test_samples_differ_and_the_drawing_can_be_moved(seen: dict[str, dict[str, Any]], name: str) -> None:
    assert seen[name]["samples differ"] is True
    assert seen[name]["the drawing is decoded"] is True


def test_the_label_can_be_chosen(seen: dict[str, dict[str, Any]]) -> None:
    assert {"reconstruction", "encoding", "live"} <= set(seen["conditional"]["given"])
    assert seen["conditional"]["label"] == ["decoded"]
    assert "label" not in seen["gaussian"]


@BOTH
def test_a_path_joins_any_two_images_and_plays(seen: dict[str, dict[str, Any]], name: str) -> None:
    assert set(seen[name]["fraction"]) == {"between", "fraction"}
    assert set(seen[name]["end"]) == {"between", "film", "ends"}
    text, fraction = seen[name]["playing"]
    assert text == "Stop"
    assert 0 < fraction < 1
    assert seen[name]["played"] == ["Play", 1]
    assert seen[name]["stopped"] == ["Play", True]


def test_sigma_changes_the_noise_and_the_nats_but_not_the_mean(seen: dict[str, dict[str, Any]]) -> None:
    for action in ("sigma", "own sigma"):
        assert set(seen["gaussian"][action]) == SIGMA - {"clean"}
    assert "sigma" not in seen["conditional"]  # other observation models have no σ


@BOTH
def test_every_control_has_a_name_and_the_page_fits_its_window(seen: dict[str, dict[str, Any]], name: str) -> None:
    assert seen[name]["nameless"] == []
    assert seen[name]["controls"] > 20
    assert seen[name]["overflow"] <= 0


def test_the_page_follows_the_colour_scheme(seen: dict[str, dict[str, Any]]) -> None:
    assert seen["gaussian"]["ground"] == "rgb(255, 255, 255)"
    assert seen["conditional"]["ground"] == "rgb(22, 24, 26)"
    # So do images: 0 has the colour of the page.
    assert seen["gaussian"]["blank"] == [255, 255, 255]
    assert seen["conditional"]["blank"] == [22, 24, 26]


@pytest.mark.parametrize("latent", [1, 5])
def test_images_without_labels_have_no_class(tmp_path: Path, latent: int) -> None:
    seen = browse(page_of(unlabelled(bars()), observation="gaussian", latent=latent), tmp_path, 1000)
    assert seen["console"] == []
    assert "error" not in seen
    assert seen["first"] == "test image 1 of 20"
    assert seen["picker text"].startswith("Image 4: log p(x) = –")
    assert "of the way from image 1 to image 20" in seen["path"]
    assert not re.search("class|label", seen["text"] + seen["picker text"])


# Steps through the images, and picks one.
DRIVE_MEASURED = """
  const find = (id) => document.getElementById(id), results = {};
  const look = () => [find("source"), find("density"), find("fitted")].map((element) => element.textContent);
  const key = (name) => find("images").dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true }));
  results.first = look();
  results.pixel = [...find("image").getContext("2d").getImageData(0, 0, 1, 1).data].slice(0, 3);
  find("next").click();
  find("next").click();
  results.third = look();
  find("previous").click();
  find("choose").click();
  results.opens = find("picker").open;
  key("ArrowRight");
  key("ArrowRight");
  key("Enter");
  results.fourth = look();
  results.hidden = find("fitted").hidden;
  results.text = document.body.innerText;
  results.overflow = document.documentElement.scrollWidth - window.innerWidth;
  find("data").remove();
  const place = document.createElement("pre");
  place.id = "results";
  place.textContent = JSON.stringify(results);
  document.body.append(place);
"""


@pytest.mark.parametrize("colour", [False, True])
def test_a_model_that_cannot_run_shows_test_images_and_their_measurements(tmp_path: Path, colour: bool) -> None:
    settings = model_settings(network="conv", width=4)
    dataset = in_colour(bars()) if colour else bars()
    page = explorer(VAE(settings, dataset.format()), settings, dataset, *measured(20))
    seen = browse(page, tmp_path, 400, driver=DRIVE_MEASURED)
    assert seen["console"] == []
    assert "The model cannot run in this page." in seen["text"]
    source, density, fitted = seen["first"]
    assert source == "test image 1 of 20, class 0"
    assert "log p(x)−10.0 ± −10.00 nats, measured" in density
    assert "✓ trusted" in density
    assert "Proposal fitted to this image, measured: −10 effective samples of 64" in fitted
    assert seen["third"][0] == "test image 3 of 20, class 2"
    assert "✕ not trusted" in seen["third"][1]
    assert seen["opens"] is True
    assert seen["fourth"][0] == "test image 4 of 20, class 3"
    assert seen["hidden"] is True  # its weights are not finite
    assert seen["overflow"] <= 0
    red, green, blue = seen["pixel"]
    first = dataset.test_images[0].reshape(-1, 6, 5)[:, 0, 0].tolist()
    if colour:
        assert [red, green, blue] == [round(255 * v / 16) for v in first]
    else:
        assert red == green == blue < 255
