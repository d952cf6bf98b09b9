"""All mistakes in params.yaml are reported at once, each with its key, its value and what is allowed."""

import subprocess
import sys
from pathlib import Path

import pytest

from logpx.block import GROWTH, Settings
from logpx.noise import LEVELS
from pipeline.config import LARGEST_BUDGET, ParameterError, Params, check_params, load_params, read_yaml
from pipeline.model.observations import OBSERVATIONS
from tests.support import ROOT, STAGES, command, run_in_process

GOOD = (ROOT / "params.yaml").read_text(encoding="utf-8")


def write(folder: Path, *changes: tuple[str, str]) -> Path:
    text = GOOD
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path = folder / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def mistakes(path: Path) -> list[str]:
    with pytest.raises(ParameterError) as caught:
        load_params(path)
    return str(caught.value).splitlines()[1:]


def test_the_committed_file_is_valid() -> None:
    assert isinstance(load_params(ROOT / "params.yaml"), Params)


# Values of model.sigma that are refused, and how the message shows them.
SIGMAS = {
    "-1": "-1", "0": "0", "0.0": "0.0", "true": "true", "x": '"x"', "Learned": '"Learned"', '"0.1"': '"0.1"',
    ".nan": "NaN", ".inf": "Infinity", "-.inf": "-Infinity", "": "null", "[0.1]": "[0.1]",
}  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  sigma:", "  sgima:", "model.sgima: unknown key; did you mean model.sigma?"),
        ("  latent: 16", '  latent: "16"', 'model.latent = "16": input should be a valid integer'),
        ("  latent: 16", "  latent: 16.0", "model.latent = 16.0: input should be a valid integer"),
        ("  latent: 16", "  latent: true", "model.latent = true: input should be a valid integer"),
        *(
            (
                "  sigma: 0.0707107",
                f"  sigma: {value}",
                f"model.sigma = {shown}: input should be a number greater than 0, or learned",
            )
            for value, shown in SIGMAS.items()
        ),
        (
            "  encoder: [512, 512]",
            "  encoder: [512, 0]",
            "model.encoder.1 = 0: input should be greater than or equal to 1",
        ),
        ("  activation: silu", "  activation: sliu", "did you mean silu?"),
        ("  observation: gaussian", "  observation: logistics", "did you mean logistic?"),
        ("  network: mlp", "  network: cnn", "model.network = \"cnn\": input should be 'mlp' or 'conv'"),
        ("  binarise: none", "  binarise: true", "data.binarise = true: input should be 'none', 'threshold' or"),
        ("  objective: elbo", "  objective: iwea", "did you mean iwae?"),
        (
            "  name: mnist",
            "  name: mnits",
            "data.name = \"mnits\": input should be 'mnist', 'fashion_mnist', 'kmnist', 'digits' or 'own'",
        ),
        ("  device: auto", "  device:", "runtime.device = null: input should be 'auto', 'cpu' or 'cuda'"),
        ("runtime:\n", "runtmie:\n", "runtmie: unknown key; did you mean runtime?"),
        ("  latent: 16", "  epochs: 3\n  latent: 16", "model.epochs: unknown key; did you mean train.epochs?"),
        ("  latent: 16", "  latent: 16\n  latent: 33", "duplicate key"),
        ("model:\n", "model: [\n", "not valid YAML: line"),
        (
            "  latent: 16",
            "  latent: 100000000",
            "model.latent = 100000000: input should be less than or equal to 65536",
        ),
        ("  encoder: [512, 512]", "  encoder: &a [*a, *a]", "aliases (*name) are not used here"),
        ("  chunk: 0", "  chunk: 127", "evaluate.chunk = 127: input should be at least 128, or 0 to choose"),
        (
            "  budget: 4096",
            "  budget: 4194305",
            "evaluate.budget = 4194305: input should be at most 4194304, 16384 times evaluate.samples",
        ),
    ],
)
def test_a_mistake_is_reported_with_its_key_and_value(tmp_path: Path, old: str, new: str, message: str) -> None:
    found = mistakes(write(tmp_path, (old, new)))
    assert any(message in line for line in found), found


@pytest.mark.parametrize("value", SIGMAS)
def test_a_wrong_sigma_is_one_mistake(tmp_path: Path, value: str) -> None:
    assert len(mistakes(write(tmp_path, ("  sigma: 0.0707107", f"  sigma: {value}")))) == 1


@pytest.mark.parametrize(("text", "value"), [("learned", "learned"), ("0.1", 0.1), ("1e-3", 0.001), ("2", 2.0)])
def test_sigma_is_a_number_or_learned(tmp_path: Path, text: str, value: float | str) -> None:
    model = load_params(write(tmp_path, ("  sigma: 0.0707107", f"  sigma: {text}"))).model
    assert model.sigma == value
    assert type(model.sigma) is type(value)
    assert type(model).model_validate_json(model.model_dump_json()) == model  # as a model's file has it


@pytest.mark.parametrize(
    ("observation", "binarise", "message"),
    [
        ("bernoulli", "none", "model.observation = bernoulli needs pixels that are 0 or 1: set data.binarise to"),
        ("gaussian", "dynamic", "data.binarise = dynamic makes pixels 0 or 1: set model.observation to bernoulli"),
        ("logistic", "threshold", "data.binarise = threshold makes pixels 0 or 1: set model.observation to bernoulli"),
        ("bernoulli", "dynamic", None),
        ("bernoulli", "threshold", None),
        *((name, "none", None) for name in sorted(set(OBSERVATIONS) - {"bernoulli"})),
    ],
)
def test_binary_pixels_and_their_observation_model_go_together(
    tmp_path: Path, observation: str, binarise: str, message: str | None
) -> None:
    changes = (
        ("  observation: gaussian\n", f"  observation: {observation}\n"),
        ("  binarise: none", f"  binarise: {binarise}"),
    )
    path = write(tmp_path, *changes)
    if message is None:
        found = load_params(path)
        assert (found.model.observation, found.data.binarise) == (observation, binarise)
        return
    (line,) = mistakes(path)
    assert line.startswith(f"  {message}")


# The range of each number, both ends included. A whole range has integers; a small step leads out of the others.
LEAST, STEP, COUNT, SEED = 5e-324, 1e-9, (1, 10**9), (0, 2**63 - 1)
RANGES: dict[str, tuple[float, float]] = {
    "data.seed": SEED,
    "model.latent": (1, 65_536), "model.width": (1, 4096), "model.depth": (0, 64), "model.sigma": (LEAST, 1e308),
    "model.components": (1, 100), "train.samples": (1, 10_000), "train.beta": (0.0, 1e308),
    "train.beta_warmup": (0.0, 1.0), "evaluate.training_images": COUNT, "train.epochs": COUNT,
    "train.batch_size": COUNT,
    "train.learning_rate": (LEAST, 1e308), "train.warmup": (0.0, 1 - STEP), "train.final_learning_rate": (0.0, 1.0),
    "train.weight_decay": (0.0, 1e308), "train.clip_norm": (LEAST, 1e308), "train.validation": (LEAST, 1 - STEP),
    "train.rollbacks": (0, 100), "train.seed": SEED, "evaluate.images": COUNT,
    "evaluate.degrees_of_freedom": (LEAST, 1e308), "evaluate.samples": (32, 10**30),
    "evaluate.budget": (32, 256 * LARGEST_BUDGET), "evaluate.elbo_samples": COUNT, "evaluate.prior_samples": COUNT,
    "evaluate.comparison": COUNT, "evaluate.chunk": (128, 10**30), "evaluate.seed": SEED, "verify.images": COUNT,
    "verify.chains": (2, 128), "verify.temperatures": (2, 10**30), "verify.leapfrog": COUNT,
    "verify.acceptance": (LEAST, 1 - STEP), "verify.curve_images": COUNT, "verify.curve_samples": (8, 10**30),
    "verify.gap_steps": COUNT, "verify.gap_samples": (2, 10**30), "verify.seed": SEED, "compare.images": COUNT,
    "compare.samples": (32, 10**30), "compare.seed": SEED, "judge.steps": COUNT, "judge.batch_size": COUNT,
    "judge.learning_rate": (LEAST, 1e308), "judge.seed": SEED, "sample.images": (2, 10**6), "sample.seed": SEED,
    "model.couplings": (1, 64), "render.columns": (2, 30), "render.steps": (3, 30),
    "render.seed": SEED, "runtime.processes": (1, 1024), "recovery.save_every": (LEAST, 1e308),
}  # fmt: skip


def test_the_table_of_ranges_has_every_number() -> None:
    content = read_yaml(ROOT / "params.yaml")
    numbers = {f"{s}.{k}" for s, keys in content.items() for k, value in keys.items() if isinstance(value, int | float)}
    assert set(RANGES) == numbers | {"evaluate.degrees_of_freedom"}


@pytest.mark.parametrize("key", RANGES)
def test_both_ends_of_a_range_are_valid_and_what_lies_outside_is_not(key: str) -> None:
    section, name = key.split(".")
    content = read_yaml(ROOT / "params.yaml")
    low, high = RANGES[key]
    for value in (low, high):
        content[section][name] = value
        check_params(Path("params.yaml"), content)
    outside = [low - (1 if isinstance(low, int) else 5e-324)]
    outside += [high + (1 if isinstance(high, int) else STEP)] if high < 10**30 and high != 1e308 else []
    for value in outside:
        content[section][name] = value
        with pytest.raises(ParameterError, match=rf"1 mistake; nothing was run\n  {key} = "):
            check_params(Path("params.yaml"), content)


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, ("  sigma:", "  sgima:"), ("  epochs: ", "  epochs: -"), ("  device: auto", "  device: gpu"))
    found = mistakes(path)
    assert len(found) == 4  # the unknown key, the missing one, and two values
    assert any("model.sigma: missing" in line for line in found)


def test_the_largest_budget_is_what_the_estimator_has_levels_for(tmp_path: Path) -> None:
    assert LARGEST_BUDGET == GROWTH ** (LEVELS - 1)
    evaluate = load_params(write(tmp_path, ("  budget: 4096", f"  budget: {256 * LARGEST_BUDGET}"))).evaluate
    Settings(samples=evaluate.samples, budget=evaluate.budget, chunk=128)
    with pytest.raises(ValueError, match="budget"):
        Settings(samples=evaluate.samples, budget=evaluate.budget + 1, chunk=128)


def test_wrong_samples_are_reported_without_a_word_about_the_budget(tmp_path: Path) -> None:
    (found,) = mistakes(write(tmp_path, ("  samples: 256", "  samples: many")))
    assert "evaluate.samples" in found


def test_changed_content_is_checked_under_the_name_of_its_own_file() -> None:
    content = read_yaml(ROOT / "params.yaml")
    assert check_params(Path("presets/good.yaml"), content) == load_params(ROOT / "params.yaml")
    content["model"]["latent"] = 0
    with pytest.raises(ParameterError, match=r"^presets/bad\.yaml: 1 mistake; nothing was run\n  model\.latent = 0"):
        check_params(Path("presets/bad.yaml"), content)


def test_scientific_notation_is_a_number_as_for_dvc(tmp_path: Path) -> None:
    assert load_params(write(tmp_path, ("  learning_rate: 0.006", "  learning_rate: 1e-3"))).train.learning_rate == 1e-3


@pytest.mark.parametrize("content", ["", "42", "- a\n- b", "null"])
def test_a_file_without_sections_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "params.yaml").write_text(content)
    assert "a mapping of sections is expected" in mistakes(tmp_path / "params.yaml")[0]


def test_a_huge_file_is_read_only_up_to_the_limit(tmp_path: Path) -> None:
    with (tmp_path / "params.yaml").open("wb") as file:
        file.truncate(1 << 40)
    assert "larger than 1048576 bytes" in mistakes(tmp_path / "params.yaml")[0]


def test_the_limit_counts_bytes(tmp_path: Path) -> None:
    # Two bytes per character: a limit of characters would read half of the file, or all of it, as valid.
    path = tmp_path / "params.yaml"
    start = GOOD.encode() + b"#"
    content = start + b"#" * (len(start) % 2) + "é".encode() * (1 << 20)
    path.write_bytes(content[: 1 << 20])
    assert load_params(path) == load_params(ROOT / "params.yaml")
    for size in (1 + (1 << 20), len(content)):
        path.write_bytes(content[:size])
        assert "larger than 1048576 bytes" in mistakes(path)[0]


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "cannot be read" in mistakes(tmp_path / "params.yaml")[0]


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_refuses_before_it_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    write(tmp_path, ("  sigma:", "  sgima:"))
    monkeypatch.chdir(tmp_path)
    # The input files do not exist either: a stage that read them first would report that.
    assert run_in_process(stage, *command(stage)[3:]) == 2
    assert "did you mean model.sigma?" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def test_a_refusal_is_one_message_and_exit_code_2(tmp_path: Path) -> None:
    write(tmp_path, ("  sigma:", "  sgima:"))
    result = subprocess.run(
        [sys.executable, "-m", "stages.download", *command("download")[3:]],
        cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: params.yaml: 2 mistakes; nothing was run")
    assert len(result.stderr.splitlines()) == 3


DIGEST = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("name", "path", "digest", "message"),
    [
        ("own", "images", f"'{DIGEST}'", None),
        (
            "own",
            "images",
            "null",
            "data.name = own: data.path and data.sha256 say which images; `python -m tools.own PATH`",
        ),
        ("own", "null", f"'{DIGEST}'", "data.name = own: data.path and data.sha256 say which images"),
        (
            "mnist",
            "images",
            "null",
            "data.path and data.sha256 are of your own images, but data.name = mnist: set both",
        ),
        ("mnist", "null", f"'{DIGEST}'", "data.path and data.sha256 are of your own images, but data.name = mnist"),
        ("own", "images", "abc", "data.sha256 = \"abc\": string should match pattern '^[0-9a-f]{64}$'"),
        ("own", "''", f"'{DIGEST}'", 'data.path = "": string should have at least 1 character'),
        ("own", "3", f"'{DIGEST}'", "data.path = 3: input should be a valid string"),
    ],
)
def test_own_images_have_a_path_and_a_digest(
    tmp_path: Path, name: str, path: str, digest: str, message: str | None
) -> None:
    changes = (
        ("  name: mnist", f"  name: {name}"),
        ("  path: null", f"  path: {path}"),
        ("  sha256: null", f"  sha256: {digest}"),
    )
    written = write(tmp_path, *changes)
    if message is None:
        assert load_params(written).data.path == path
        return
    (line,) = mistakes(written)
    assert line.startswith(f"  {message}")


def test_a_flow_needs_two_coordinates(tmp_path: Path) -> None:
    flow = ("  prior: normal", "  prior: flow")
    assert mistakes(write(tmp_path, flow, ("  latent: 16", "  latent: 1"))) == [
        "  model.prior = flow couples coordinates of z: set model.latent to 2 or more"
    ]
    assert load_params(write(tmp_path, flow, ("  latent: 16", "  latent: 2"))).model.prior == "flow"
    assert load_params(write(tmp_path, ("  latent: 16", "  latent: 1"))).model.latent == 1


@pytest.mark.parametrize(("section", "most"), [("evaluate", 1000), ("compare", 100)])
def test_a_conditional_model_measures_few_images_since_each_has_every_label(section: str, most: int) -> None:
    content = read_yaml(ROOT / "params.yaml")
    content["model"]["condition"] = "label"
    content["evaluate"]["images"], content["compare"]["images"] = 1000, 100
    assert check_params(Path("x.yaml"), content).model.condition == "label"
    content[section]["images"] = most + 1
    with pytest.raises(ParameterError) as caught:
        check_params(Path("x.yaml"), content)
    message = (
        f"{section}.images = {most + 1}: model.condition = label measures every image with every label; "
        f"set it to {most} or less"
    )
    assert str(caught.value).splitlines()[1:] == [f"  {message}"]
    content["model"]["condition"] = "none"
    check_params(Path("x.yaml"), content)
