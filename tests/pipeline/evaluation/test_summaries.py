"""Summaries of the measured tables: means, standard errors and differences with their right signs."""

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.data.image_format import ImageFormat
from pipeline.errors import UserError
from pipeline.evaluation import second_opinions, test_images
from pipeline.evaluation.summary import plus_minus

IMAGES = ImageFormat(8, 10, 256)  # the uniform density has 8 bits per pixel


def measured(**changes: list[float]) -> pd.DataFrame:
    """Two measured test images."""
    columns: dict[str, list[float]] = {
        "elbo": [1.0, 2.0], "reconstruction": [11.0, 13.0], "kl": [10.0, 11.0], "log_px": [3.0, 5.0],
        "log_px_se": [0.1, 0.3], "ess": [20.0, 40.0], "khat": [0.1, 0.3], "samples": [64.0, 256.0],
        "trusted": [1.0, 0.0], "converged": [1.0, 1.0], "rescued": [0.0, 1.0], "evaluations": [100.0, 300.0],
        "encoder_log_px": [1.0, np.nan], "encoder_ess": [1.5, np.nan],
        "prior_log_px": [-9.0, -11.0], "prior_ess": [1.0, 3.0],
    }  # fmt: skip
    return pd.DataFrame(columns | changes)


def test_the_summary_of_the_test_images_has_the_right_numbers() -> None:
    assert test_images.summarise(measured(), IMAGES) == {
        "images": 2, "not_finite": 0, "elbo": 1.5, "elbo_se": 0.5, "reconstruction": 12.0, "reconstruction_se": 1.0,
        "kl": 10.5, "kl_se": 0.5, "log_px": 4.0, "log_px_se": 1.0, "bits_per_dim": 7.9279, "gap": 2.5,
        "trusted": 0.5, "converged": 1.0,
        "rescued": 0.5, "samples_mean": 160.0, "evaluations_mean": 200.0, "image_se_median": 0.2, "ess_median": 30.0,
        "khat_median": 0.2, "encoder_images": 1, "encoder_short": 2.0, "encoder_ess_median": 1.5,
        "prior_images": 2, "prior_log_px": -10.0, "prior_ess_median": 2.0,
    }  # fmt: skip


def test_images_without_a_finite_number_are_in_no_mean_but_are_counted() -> None:
    three = pd.concat([measured(), measured(log_px=[np.nan, 7.0], elbo=[1.0, np.inf])], ignore_index=True)
    found = test_images.summarise(three, IMAGES)
    assert (found["images"], found["not_finite"], found["log_px"]) == (2, 2, 4.0)
    with pytest.raises(UserError, match=r"no test image has a finite ELBO and log p\(x\); .*model\.sigma"):
        test_images.summarise(measured(log_px=[np.nan, np.nan]), IMAGES)


@pytest.mark.parametrize("khat", [[-np.inf, -np.inf], [np.inf, np.inf], [-np.inf, np.inf], [0.1, np.nan]])
def test_a_median_that_is_not_finite_is_absent(khat: list[float]) -> None:
    expected = test_images.summarise(measured(), IMAGES)
    assert expected.pop("khat_median") == 0.2
    assert test_images.summarise(measured(khat=khat), IMAGES) == expected


def test_one_image_has_means_without_standard_errors() -> None:
    found = test_images.summarise(measured().head(1), IMAGES)
    assert (found["images"], found["elbo"], found["log_px"], found["gap"]) == (1, 1.0, 3.0, 2.0)
    assert not [name for name in found if name.endswith("_se")]
    assert found.keys() == {name for name in test_images.summarise(measured(), IMAGES) if not name.endswith("_se")}
    of_one = second_opinions.summarise(verified().iloc[[0, 3]])
    assert of_one == {
        "images": 1, "not_finite": 0, "difference": 0.5, "approximation_gap": 3.0, "amortisation_gap": 5.0,
        "bdmc_gap": 1.5, "above_lower": 1.0, "below_upper": 0.5, "trusted": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"encoder_log_px": [np.nan, np.nan]},
        {"encoder_log_px": [-np.inf, np.nan]},
        {"encoder_log_px": [1.0, np.nan], "log_px": [np.nan, 5.0]},
    ],
)
def test_without_an_image_to_compare_the_encoders_estimate_is_absent(changes: dict[str, list[float]]) -> None:
    found = test_images.summarise(measured(**changes), IMAGES)
    assert found["encoder_images"] == 0
    assert not {"encoder_short", "encoder_ess_median"} & found.keys()


def test_a_mean_that_is_not_finite_is_absent() -> None:
    found = test_images.summarise(measured(prior_log_px=[-np.inf, 1.0], prior_ess=[np.nan, 1.0]), IMAGES)
    assert not {"prior_log_px", "prior_ess_median"} & found.keys()


def test_prior_monte_carlo_may_have_measured_fewer_images() -> None:
    found = test_images.summarise(measured(prior_log_px=[-9.0, np.nan], prior_ess=[3.0, np.nan]), IMAGES)
    assert (found["prior_images"], found["prior_log_px"], found["prior_ess_median"]) == (1, -9.0, 3.0)


def trained(log_px: list[float]) -> dict[str, torch.Tensor]:
    return {"log_px": torch.tensor(log_px, dtype=torch.float64), "trusted": torch.tensor([True, False, True])}


def test_the_summary_of_training_images_has_the_right_numbers() -> None:
    found = test_images.summarise_training(trained([3.0, 5.0, 7.0]), IMAGES)
    assert found == {
        "images": 3, "trusted": 0.6667, "log_px": 5.0, "log_px_se": round(2 / 3**0.5, 4), "bits_per_dim": 7.9098,
    }  # fmt: skip
    assert found["bits_per_dim"] == pytest.approx(8 - 5 / (80 * np.log(2)), abs=1e-4)
    few = test_images.summarise_training(trained([3.0, np.nan, 7.0]), IMAGES)
    assert (few["images"], few["log_px"]) == (2, 5.0)
    none = test_images.summarise_training(trained([np.nan] * 3), IMAGES)
    assert none["images"] == 0
    assert not {"log_px", "bits_per_dim"} & none.keys()


def test_a_large_number_is_what_it_is() -> None:
    assert test_images.summarise(measured(prior_log_px=[-4e9, -2e9]), IMAGES)["prior_log_px"] == -3e9


@pytest.mark.parametrize(
    ("metrics", "text"),
    [({"a": -1.25, "a_se": 0.5}, "-1.25 ± 0.50"), ({"a": 1.25}, "1.25"), ({"b": 1.0}, "not finite")],
)
def test_a_metric_is_printed_with_its_error_if_it_has_one(metrics: dict[str, float], text: str) -> None:
    assert plus_minus(metrics, "a") == text


def verified() -> pd.DataFrame:
    """Two test images and two simulated ones, of which the first is trusted."""
    test = {
        "kind": "test",
        "log_px": [10.0, 12.0],
        "annealed": [9.5, 11.5],
        "best_elbo": [7.0, 9.0],
        "elbo": [2.0, 4.0],
    }
    simulated = {"kind": "simulated", "log_px": [20.0, 22.0], "annealed": [19.0, 21.0], "upper": [20.5, 22.5]}
    errors = {"log_px_se": 0.3, "annealed_se": 0.4, "trusted": [True, False]}
    return pd.concat([pd.DataFrame(test | errors), pd.DataFrame(simulated | errors)], ignore_index=True)


def test_the_summary_of_second_opinions_has_the_right_signs_and_errors() -> None:
    assert second_opinions.summarise(verified()) == {
        "images": 2, "not_finite": 0,
        "difference": 0.5, "difference_se": 0.0, "approximation_gap": 3.0, "approximation_gap_se": 0.0,
        "amortisation_gap": 5.0, "amortisation_gap_se": 0.0, "bdmc_gap": 1.5, "bdmc_gap_se": 0.0,
        "above_lower": 1.0, "above_lower_se": 0.0, "below_upper": 0.5, "below_upper_se": 0.0,
        # No miss of one: the interval ends where a miss would be as rare as 2.5 %.
        "trusted": 1, "missed": 0.0, "missed_low": 0.0, "missed_high": 0.975,
    }  # fmt: skip
    table = verified()
    table["annealed"] = [9.5, 9.5, 19.0, 19.0]  # differences 0.5, 2.5; 1, 3; upper − annealed 1.5, 3.5
    found = second_opinions.summarise(table)
    assert [found[name] for name in ("difference", "above_lower", "bdmc_gap")] == [1.5, 2.0, 2.5]
    assert [found[f"{name}_se"] for name in ("difference", "above_lower", "bdmc_gap")] == [1.0, 1.0, 1.0]


def test_a_trusted_estimate_significantly_below_the_lower_bound_is_missed() -> None:
    """Its error and the bound's, 0.3 and 0.4, add up to 0.5: more than 1.5 nats below is significant."""
    for below, missed in (1.45, 0.0), (1.55, 1.0):
        table = verified()
        table.loc[2, "annealed"] = 20 + below
        table.loc[3, "annealed"] = 99.0  # not trusted, so it is judged as nothing
        found = second_opinions.summarise(table)
        assert (found["trusted"], found["missed"]) == (1, missed)
    table["trusted"] = True
    found = second_opinions.summarise(table)
    assert (found["trusted"], found["missed"]) == (2, 1.0)
    assert found["missed_low"] == pytest.approx(0.025**0.5, abs=1e-4)
    table["trusted"] = False
    found = second_opinions.summarise(table)
    assert found["trusted"] == 0
    assert "missed" not in found


def test_differences_that_are_not_finite_are_in_no_mean_but_are_counted() -> None:
    table = verified()
    table.loc[0, "annealed"] = np.nan
    found = second_opinions.summarise(table)
    assert (found["difference"], found["not_finite"]) == (0.5, 1)
    assert "difference_se" not in found
    table["best_elbo"] = np.nan
    found = second_opinions.summarise(table)
    assert found["not_finite"] == 1 + 2 + 2
    assert not {"approximation_gap", "amortisation_gap"} & found.keys()
    assert found["bdmc_gap"] == 1.5
