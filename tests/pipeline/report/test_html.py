"""The report: it opens offline, it is escaped and complete, and it warns of numbers that cannot be trusted."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from jinja2 import UndefinedError

from pipeline.config import Params
from pipeline.errors import UserError
from pipeline.evaluation.auroc import ProbeSummary
from pipeline.report.html import DrawnPicture, data_uri, format_number, load_pictures, render, untrusted
from pipeline.report.parameters import read_parameters
from pipeline.report.pictures import PICTURES

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
PAGES = ["report.html.jinja", "report.md.jinja"]


def values(params: Params, **changes: Any) -> dict[str, Any]:
    """All values of the templates, made up."""
    means = ("elbo", "reconstruction", "kl", "log_px", "gap")
    others = (
        "converged", "rescued", "image_se_median", "khat_median", "ess_median", "evaluations_mean", "prior_log_px",
        "prior_ess_median", "samples_mean",
    )  # fmt: skip
    second = ("difference", "bdmc_gap", "above_lower", "below_upper", "approximation_gap", "amortisation_gap")
    baselines = ("independent", "ppca", "variances")
    return {
        "params": params.model_dump(),
        "parameters": read_parameters(params.model_dump()),
        "data": {"name": "digits", "levels": 17, "pixels": 64},
        "train": {"epoch": 3, "train": {"elbo": 1.0}, "validation": {"elbo": 1.0}},
        "test": {
            **dict.fromkeys((*means, *others), 1.25), **{f"{name}_se": 0.5 for name in means}, "encoder_short": 9.0,
            "encoder_ess_median": 1.1, "trusted": 0.1, "images": 360, "encoder_images": 20, "not_finite": 0,
        },
        "verify": dict.fromkeys((name + end for name in second for end in ("", "_se")), 0.5) | {"images": 4},
        "compare": dict.fromkeys((name + end for name in baselines for end in ("", "_se")), 2.5)
        | {"auroc_blank": 0.125, "auroc_upside_down": 0.75},
        "median": 812.5,
        "probes": [
            ProbeSummary("blank", 20, median=1300.0, trusted=0.05, auroc=0.125, auroc_se=0.01),
            ProbeSummary("upside down", 20, median=-306.25, trusted=0.8, auroc=0.75, auroc_se=0.02),
        ],
        "untrusted": [{"image": 7, "label": 3, "log_px": 1.0}],
        "ceiling": 100.0,
        "rule": {"minimum_ess": 10.0},
        "left_out": {"The learned manifold": "z has 3 dimensions"},
        "pictures": [DrawnPicture("samples", "Samples", "What to see.", PNG)],
        "overview": "overview.png",
        "lineage": {
            "data": "d" * 64, "model": "m" * 64, "code": "c" * 64, "versions": "torch 2",
            "trained_on": "one machine", "measured_on": "another",
        },
    } | changes  # fmt: skip


def test_the_html_is_one_file_that_loads_nothing(params: Params) -> None:
    html = render("report.html.jinja", values(params))
    assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', html) == []
    assert "<script" not in html
    assert "url(" not in html
    assert data_uri(PNG) in html
    assert html.count("<math") > 10


def test_the_html_lists_every_parameter_that_is_read(params: Params) -> None:
    html = render("report.html.jinja", values(params))
    assert all(f"<td>{key}</td>" in html for section in params.model_dump().values() for key in section)
    assert '<tr><td>degrees_of_freedom</td><td class="n">null</td></tr>' in html
    assert "The activation is silu." in html


def test_the_html_leaves_out_parameters_that_are_not_read(params: Params) -> None:
    model = params.model.model_copy(update={"encoder": (), "decoder": ()})
    sections = params.model_copy(update={"model": model}).model_dump()
    html = render("report.html.jinja", values(params) | {"params": sections, "parameters": read_parameters(sections)})
    assert "<td>activation</td>" not in html
    assert "The activation is" not in html
    assert '<tr><td>encoder</td><td class="n">[]</td></tr>' in html
    assert "has no hidden layer" in html


def test_every_value_is_escaped_in_html(params: Params) -> None:
    hostile = "<script>alert(1)</script>"
    html = render("report.html.jinja", values(params, data={"name": hostile, "levels": 17, "pixels": 64}))
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


def test_pictures_are_in_the_order_of_the_report_with_their_captions_or_reasons(tmp_path: Path) -> None:
    for name in PICTURES:
        (tmp_path / f"{name}.png").write_bytes(PNG + name.encode())
    names = sorted(PICTURES)
    table = pd.DataFrame({"picture": names, "left_out": ["a reason" * (name == "manifold") for name in names]})
    found, left_out = load_pictures(tmp_path, table)
    assert [picture.name for picture in found] == [name for name in PICTURES if name != "manifold"]
    assert left_out == {PICTURES["manifold"].title: "a reason"}
    for picture in found:
        assert (picture.title, picture.caption) == (PICTURES[picture.name].title, PICTURES[picture.name].caption)
        assert picture.png == PNG + picture.name.encode()


def test_a_missing_or_an_unknown_picture_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no picture samples; run `dvc repro`"):
        load_pictures(tmp_path, pd.DataFrame({"picture": ["samples", "manifold"], "left_out": ["", "a reason"]}))
    with pytest.raises(UserError, match=r"no function draws new; .*pipeline/report/pictures\.py"):
        load_pictures(tmp_path, pd.DataFrame({"picture": ["new"], "left_out": [""]}))


def test_a_picture_that_is_left_out_is_named_with_its_reason(params: Params) -> None:
    html = render("report.html.jinja", values(params, left_out={"A title": "a < b", "Why?": "because"}))
    assert "<b>A title</b> (a &lt; b)." in html
    assert "<b>Why?</b> (because)." in html


OPTIONAL = (
    "encoder_short", "encoder_ess_median", "prior_log_px", "prior_ess_median", "khat_median", "image_se_median",
)  # fmt: skip


@pytest.mark.parametrize(
    ("template", "lines"),
    [
        ("report.html.jinja", [
            '<tr><td>ELBO</td><td class="n">1.25</td>', "<span>ELBO, ± –</span>", '<td class="n">– lower</td>',
            'lower bound</td><td class="n">–</td>', 'no latent variable</td><td class="n">2.5</td>',
            '<td class="n">0.125</td><td>likelier than digits</td>',
        ]),
        ("report.md.jinja", [
            "| ELBO | 1.25 | – | |", "| – lower | | – |", "| prior Monte Carlo | – | | – |",
            "4 simulated images | – | – |", "the same σ | 2.5 | – |",
        ]),
    ],
)  # fmt: skip
def test_metrics_that_do_not_exist_are_dashes(params: Params, template: str, lines: list[str]) -> None:
    """One image has no standard error. A metric that is not finite is absent."""
    whole = values(params)
    one = whole | {
        "test": {name: v for name, v in whole["test"].items() if not name.endswith("_se") and name not in OPTIONAL},
        "verify": {"images": 4},
        "compare": {name: v for name, v in whole["compare"].items() if not name.endswith("_se")},
        "probes": [row._replace(auroc_se=None) for row in whole["probes"]],
    }
    page = render(template, one)
    assert all(line in page for line in lines)
    assert not any(line in render(template, whole) for line in lines)


def test_a_caption_follows_its_title(params: Params) -> None:
    pictures = [DrawnPicture("a", "Title", "Text.", PNG), DrawnPicture("b", "Title?", "Text.", PNG)]
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
    (marked,) = [line for line in html.splitlines() if "likelier than digits<" in line]
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
