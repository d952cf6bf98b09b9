"""The report: it opens offline, it is escaped and complete, and it warns of numbers that cannot be trusted."""

import math
import re
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import pytest
from jinja2 import UndefinedError
from markupsafe import escape

from pipeline.config import Model, Params
from pipeline.data.image_format import ImageFormat
from pipeline.errors import UserError
from pipeline.evaluation.auroc import ProbeSummary
from pipeline.evaluation.ladder import Rung
from pipeline.model.objectives import OBJECTIVES
from pipeline.model.observations import OBSERVATIONS
from pipeline.report.html import DrawnPicture, data_uri, format_number, load_pictures, render, untrusted
from pipeline.report.model_text import OBJECTIVE_TEXTS, OBSERVATION_TEXTS, PRIOR_TEXTS
from pipeline.report.parameters import read_parameters
from pipeline.report.pictures import PICTURES, Section
from pipeline.report.sample_text import SAMPLE_ROWS
from pipeline.report.standing import Difference

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
PAGES = ["report.html.jinja", "report.md.jinja"]


DIGITS = ImageFormat(8, 8, 17)


def values(params: Params, **changes: Any) -> dict[str, Any]:
    """All values of the templates, made up: a Gaussian model of digits."""
    means = ("elbo", "reconstruction", "kl", "log_px", "gap")
    others = (
        "converged", "rescued", "image_se_median", "khat_median", "ess_median", "evaluations_mean", "prior_log_px",
        "prior_ess_median", "samples_mean",
    )  # fmt: skip
    second = ("difference", "bdmc_gap", "above_lower", "below_upper", "approximation_gap", "amortisation_gap")
    sample = {row.key + end: 0.25 for row in SAMPLE_ROWS for end in ("", "_se", "_real", "_real_se")}
    part = {"images": 5, "trusted": 1.0, "log_px": 30.5, "log_px_se": 0.5, "bits_per_dim": 3.4}
    return {
        "params": params.model_dump(),
        "parameters": read_parameters(params.model_dump()),
        "texts": {
            "prior": PRIOR_TEXTS[params.model.prior],
            "observation": OBSERVATION_TEXTS[params.model.observation],
            "objective": OBJECTIVE_TEXTS[params.train.objective],
        },
        "data": {"name": "digits", "levels": 17, "pixels": 64, "colour": False, "size": "8 x 8", "binarised": False},
        "sigma": 0.0707107,
        "discrete": False,
        "train": {"epoch": 3, "train": {"elbo": 1.0}, "validation": {"elbo": 1.0}},
        "test": {
            **dict.fromkeys((*means, *others), 1.25), **{f"{name}_se": 0.5 for name in means}, "encoder_short": 9.0,
            "encoder_ess_median": 1.1, "trusted": 0.1, "images": 360, "encoder_images": 20, "not_finite": 0,
            "bits_per_dim": 4.06, "prior_images": 20, "active_units": 7,
        },
        "measured": {"train": part, "validation": part | {"log_px": 29.25}},
        "overfit": {"validation": Difference(1.25, 0.5), "test": Difference(29.25, 0.75)},
        "prior_short": 12.5,
        "verify": dict.fromkeys((name + end for name in second for end in ("", "_se")), 0.5) | {"images": 4},
        "compare": {"histogram": 73.25, "histogram_se": 0.5, "auroc_blank": 0.125, "auroc_upside_down": 0.75},
        "sample": sample | {"images": 500, "recognised": 0.345, "recognised_real": 0.966, "frechet_train": 2.5},
        "sample_rows": SAMPLE_ROWS,
        "judge": {"accuracy": 0.9925, "accuracy_se": 0.001},
        "rungs": [
            Rung("this model", 1.25, 4.06, 0.5, "this model"),
            Rung("independent pixels, a histogram each", 73.25, 2.43, 0.5, "baseline"),
            Rung("ceiling of the observation model", 110.7, 1.59, None, "ceiling"),
            Rung("A flow", 120.5, 1.37, None, "published", "log p(x); Someone 2019"),
        ],
        "ladder": data_uri(PNG),
        "above": -72.0,
        "per_pixel": {"certain": math.log(17), "ceiling": 1.7300},
        "bits_per_dim": DIGITS.bits_per_dim,
        "median": 812.5,
        "probes": [
            ProbeSummary("blank", 20, median=1300.0, trusted=0.05, auroc=0.125, auroc_se=0.01),
            ProbeSummary("upside down", 20, median=-306.25, trusted=0.8, auroc=0.75, auroc_se=0.02),
        ],
        "untrusted": [{"image": 7, "label": 3, "log_px": 1.0}],
        "ceiling": 110.7,
        "rule": {"minimum_ess": 10.0},
        "left_out": {"The learned manifold": "z has 3 dimensions"},
        "pictures": [DrawnPicture("draws", "samples", "Samples", "What to see.", PNG)],
        "overview": "overview.png",
        "explorer": "explorer.html",
        "lineage": {
            "data": "d" * 64, "model": "m" * 64, "code": "c" * 64, "versions": "torch 2",
            "trained_on": "one machine", "measured_on": "another",
        },
    } | changes  # fmt: skip


def of(params: Params, model: dict[str, Any] | None = None, train: dict[str, Any] | None = None) -> dict[str, Any]:
    """All values for other options of the sections model and train."""
    changed = params.model_copy(
        update={
            "model": params.model.model_copy(update=model or {}),
            "train": params.train.model_copy(update=train or {}),
        }
    )
    gaussian = {} if changed.model.observation == "gaussian" else {"sigma": None, "discrete": True, "above": 12.5}
    return values(changed, **gaussian)


def test_the_html_is_one_file_that_loads_nothing(params: Params) -> None:
    html = render("report.html.jinja", values(params))
    assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', html) == [
        'href="explorer.html"'
    ]  # a link, which loads nothing
    assert "<script" not in html
    assert "url(" not in html
    assert data_uri(PNG) in html
    assert html.count("<math") > 10


def test_the_html_lists_every_parameter_that_is_read(params: Params) -> None:
    html = render("report.html.jinja", values(params))
    read = read_parameters(params.model_dump())
    assert all(f"<td>{key}</td>" in html for section in read.values() for key in section)
    assert '<tr><td>degrees_of_freedom</td><td class="n">null</td></tr>' in html
    assert "The activation is silu." in html
    assert "<td>components</td>" not in html


def test_the_html_leaves_out_parameters_that_are_not_read(params: Params) -> None:
    html = render("report.html.jinja", of(params, {"encoder": (), "decoder": ()}))
    assert "<td>activation</td>" not in html
    assert "The activation is" not in html
    assert '<tr><td>encoder</td><td class="n">[]</td></tr>' in html
    assert "has no hidden layer" in html


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_the_observation_model_is_explained(params: Params, observation: str) -> None:
    html = render("report.html.jinja", of(params, {"observation": observation, "components": 3}))
    page = render("report.md.jinja", of(params, {"observation": observation}))
    assert escape(OBSERVATION_TEXTS[observation].meaning) in html
    assert ("the ceiling of this σ" in html) == (observation == "gaussian")
    assert ("the ceiling." in page) == (observation == "gaussian")
    assert ("Each pixel has 3 components." in html) == (observation == "logistic_mixture")
    assert f"observation model {observation}" in page


@pytest.mark.parametrize(("sigma", "words"), [(0.0707107, "a setting"), ("learned", "learned with the weights")])
def test_the_report_says_if_sigma_is_learned(params: Params, sigma: float | str, words: str) -> None:
    assert f"Here σ = 0.07071, {words}." in render("report.html.jinja", of(params, {"sigma": sigma}))


def test_a_convolutional_network_is_described(params: Params) -> None:
    html = render("report.html.jinja", of(params, {"network": "conv", "width": 24, "depth": 2}))
    text = " ".join(html.split())
    assert "It has 24 channels at half the image's height and width and 48 at a quarter." in text
    assert "it has 2 residual blocks of two convolutions" in text
    assert "hidden layer" not in html


@pytest.mark.parametrize(
    ("objective", "words"),
    [("elbo", "This is the ELBO itself."), ("beta", "Here β = 0.5, reached after 10 % of all steps."),
     ("iwae", "Here k = 8.")],
)  # fmt: skip
def test_the_objective_is_explained(params: Params, objective: str, words: str) -> None:
    train = {"objective": objective, "samples": 8, "beta": 0.5, "beta_warmup": 0.1}
    html = render("report.html.jinja", of(params, train=train))
    assert words in html
    assert ("with 8 samples per image" in html) == (objective != "iwae")


def test_every_observation_model_and_objective_has_a_text() -> None:
    assert list(OBSERVATION_TEXTS) == list(OBSERVATIONS)
    assert list(OBJECTIVE_TEXTS) == list(OBJECTIVES)
    assert list(PRIOR_TEXTS) == list(get_args(Model.model_fields["prior"].annotation))


def test_only_grey_images_have_a_density(params: Params) -> None:
    grey = render("report.html.jinja", values(params))
    binarised = render(
        "report.html.jinja", values(params, data=values(params)["data"] | {"levels": 2, "binarised": True})
    )
    assert "Pixels are dequantised" in grey
    assert "Pixels are dequantised" not in binarised
    assert "They do not compare with values of grey images" in binarised


@pytest.mark.parametrize("page", PAGES)
def test_a_model_below_the_histograms_is_reported_with_the_reason(params: Params, page: str) -> None:
    text = " ".join(render(page, values(params)).replace("<b>", "").replace("**", "").split())
    assert "This model is 72 nats below independent pixels with a histogram each" in text
    assert "ln 17 = 2.8 nats" in text
    assert "1.7 per pixel" in text
    other = " ".join(render(page, values(params, sigma=None)).split())
    assert "1.7 per pixel" not in other  # its observation model is not the reason


def test_a_ceiling_below_the_histograms_is_named_as_the_reason(params: Params) -> None:
    words = "no network can reach them"
    assert words not in render("report.html.jinja", values(params))
    assert words in render("report.html.jinja", values(params, ceiling=70.0))
    learned = render("report.html.jinja", of(params, {"sigma": "learned"}) | {"ceiling": 70.0})
    assert words not in learned
    assert "makes the learned σ smaller" in learned


@pytest.mark.parametrize("page", PAGES)
def test_a_model_above_the_histograms_says_by_how_much(params: Params, page: str) -> None:
    text = render(page, values(params, above=12.6))
    assert "12.6 nats above" in text
    assert "below independent pixels" not in text
    if page.endswith("html.jinja"):
        assert f"{12.6 / (64 * math.log(2)):.2f}\nbits per pixel" in text


@pytest.mark.parametrize("page", PAGES)
def test_the_ladder_lists_all_rungs_from_the_best(params: Params, page: str) -> None:
    made_up = values(params)
    text = render(page, made_up)
    rows = [
        next(line for line in text.splitlines() if rung.name in line and f"{rung.bits_per_dim:.2f}" in line)
        for rung in reversed(made_up["rungs"])
    ]
    places = [text.index(row) for row in rows]
    assert places == sorted(places)
    assert "<b>1.2" in rows[3] or "**1.2**" in rows[3]
    assert all(f"{rung.nats:.1f}" in row for rung, row in zip(reversed(made_up["rungs"]), rows, strict=True))
    if page.endswith("html.jinja"):
        assert "log p(x); Someone 2019" in text
        assert "Green: published results" in text
        assert "Purple" in text
        without = render(page, made_up | {"rungs": made_up["rungs"][:2]})
        assert "Green" not in without
        assert "Purple" not in without


@pytest.mark.parametrize(
    ("difference", "words"),
    [(Difference(1.25, 0.5), "the model has overfitted"), (Difference(0.75, 0.5), "show no overfitting"),
     (Difference(1.25, None), None)],
)  # fmt: skip
def test_overfitting_is_a_difference_of_more_than_two_errors(
    params: Params, difference: Difference, words: str | None
) -> None:
    html = render("report.html.jinja", values(params, overfit={"validation": difference, "test": difference}))
    found = [w for w in ("the model has overfitted", "show no overfitting") if w in html]
    assert found == ([words] if words else [])
    assert '<td class="n">30.5 <small>± 0.5</small></td><td class="n">3.40</td>' in html
    assert "minus that of the validation images" not in render("report.html.jinja", values(params, overfit=None))


def test_every_value_is_escaped_in_html(params: Params) -> None:
    hostile = "<script>alert(1)</script>"
    html = render("report.html.jinja", values(params, data=values(params)["data"] | {"name": hostile}))
    assert hostile not in html
    assert "&lt;script&gt;" in html


@pytest.mark.parametrize("template", PAGES)
def test_readers_are_warned_only_if_few_images_are_trusted(params: Params, template: str) -> None:
    few, many = values(params), values(params)
    many["test"] = many["test"] | {"trusted": 0.995}
    warning = "lower bound, in expectation, and no more"
    assert warning in render(template, few)
    assert warning not in render(template, many)


@pytest.mark.parametrize(("trusted", "noted"), [(0.98, True), (0.995, False)])
def test_some_untrusted_images_are_noted(params: Params, trusted: float, noted: bool) -> None:
    some = values(params)
    some["test"] = some["test"] | {"trusted": trusted}
    assert ("2.0 % of the images do not pass these tests" in render("report.html.jinja", some)) == noted


@pytest.mark.parametrize("template", PAGES)
@pytest.mark.parametrize(
    ("count", "text"), [(1, "1 test image has a non-finite"), (3, "3 test images have a non-finite"), (0, None)]
)
def test_images_without_a_finite_number_are_counted(
    params: Params, template: str, count: int, text: str | None
) -> None:
    some = values(params)
    some["test"] = some["test"] | {"not_finite": count}
    page = render(template, some)
    assert text in page if text else "non-finite" not in page


@pytest.mark.parametrize("template", PAGES)
def test_a_missing_value_is_an_error(params: Params, template: str) -> None:
    incomplete = values(params)
    del incomplete["test"]["kl"]
    with pytest.raises(UndefinedError, match="kl"):
        render(template, incomplete)


def test_pictures_are_in_the_order_of_the_report_with_their_captions_or_reasons(tmp_path: Path, params: Params) -> None:
    for name in PICTURES:
        (tmp_path / f"{name}.png").write_bytes(PNG + name.encode())
    names = sorted(PICTURES)
    table = pd.DataFrame({"picture": names, "left_out": ["a reason" * (name == "manifold") for name in names]})
    found, left_out = load_pictures(tmp_path, table, params.model)
    assert [picture.name for picture in found] == [name for name in PICTURES if name != "manifold"]
    assert left_out == {PICTURES["manifold"].title: "a reason"}
    for picture in found:
        assert (picture.title, picture.caption) == (PICTURES[picture.name].title, PICTURES[picture.name].caption)
        assert picture.png == PNG + picture.name.encode()


def test_the_caption_of_a_picture_is_about_the_model(tmp_path: Path, params: Params) -> None:
    (tmp_path / "interpolations.png").write_bytes(PNG)
    table, about = pd.DataFrame({"picture": ["interpolations"], "left_out": [""]}), PICTURES["interpolations"]
    for prior, condition, more in (
        ("normal", "none", ""),
        ("flow", "none", f" {about.flow}"),
        ("normal", "label", f" {about.label}"),
        ("flow", "label", f" {about.flow} {about.label}"),
    ):
        model = params.model.model_copy(update={"prior": prior, "condition": condition})
        [found], _ = load_pictures(tmp_path, table, model)
        assert found.caption == about.caption + more


def test_a_missing_or_an_unknown_picture_is_an_error(tmp_path: Path, params: Params) -> None:
    with pytest.raises(UserError, match=r"has no picture samples; run `dvc repro`"):
        load_pictures(
            tmp_path, pd.DataFrame({"picture": ["samples", "manifold"], "left_out": ["", "a reason"]}), params.model
        )
    with pytest.raises(UserError, match=r"no function draws new; .*pipeline/report/pictures\.py"):
        load_pictures(tmp_path, pd.DataFrame({"picture": ["new"], "left_out": [""]}), params.model)


def test_a_picture_that_is_left_out_is_named_with_its_reason(params: Params) -> None:
    html = render("report.html.jinja", values(params, left_out={"A title": "a < b", "Why?": "because"}))
    assert "<b>A title</b> (a &lt; b)." in html
    assert "<b>Why?</b> (because)." in html


OPTIONAL = (
    "encoder_short", "encoder_ess_median", "prior_ess_median", "khat_median", "image_se_median",
)  # fmt: skip


@pytest.mark.parametrize(
    ("template", "lines"),
    [
        ("report.html.jinja", [
            '<tr><td>ELBO</td><td class="n">1.25</td>', "<span>ELBO, ± –</span>", '<td class="n">– lower</td>',
            'lower bound</td><td class="n">–</td>', '<td class="n">30.5</td><td class="n">3.40</td>',
            '<td class="n">0.125</td><td>likelier than test digits</td>',
        ]),
        ("report.md.jinja", [
            "| ELBO | 1.25 | – | 4.06 | |", "at the same cost | – lower | | | – |",
            "| prior Monte Carlo, 20 images | – lower | | | – |", "4 simulated images | – | – |",
        ]),
    ],
)  # fmt: skip
def test_metrics_that_do_not_exist_are_dashes(params: Params, template: str, lines: list[str]) -> None:
    """One image has no standard error. A metric that is not finite is absent."""
    whole = values(params)
    one_image = {"images": 1, "trusted": 1.0, "log_px": 30.5, "bits_per_dim": 3.4}
    one = whole | {
        "test": {name: v for name, v in whole["test"].items() if not name.endswith("_se") and name not in OPTIONAL},
        "verify": {"images": 4},
        "compare": {name: v for name, v in whole["compare"].items() if not name.endswith("_se")},
        "prior_short": None,
        "measured": {"train": one_image, "validation": one_image},
        "probes": [row._replace(auroc_se=None) for row in whole["probes"]],
    }
    page = render(template, one)
    assert all(line in page for line in lines)
    assert not any(line in render(template, whole) for line in lines)


@pytest.mark.parametrize("section", get_args(Section))
def test_every_section_shows_its_pictures_once(params: Params, section: Section) -> None:
    html = render("report.html.jinja", values(params, pictures=[DrawnPicture(section, "new", "New", "Text.", PNG)]))
    assert html.count("<figcaption><b>New.</b> Text.</figcaption>") == 1


def test_the_contents_name_every_section(params: Params) -> None:
    html = render("report.html.jinja", values(params))
    assert re.findall(r'<li><a href="#(\w+)">', html) == re.findall(r'<h2 id="(\w+)">', html)


def test_a_caption_follows_its_title(params: Params) -> None:
    pictures = [DrawnPicture("draws", "a", "Title", "Text.", PNG), DrawnPicture("draws", "b", "Title?", "Text.", PNG)]
    html = render("report.html.jinja", values(params, pictures=pictures))
    assert "<b>Title.</b> Text." in html
    assert "<b>Title?</b> Text." in html


def test_untrusted_images_are_listed(params: Params) -> None:
    table = pd.DataFrame({"label": [3, 5], "trusted": [False, True], "log_px": [-12.4, 800.0]})
    assert untrusted(table) == [{"image": 0, "label": 3, "log_px": -12.4}]
    html = render("report.html.jinja", values(params, untrusted=untrusted(table)))
    assert "0 (3), −12." in html
    assert "The 1 image that is not trusted" in html


def test_images_that_are_likelier_than_digits_are_marked(params: Params) -> None:
    html = render("report.html.jinja", values(params))
    (marked,) = [line for line in html.splitlines() if "likelier than test digits<" in line]
    assert marked.startswith("<tr><td>blank</td>")
    assert "1300.0" in marked
    assert "5.0 %" in marked


@pytest.mark.parametrize(
    ("value", "digits", "text"), [(-1695.76, 1, "−1695.8"), (0.119, 3, "0.119"), (812.5, 0, "812"), (-0.04, 1, "0.0")]
)
def test_numbers_have_decimals_and_a_minus_sign(value: float, digits: int, text: str) -> None:
    assert format_number(value, digits) == text


@pytest.mark.parametrize("page", PAGES)
def test_the_share_of_missed_estimates_is_shown_with_its_interval(params: Params, page: str) -> None:
    made_up = values(params)
    assert "below the lower bound" not in render(page, made_up)
    made_up["verify"] |= {"missed": 0.012, "missed_low": 0.001, "missed_high": 0.0345}
    row = next(line for line in render(page, made_up).splitlines() if "below the lower bound" in line)
    assert re.findall(r"\d\.\d", row) == ["1.2", "0.1", "3.5"]


@pytest.mark.parametrize("page", PAGES)
def test_the_numbers_of_samples_are_beside_those_of_real_images(params: Params, page: str) -> None:
    made_up = values(params)
    text = re.sub(r" <small>±.*?</small>", "", render(page, made_up))
    starts = "<tr><td>", "| "

    def row(name: str) -> list[str]:
        (line,) = [line for line in text.splitlines() if line.startswith(tuple(start + name for start in starts))]
        return re.findall(r"\d+\.\d\d?", line.partition("<small>")[0])

    assert row("recognised<" if "html" in page else "recognised |") == ["34.5", "96.6"]
    assert row("Fréchet distance<" if "html" in page else "Fréchet distance |") == ["0.25", "0.25", "2.50"]
    assert "right for" in text
    assert "99.2 %" in text
    assert "asked for and got" in text
    del made_up["sample"]["asked_for"]  # of a model that is not conditional
    assert "asked for and got" not in render(page, made_up)


def test_a_flow_is_explained(params: Params) -> None:
    html = render("report.html.jinja", of(params, {"prior": "flow", "couplings": 5}))
    assert "first layers turn the Gaussian into the distribution over the latent space" in html
    assert "Here it has 5 couplings." in html
    assert "a mean over the same samples" in html
    assert "<td>couplings</td>" in html
    plain = render("report.html.jinja", values(params))
    assert "in closed form" in plain
    assert "couplings" not in plain
    assert "prior flow" in render("report.md.jinja", of(params, {"prior": "flow"}))


def given_label(params: Params) -> dict[str, Any]:
    """All values of a conditional model."""
    made_up = values(params)
    made_up["test"] |= {
        "log_px_given_label": 2.75, "log_px_given_label_se": 0.5, "trusted_given_label": 0.75, "accuracy": 0.975,
        "accuracy_se": 0.005,
    }  # fmt: skip
    return made_up


def test_the_elbo_of_a_conditional_model_is_a_bound_of_another_density(params: Params) -> None:
    html = render("report.html.jinja", given_label(params))
    lines = html.splitlines()
    (elbo,) = [line for line in lines if line.startswith("<tr><td>ELBO")]
    assert "a lower bound on log p(x | y)" in elbo
    (given,) = [line for line in lines if line.startswith("<tr><td>log p(x | y), mixture proposal")]
    (summed,) = [line for line in lines if line.startswith("<tr><td>log p(x), sum over all labels")]
    assert ("2.75" in given, "1.25 <small>± 0.50" in summed) == (True, True)
    assert "97.5 ± 0.5 %" in html
    assert "inference gap, log p(x | y) − ELBO" in html
    assert '<tr><td>images with a trusted log p(x | y)</td><td class="n">75.0 %</td></tr>' in html
    assert "test images: log p(x | y) above − annealed log p(x | y)" in html
    plain = render("report.html.jinja", values(params))
    assert "| y)" not in plain
    assert "sum over all labels" not in plain


def test_the_short_report_has_both_densities_of_a_conditional_model(params: Params) -> None:
    page = render("report.md.jinja", given_label(params))
    assert "| log p(x given y), mixture proposal | 2.75 | 0.50 |" in page
    assert "| log p(x), sum over all labels | 1.25 | 0.50 |" in page
    assert "inference gap, log p(x given y) − ELBO" in page
    assert "right for 97.5 ± 0.5 % of the test images" in page
    assert "given y" not in render("report.md.jinja", values(params))


def test_without_a_judge_the_report_says_so(params: Params) -> None:
    without = values(params)
    kept = ("images", "memorised", "distance")
    without["sample"] = {key: value for key, value in without["sample"].items() if key.startswith(kept)}
    without["judge"] = {"images": 0}
    for template in ("report.html.jinja", "report.md.jinja"):
        text = render(template, without)
        assert "So there is no judge" in text
        assert "The training images have no labels of two or more classes." in text
        assert "recognised" not in text.replace("no share of recognised samples", "")
    assert "7, 1." in render("report.html.jinja", without)  # an untrusted image, without its class


def test_the_report_of_colour_images_says_what_a_number_is(params: Params) -> None:
    data = values(params)["data"] | {"colour": True, "pixels": 3072, "size": "32 x 32"}
    text = render("report.html.jinja", values(params, data=data))
    assert "3072 numbers in [0, 1], red, green and blue of 32 x 32 pixels" in text
    assert "Each of these numbers counts as a pixel in this report" in text
    assert "in colour" not in render("report.html.jinja", values(params))
