"""The report: self-contained, escaped, complete; and no figure goes without a caption."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import ROOT

from pipeline import report
from pipeline.config import Params
from pipeline.errors import UserError
from pipeline.files import read_metrics
from pipeline.gallery import PICTURES
from pipeline.probes import Row

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


def values(params: Params, **changes: Any) -> dict[str, Any]:
    names = ("elbo", "reconstruction", "kl", "log_px", "gap", "converged", "image_se_median", "khat_median")
    test: dict[str, Any] = dict.fromkeys(
        (*names, "ess_median", "evaluations_mean", "prior_log_px", "prior_ess_median", "samples_mean"), 1.25
    )
    test |= {f"{name}_se": 0.5 for name in names} | {"encoder_short": 9.0, "encoder_ess_median": 1.1}
    test |= {"trusted": 0.1, "images": 360, "encoder_images": 20, "not_finite": 0}
    terms = {"elbo": 1.0}
    return {
        "params": params.model_dump(),
        "data": {"name": "digits", "levels": 17, "pixels": 64},
        "train": {"epoch": 3, "train": terms, "validation": terms},
        "test": test,
        "verify": dict.fromkeys(
            (
                n + end
                for n in (
                    "difference",
                    "bdmc_gap",
                    "above_lower",
                    "below_upper",
                    "approximation_gap",
                    "amortisation_gap",
                )
                for end in ("", "_se")
            ),
            0.5,
        )
        | {"images": 4},
        "compare": dict.fromkeys((n + end for n in ("independent", "ppca", "variances") for end in ("", "_se")), 2.5)
        | {"auroc_blank": 0.125, "auroc_upside_down": 0.75},
        "median": 812.5,
        "probes": [
            Row("blank", 20, median=1300.0, trusted=0.05, auroc=0.125, auroc_se=0.01),
            Row("upside down", 20, median=306.25, trusted=0.8, auroc=0.75, auroc_se=0.02),
        ],
        "untrusted": [{"image": 7, "label": 3, "log_px": 1.0}],
        "ceiling": 100.0,
        "rule": {"minimum_ess": 10.0},
        "pictures": [report.Picture("samples", report.CAPTIONS["samples"], PNG)],
        "overview": "overview.png",
        "lineage": {
            "data": "d" * 64,
            "model": "m" * 64,
            "code": "c" * 64,
            "versions": "torch 2",
            "trained_on": "one machine",
            "measured_on": "another",
        },
    } | changes


def test_the_html_is_one_file_that_asks_for_nothing(params: Params) -> None:
    html = report.render("report.html.jinja", values(params))
    assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', html) == []
    assert "<script" not in html
    assert "url(" not in html
    assert "data:image/png;base64," in html
    assert html.count("<math") > 10
    assert all(f"<td>{key}</td>" in html for section in params.model_dump().values() for key in section)


def test_every_value_is_escaped_in_html(params: Params) -> None:
    hostile = "<script>alert(1)</script>"
    html = report.render("report.html.jinja", values(params, data={"name": hostile, "levels": 17, "pixels": 64}))
    assert hostile not in html
    assert "&lt;script&gt;" in html


@pytest.mark.parametrize("template", ["report.html.jinja", "report.md.jinja"])
def test_an_untrusted_number_is_warned_of_and_a_trusted_one_is_not(params: Params, template: str) -> None:
    few, many = values(params), values(params)
    many["test"] = many["test"] | {"trusted": 0.995}
    assert "lower bound, in expectation, and no more" in report.render(template, few)
    assert "lower bound, in expectation, and no more" not in report.render(template, many)


def test_a_value_that_is_missing_is_an_error(params: Params) -> None:
    incomplete = values(params)
    del incomplete["test"]["kl"]
    with pytest.raises(Exception, match="kl"):
        report.render("report.html.jinja", incomplete)


def test_every_picture_has_a_caption_and_every_caption_a_picture() -> None:
    assert list(report.CAPTIONS) == list(PICTURES)


def test_figures_without_caption_or_none_at_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no figures"):
        report.pictures(tmp_path)
    (tmp_path / "samples.png").write_bytes(PNG)
    assert [p.name for p in report.pictures(tmp_path)] == ["samples"]
    (tmp_path / "new.png").write_bytes(PNG)
    with pytest.raises(UserError, match="no caption for new"):
        report.pictures(tmp_path)


@pytest.mark.parametrize(("content", "told"), [(None, "is missing"), ("{", "is damaged"), ("", "is damaged")])
def test_metrics_that_cannot_be_read_are_told(tmp_path: Path, content: str | None, told: str) -> None:
    path = tmp_path / "train.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=told):
        read_metrics(path)


def test_the_code_digest_changes_with_code_and_templates_alone(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    (tmp_path / "b.jinja").write_text("2")
    first = report.code_digest([tmp_path])
    (tmp_path / "notes.txt").write_text("3")
    assert report.code_digest([tmp_path]) == first
    (tmp_path / "b.jinja").write_text("3")
    assert report.code_digest([tmp_path]) != first
    assert report.code_digest([ROOT / "pipeline"]) == report.code_digest([ROOT / "pipeline"])


def test_untrusted_images_are_named(params: Params) -> None:
    table = pd.DataFrame({"label": [3, 5], "trusted": [False, True], "log_px": [-12.4, 800.0]})
    assert report.untrusted(table) == [{"image": 0, "label": 3, "log_px": -12.4}]
    html = report.render("report.html.jinja", values(params, untrusted=report.untrusted(table)))
    assert "0 (3), -12." in html
    assert "The 1 image" in html


def test_what_the_model_finds_likelier_than_digits_is_said(params: Params) -> None:
    html = report.render("report.html.jinja", values(params))
    assert html.count("finds these likelier than digits") == 1
    assert "1300.0" in html
    assert "5.0 %" in html
