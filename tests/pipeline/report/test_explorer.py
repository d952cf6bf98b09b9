"""The explorer: its JavaScript equals PyTorch, its page loads nothing, and each control changes what it should."""

import base64
import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from logpx.block import PROPOSALS
from logpx.weights import Weights
from pipeline.data.dataset import Dataset, load_dataset
from pipeline.model.activations import ACTIVATIONS
from pipeline.model.checkpoint import load_model
from pipeline.model.observations import OBSERVATIONS
from pipeline.model.vae import VAE
from pipeline.report.explorer import BINS, explorer, histogram, latent_map, measurements, payload, read_log_weights
from pipeline.report.explorer_model import MOST_BYTES, describe, rounded, rounding_cost
from pipeline.report.html import TEMPLATES
from pipeline.report.latent_paths import slerp
from pipeline.storage.tables import read_parquet
from tests.pipeline.report.made_up import SIZES, make_vae, measured
from tests.support import Run, model_settings

CANNOT_RUN = "The model cannot run in this page."
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="node, which runs the page's JavaScript, is not installed")

# Reads what to compute on stdin, one JSON object, and writes the results.
SCRIPT = """
const { load, summary, histogram, slerp } = require(process.argv[1]);
const input = JSON.parse(require("fs").readFileSync(0, "utf8"));
const list = (values) => Array.from(values);
const output = (input.models ?? []).map(({ description, x, epsilon, label }) => {
  const model = load(description), y = model.oneHot(label);
  const q = model.encode(x, y), p = model.parameters(q.mean, y), { noise, logDeterminant } = model.toNoise(q.mean, y);
  return {
    mu: list(q.mean), scale: list(q.scale), mean: list(model.mean(p)), log_likelihood: model.logLikelihood(x, p),
    noise: list(noise), log_determinant: logDeterminant, back: list(model.fromNoise(noise, y)),
    generated: list(model.generate(Float64Array.from(epsilon), y)), log_prior: model.logPrior(q.mean, y),
    log_weight: model.logWeight(x, q, Float64Array.from(epsilon), y),
  };
});
const paths = (input.paths ?? []).map(({ a, b, t }) => list(slerp(Float64Array.from(a), Float64Array.from(b), t)));
const weights = (input.weights ?? []).map((logW) => ({ ...summary(logW), ...histogram(logW, input.bins) }));
console.log(JSON.stringify({ models: output, paths, weights }));
"""


def node(**values: Any) -> dict[str, Any]:
    assert NODE is not None
    words = [NODE, "-e", SCRIPT, str(TEMPLATES / "explorer_model.js")]
    result = subprocess.run(words, input=json.dumps(values), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


MODELS: list[dict[str, Any]] = [
    {"observation": "gaussian", "activation": "silu"},
    {"observation": "gaussian", "sigma": "learned", "activation": "gelu", "prior": "flow"},
    {"observation": "gaussian_per_pixel", "activation": "elu", "condition": "label"},
    {"observation": "logistic", "activation": "relu", "prior": "flow", "condition": "label", "couplings": 4},
    {"observation": "logistic_mixture", "activation": "tanh", "components": 3},
    {"observation": "bernoulli", "prior": "flow", "latent": 2, "couplings": 1},
    {"observation": "beta_binomial", "condition": "label"},
    {"observation": "categorical", "encoder": [], "decoder": []},
    {"observation": "logistic", "latent": 1},
]


@torch.no_grad()
def by_torch(vae: VAE, x: Tensor, epsilon: Tensor, label: Tensor) -> dict[str, Any]:
    """What `SCRIPT` computes of one image, in the precision of the model."""
    q = vae.encoder(x, label)
    mu, scale = q.mean, q.stddev
    p = vae.decoder(mu, label)
    flow = vae.prior.flow
    noise, log_determinant = (mu, torch.zeros(1)) if flow is None else flow.to_noise(mu, label)
    z = mu + scale * epsilon
    log_weight = vae.decoder(z, label).log_prob(x) + vae.prior(label).log_prob(z) - q.log_prob(z)
    found = {
        "mu": mu, "scale": scale, "mean": p.mean, "log_likelihood": p.log_prob(x), "noise": noise,
        "log_determinant": log_determinant, "back": mu, "generated": vae.generate(epsilon, label).mean,
        "log_prior": vae.prior(label).log_prob(mu), "log_weight": log_weight,
    }  # fmt: skip
    return {name: values[0].tolist() for name, values in found.items()}


@needs_node
def test_the_page_computes_what_pytorch_does_with_the_same_rounded_weights(
    tiny: Dataset,
) -> None:
    """In float64, as JavaScript. Only its error function is an approximation, to 1.2e-7."""
    cases, expected = [], []
    for changes in MODELS:
        vae = make_vae(tiny, **changes)
        settings = model_settings(**SIZES | changes)
        x, label = vae.images.read_fixed(tiny.test_images[3:4], 1).double(), tiny.test_labels[3:4].long()
        epsilon = torch.randn(1, vae.latent, dtype=torch.float64)
        case = {"x": x[0].tolist(), "epsilon": epsilon[0].tolist(), "label": int(label)}
        cases.append(case | {"description": describe(vae, settings)})
        # Encoders of discrete models divide levels, which are integers: the quotient has the default type.
        torch.set_default_dtype(torch.float64)
        try:
            expected.append(by_torch(rounded(vae).double(), x, epsilon, label))
        finally:
            torch.set_default_dtype(torch.float32)
    for changes, found, right in zip(MODELS, node(models=cases)["models"], expected, strict=True):
        assert found.keys() == right.keys()
        for name, values in right.items():
            assert found[name] == pytest.approx(values, rel=1e-6, abs=1e-5), (changes, name)


def test_these_models_have_every_option_that_an_mlp_can_have() -> None:
    """An observation model or activation that the page does not know yet is to be added to explorer_model.js."""
    assert {model["observation"] for model in MODELS} == set(OBSERVATIONS)
    assert {model.get("activation", "silu") for model in MODELS} == set(ACTIVATIONS)


@needs_node
def test_rounding_changes_no_pixel_by_more_than_one_grey_level_of_256(results: Path) -> None:
    """Of a trained model. The page's own mean is compared with that of the weights before rounding."""
    vae, description, _ = load_model(results / "models/vae.safetensors", torch.device("cpu"))
    dataset = load_dataset(results / "data/images.safetensors")
    x, y = vae.images.read_clean(dataset.test_images[:200]), dataset.test_labels[:200].long()
    assert 0 < rounding_cost(vae, x, y) < 1 / 255
    case = {"description": describe(vae, description.model), "epsilon": [0.0] * vae.latent, "label": 0}
    found = node(models=[case | {"x": image.tolist()} for image in x[:20]])["models"]
    for image, label, output in zip(x, y, found, strict=False):
        with torch.no_grad():
            mean = vae.decoder(vae.encoder(image, label).mean, label).mean
        assert (torch.tensor(output["mean"]) - mean).abs().max() < 1 / 255


@needs_node
def test_paths_are_great_circles_as_in_the_report() -> None:
    a, b = torch.randn(2, 4, 6, dtype=torch.float64)
    b[3] = -2 * a[3]  # opposite ends: a straight line
    expected = slerp(a, b, 5)
    cases = [{"a": a[i].tolist(), "b": b[i].tolist(), "t": k / 4} for i in range(4) for k in range(5)]
    found = torch.tensor(node(paths=cases)["paths"], dtype=torch.float64).view(4, 5, 6)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@needs_node
def test_weights_are_judged_as_in_the_table() -> None:
    """The page's histogram of the encoder's weights has the bins of the one that Python makes of the measured ones."""
    log_w = [(scale * torch.randn(128, dtype=torch.float64) - 700) for scale in (0.5, 3.0, 20.0)]
    found = node(weights=[w.tolist() for w in log_w], bins=BINS)["weights"]
    for w, result in zip(log_w, found, strict=True):
        weights = Weights.of(w[:, None])
        assert result["logMean"] == pytest.approx(float(weights.log_mean))
        assert result["ess"] == pytest.approx(float(weights.effective_sample_size))
        assert result["meanLog"] == pytest.approx(float(w.mean()))
        assert result["largest"] == pytest.approx(float(w.softmax(0).max()))
        expected = histogram(w.numpy())
        assert expected is not None
        for name in ("samples", "weight"):
            assert sum(expected[name]) == pytest.approx(1, abs=1e-3)
            assert result[name] == pytest.approx(expected[name], abs=1e-5)


def test_a_histogram_shows_where_the_sum_comes_from() -> None:
    """Nine weights of 1 and one of e⁴, whose mean is 6.36: bins of half a nat from −12 on."""
    log_w = np.array([0.0] * 9 + [4.0])
    found = histogram(log_w)
    assert found is not None
    mean = math.log((9 + math.e**4) / 10)
    low, high = (math.floor((w - mean + 12) / 0.5) for w in (0.0, 4.0))
    assert {b: s for b, s in enumerate(found["samples"]) if s} == {low: 0.9, high: 0.1}
    assert found["weight"][high] == pytest.approx(math.e**4 / (9 + math.e**4), abs=1e-4)
    assert histogram(np.array([np.nan, 0.0])) is None
    assert histogram(np.full(3, -np.inf)) is None


def inputs(folder: Path) -> tuple[VAE, Any, Dataset, pd.DataFrame, list[Tensor]]:
    """What stage report gives to `explorer`."""
    vae, description, _ = load_model(folder / "models/vae.safetensors", torch.device("cpu"))
    table = read_parquet(folder / "reports/images.parquet")
    weights = read_log_weights(folder / "reports/log_weights.safetensors")
    return vae, description.model, load_dataset(folder / "data/images.safetensors"), table, weights


def test_the_page_is_one_file_that_loads_nothing(results: Path) -> None:
    page = (results / "reports/explorer.html").read_text(encoding="utf-8")
    assert re.findall(r'(?:src|href)="[^"]*"', page) == ['href="report.html"'] * page.count('href="report.html"')
    assert "default-src 'none'" in page
    assert not re.search(r"https?://|url\(|import\(|fetch\(|XMLHttpRequest|localStorage", page)
    assert len(re.findall("<script", page)) == len(re.findall("</script>", page)) == 7


def test_the_same_inputs_give_the_same_page(results: Path) -> None:
    page = (results / "reports/explorer.html").read_text(encoding="utf-8")
    assert explorer(*inputs(results)) == page


def test_the_page_has_the_numbers_of_the_table(results: Path) -> None:
    vae, settings, dataset, table, weights = inputs(results)
    found = payload(vae, settings, dataset, table, weights)["measured"]
    assert len(weights) == 200
    assert found["value"] == [round(value, 3) for value in table["log_px"][:200].tolist()]
    assert found["trusted"] == table["trusted"][:200].tolist()
    assert found["samples"] == table["samples"][:200].astype(int).tolist()
    first = found["histogram"][0]
    assert sum(first["samples"]) == pytest.approx(1, abs=1e-3)
    assert found["largest"][0] == pytest.approx(float(weights[0].softmax(0).max()), abs=1e-3)


@pytest.mark.parametrize("proposal", PROPOSALS)
def test_the_page_names_the_proposal_that_was_measured(tiny: Dataset, proposal: str) -> None:
    page = explorer(make_vae(tiny), model_settings(**SIZES), tiny, *measured(20), proposal)
    words = {"encoder": "The encoder as proposal", "prior": "The prior as proposal"}
    assert f'"proposal":"{words.get(proposal, "Proposal fitted to this image")}"' in page


def test_numbers_that_are_not_finite_are_left_out() -> None:
    columns = ("elbo", "log_px", "log_px_se", "ess", "khat")
    table = pd.DataFrame({name: [np.nan, -np.inf, 1.25] for name in columns} | {"trusted": [False, False, True]})
    found = measurements(table, [torch.full((2,), torch.nan), torch.full((2,), -torch.inf), torch.zeros(2)])
    assert found["value"] == found["khat"] == [None, None, 1.25]
    assert [h is None for h in found["histogram"]] == [True, True, False]
    json.dumps(found, allow_nan=False)


def test_a_conditional_model_shows_the_weights_of_the_own_label() -> None:
    columns = {"elbo": 1.0, "log_px": 2.0, "log_px_se": 0.1, "trusted": True, "ess": 9.0, "khat": 0.1}
    given = {"log_px_given_label": 3.0, "log_px_se_given_label": 0.2, "trusted_given_label": False}
    found = measurements(pd.DataFrame([columns | given]), [torch.zeros(4)])
    assert (found["value"], found["error"], found["trusted"], found["sum"]) == ([3.0], [0.2], [False], [2.0])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network": "conv", "width": 4}, "The page runs fully connected networks only"),
        ({"encoder": [2000, 2000]}, "its weights take 16.8 MB in half precision"),
        ({"decoder": [512], "observation": "logistic_mixture", "components": 20}, "too large for the page"),
    ],
)
def test_a_model_that_does_not_fit_gets_a_page_that_says_so(tiny: Dataset, changes: dict[str, Any], words: str) -> None:
    images = torch.zeros(20, 28, 28, dtype=torch.uint8)
    shows_measurements_only(tiny, images, changes, words)


def test_a_model_of_colour_images_gets_a_page_that_says_so(tiny: Dataset) -> None:
    shows_measurements_only(tiny, torch.zeros(20, 3, 28, 28, dtype=torch.uint8), {}, "The page draws grey images only")


def shows_measurements_only(tiny: Dataset, images: Tensor, changes: dict[str, Any], words: str) -> None:
    dataset = Dataset("large", 17, images, tiny.test_labels, images, tiny.test_labels)
    settings = model_settings(**changes)
    table, log_weights = measured(20)
    page = explorer(VAE(settings, dataset.format("none")), settings, dataset, table, log_weights)
    assert CANNOT_RUN in page
    assert words in page
    assert 'href="report.html"' in page
    data = data_of(page)
    assert data["measured"] == measurements(table, log_weights)
    assert base64.b64decode(data["images"]) == bytes(images.numel())
    assert not {"model", "map"} & set(data)
    assert "Draw a" not in page


def data_of(page: str) -> dict[str, Any]:
    return json.loads(page.partition('id="data">')[2].partition("</script>")[0])


def test_weights_beyond_half_precision_are_refused(tiny: Dataset) -> None:
    vae = make_vae(tiny)
    next(vae.decoder.parameters()).data[0, 0] = 1e5
    assert "half precision cannot represent" in explorer(vae, model_settings(), tiny, *measured(20))


def test_the_page_of_large_images_has_some_of_them(tiny: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = model_settings(network="conv", width=4)
    monkeypatch.setattr("pipeline.report.explorer.MOST_PIXELS", 100)
    page = explorer(VAE(settings, tiny.format()), settings, tiny, *measured(20))
    assert len(data_of(page)["labels"]) == len(data_of(page)["measured"]["value"]) == 3


def test_the_largest_model_that_fits_gives_a_page_of_at_most_8_mb(tiny: Dataset) -> None:
    """784 pixels, 7 MB of weights, 200 images with 44 bins each whose numbers have all digits, 2 000 points."""
    count = 2_000
    images = torch.randint(0, 256, (count, 28, 28), dtype=torch.uint8)
    labels = torch.arange(count) % 10
    dataset = Dataset("large", 256, images, labels, images, labels)
    settings = model_settings(encoder=[1050, 700], decoder=[700, 500], prior="flow", couplings=16)
    vae = VAE(settings, dataset.format("none")).eval()
    columns = ("elbo", "log_px", "log_px_se", "ess", "khat")
    table = pd.DataFrame({name: np.full(count, -1234.5678) for name in columns}).assign(trusted=True)
    page = explorer(vae, settings, dataset, table, [3 * torch.randn(1024) for _ in range(200)])
    assert CANNOT_RUN not in page
    assert 6_500_000 < len(page.encode()) <= MOST_BYTES


def test_the_map_separates_the_classes() -> None:
    """Five dimensions: classes differ along two directions, and vary more along the others."""
    generator = np.random.default_rng(0)
    labels = np.arange(300) % 3
    noise = generator.standard_normal((300, 5)) * [3.0, 0.1, 3.0, 0.1, 3.0]
    noise[:, 1] += labels == 1
    noise[:, 3] += labels == 2
    found = latent_map(noise, labels, conditional=False)
    basis = np.array(found["basis"])
    assert found["separated"]
    assert basis @ basis.T == pytest.approx(np.eye(2), abs=1e-4)
    assert np.abs(basis[:, [0, 2, 4]]).max() < 0.05
    assert np.array(found["points"]) == pytest.approx(noise @ basis.T, abs=0.01)
    assert set(found["order"][:3]) == {0, 2, 4}


@pytest.mark.parametrize(("latent", "conditional"), [(1, False), (2, False), (3, True)])
def test_a_map_without_discriminants_has_the_leading_coordinates(latent: int, conditional: bool) -> None:
    noise = np.random.default_rng(0).standard_normal((40, latent)) * np.arange(1, latent + 1)
    found = latent_map(noise, np.arange(40) % 4, conditional=conditional)
    assert not found["separated"]
    points = np.array(found["points"])
    if latent == 1:
        assert found["basis"] == [[1.0], [0.0]]
        assert points[:, 0] == pytest.approx(noise[:, 0], abs=0.01)
        assert len(set(points[:, 1])) == 4
    else:
        assert points == pytest.approx(noise[:, -2:], abs=0.01)
    assert found["order"] == list(range(latent))[::-1]


def test_a_file_without_log_weights_is_refused(results: Path, workspace: Path, run: Run, capsys: Any) -> None:
    shutil.copy("reports/samples.safetensors", "reports/log_weights.safetensors")
    assert run("report") == 1
    assert "log_weights.safetensors has no log-weights of images" in capsys.readouterr().err


def test_a_hostile_name_stays_text(tiny: Dataset) -> None:
    vae = make_vae(tiny)
    dataset = replace(tiny, name="</script><b>")
    settings = model_settings(**SIZES)
    page = explorer(vae, settings, dataset, *measured(20))
    assert "</script><b>" not in page


@pytest.mark.parametrize("changes", MODELS, ids=lambda changes: f"{changes['observation']}-{changes.get('latent', 5)}")
def test_every_model_has_a_page(tiny: Dataset, changes: dict[str, Any]) -> None:
    vae = make_vae(tiny, **changes)
    settings = model_settings(**SIZES | changes)
    page = explorer(vae, settings, tiny, *measured(20))
    assert CANNOT_RUN not in page
    assert ('id="given"' in page) == ("condition" in changes)
    assert ("What σ does" in page) == (changes["observation"] == "gaussian")
    assert ('"binarised":true' in page) == (changes["observation"] == "bernoulli")
