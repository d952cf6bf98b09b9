"""`params.yaml` as frozen, strict types: one class per section. A stage checks all of it before it does any work."""

import difflib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent

from pipeline.errors import UserError

Count = Annotated[int, Field(ge=1, le=10**9)]
Layer = Annotated[int, Field(ge=1, le=65_536)]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]

LARGEST_FILE = 1 << 20  # bytes; larger than any hand-written params.yaml
MOST_WITH_EVERY_LABEL, MOST_OF_EACH_KIND = 1000, 100  # images that a conditional model may measure
LARGEST_BUDGET = 4**7  # times `samples`: the estimator has eight levels, each with four times the samples of the last


def _sigma(value: Any) -> Any:
    if value == "learned" or (type(value) in (int, float) and 0 < value < math.inf):
        return value
    raise ValueError("input should be a number greater than 0, or learned")


def _chunk(evaluations: int) -> int:
    if 0 < evaluations < 128:
        raise ValueError("input should be at least 128, or 0 to choose a size that suits the machine")
    return evaluations


class Section(BaseModel):
    """Base of all sections: no unknown keys, no conversions ("8" is not 8), no NaN or infinity, immutable."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class Data(Section):
    name: Literal["mnist", "fashion_mnist", "kmnist", "digits", "own"]
    path: Annotated[str, Field(min_length=1)] | None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None
    seed: Seed
    binarise: Literal["none", "threshold", "dynamic"]


class Model(Section):
    latent: Layer
    prior: Literal["normal", "flow"]
    couplings: Annotated[int, Field(ge=1, le=64)]
    condition: Literal["none", "label"]
    network: Literal["mlp", "conv"]
    encoder: tuple[Layer, ...]
    decoder: tuple[Layer, ...]
    width: Annotated[int, Field(ge=1, le=4096)]
    depth: Annotated[int, Field(ge=0, le=64)]
    activation: Literal["elu", "gelu", "relu", "silu", "tanh"]
    observation: Literal[
        "gaussian", "gaussian_per_pixel", "logistic", "logistic_mixture", "beta_binomial", "categorical", "bernoulli"
    ]
    sigma: Annotated[float | Literal["learned"], BeforeValidator(_sigma)]
    components: Annotated[int, Field(ge=1, le=100)]


class Train(Section):
    objective: Literal["elbo", "beta", "iwae"]
    samples: Annotated[int, Field(ge=1, le=10_000)]
    beta: Annotated[float, Field(ge=0)]
    beta_warmup: Annotated[float, Field(ge=0, le=1)]
    epochs: Count
    batch_size: Count
    optimizer: Literal["adam", "adamw"]
    learning_rate: Positive
    warmup: Fraction
    final_learning_rate: Annotated[float, Field(ge=0, le=1)]
    weight_decay: Annotated[float, Field(ge=0)]
    clip_norm: Positive | None
    validation: Annotated[float, Field(gt=0, lt=1)]
    precision: Literal["float32", "bfloat16"]
    rollbacks: Annotated[int, Field(ge=0, le=100)]
    seed: Seed


class Evaluate(Section):
    images: Count
    proposal: Literal["prior", "encoder", "laplace", "mixture"]
    degrees_of_freedom: Positive | None
    samples: Annotated[int, Field(ge=32)]
    budget: Annotated[int, Field(ge=32)]
    elbo_samples: Count
    prior_samples: Count
    comparison: Count
    training_images: Count
    chunk: Annotated[int, Field(ge=0), AfterValidator(_chunk)]
    seed: Seed

    @field_validator("budget")
    @classmethod
    def _within_levels(cls, budget: int, info: Any) -> int:  # a ValidationInfo, which beartype cannot check
        largest = LARGEST_BUDGET * info.data.get("samples", budget)
        if budget > largest:
            raise ValueError(f"input should be at most {largest}, {LARGEST_BUDGET} times evaluate.samples")
        return budget


class Verify(Section):
    images: Count
    chains: Annotated[int, Field(ge=2, le=128)]
    temperatures: Annotated[int, Field(ge=2)]
    leapfrog: Count
    acceptance: Annotated[float, Field(gt=0, lt=1)]
    curve_images: Count
    curve_samples: Annotated[int, Field(ge=8)]
    curve_temperatures: Annotated[tuple[Annotated[int, Field(ge=2)], ...], Field(min_length=1)]
    gap_steps: Count
    gap_samples: Annotated[int, Field(ge=2)]
    seed: Seed


class Compare(Section):
    images: Count
    samples: Annotated[int, Field(ge=32)]
    other: Literal["none", "mnist", "fashion_mnist", "kmnist", "digits"]
    seed: Seed


class Judge(Section):
    steps: Count
    batch_size: Count
    learning_rate: Positive
    seed: Seed


class Sample(Section):
    images: Annotated[int, Field(ge=2, le=10**6)]
    seed: Seed


class Render(Section):
    columns: Annotated[int, Field(ge=2, le=30)]
    steps: Annotated[int, Field(ge=3, le=30)]
    seed: Seed


class Runtime(Section):
    device: Literal["auto", "cpu", "cuda"]
    processes: Annotated[int, Field(ge=1, le=1024)]


class Recovery(Section):
    save_every: Positive


class Tracking(Section):
    mode: Literal["off", "best_effort", "required"]


class Params(Section):
    """The whole of `params.yaml`."""

    data: Data
    model: Model
    train: Train
    evaluate: Evaluate
    verify: Verify
    compare: Compare
    judge: Judge
    sample: Sample
    render: Render
    runtime: Runtime
    recovery: Recovery
    tracking: Tracking

    @model_validator(mode="after")
    def _own_images(self) -> "Params":
        data = self.data
        if data.name == "own" and (data.path is None or data.sha256 is None):
            raise ValueError(
                "data.name = own: data.path and data.sha256 say which images; `python -m tools.own PATH` checks the "
                "images in PATH and writes both"
            )
        if data.name != "own" and (data.path is not None or data.sha256 is not None):
            raise ValueError(
                f"data.path and data.sha256 are of your own images, but data.name = {data.name}: set both to null, or "
                "data.name to own"
            )
        return self

    @model_validator(mode="after")
    def _coordinates_to_couple(self) -> "Params":
        if self.model.prior == "flow" and self.model.latent < 2:
            raise ValueError("model.prior = flow couples coordinates of z: set model.latent to 2 or more")
        return self

    @model_validator(mode="after")
    def _one_kind_of_pixels(self) -> "Params":
        binary, binarised = self.model.observation == "bernoulli", self.data.binarise != "none"
        if binary and not binarised:
            raise ValueError(
                "model.observation = bernoulli needs pixels that are 0 or 1: set data.binarise to threshold or dynamic"
            )
        if binarised and not binary:
            raise ValueError(
                f"data.binarise = {self.data.binarise} makes pixels 0 or 1: set model.observation to bernoulli"
            )
        return self

    @model_validator(mode="after")
    def _few_images_with_every_label(self) -> "Params":
        if self.model.condition == "label":
            for name, images, most in (
                ("evaluate", self.evaluate.images, MOST_WITH_EVERY_LABEL),
                ("compare", self.compare.images, MOST_OF_EACH_KIND),
            ):
                if images > most:
                    raise ValueError(
                        f"{name}.images = {images}: model.condition = label measures every image with every label; "
                        f"set it to {most} or less"
                    )
        return self


class ParameterError(UserError):
    """All mistakes in a parameter file, one per line."""

    exit_code = 2

    def __init__(self, path: Path, mistakes: list[str]) -> None:
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        super().__init__(f"{path}: {count}; nothing was run\n" + "\n".join(f"  {m}" for m in mistakes))


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read and check the parameter file.

    Raises:
        ParameterError: if the file has mistakes. It lists all of them, each with its key, value and what is allowed.
    """
    return check_params(path, read_yaml(path))


def check_params(path: Path, content: Any) -> Params:
    """Turn the content of a parameter file into types.

    Args:
        path: the file's name, for the message.
        content: what `read_yaml` returned.

    Raises:
        ParameterError: as `load_params` does.
    """
    if not isinstance(content, Mapping):
        raise ParameterError(path, [f"a mapping of sections is expected: {', '.join(Params.model_fields)}"])
    try:
        # Strict types accept a list for a tuple only when they validate JSON.
        return Params.model_validate_json(json.dumps(content, default=str))
    except ValidationError as error:
        raise ParameterError(path, list(_mistakes(error))) from None


def read_yaml(path: Path) -> Any:
    """Read a YAML 1.2 file with a safe loader.

    Raises:
        ParameterError: if the file cannot be read or is not valid YAML.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise ParameterError(path, [f"larger than {LARGEST_FILE} bytes; a parameter file is much smaller"])
        text = content.decode("utf-8")
        # YAML 1.2, which DVC reads too: 1e-3 is a number, `no` is a string, and a duplicate key is an error.
        yaml = YAML(typ="safe", pure=True)
        # A few nested aliases can expand to gigabytes.
        if any(isinstance(event, AliasEvent) for event in yaml.parse(text)):
            raise ParameterError(path, ["aliases (*name) are not used here; write the value out"])
        return yaml.load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = (error.problem or str(error)).splitlines()[0]
        raise ParameterError(path, [f"not valid YAML: {where}{problem}"]) from None
    except (YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ParameterError(path, [f"not valid YAML: {str(error).splitlines()[0]}"]) from None
    except OSError as error:
        raise ParameterError(path, [f"cannot be read: {error.strerror}"]) from None


def _mistakes(error: ValidationError) -> Iterator[str]:
    valid = [f"{s}.{k}" for s, f in Params.model_fields.items() for k in _keys(f.annotation)]
    for mistake in error.errors(include_url=False):
        key = ".".join(str(part) for part in mistake["loc"])
        if mistake["type"] == "missing":
            yield f"{key}: missing; add it"
        elif not mistake["loc"]:  # keys of several sections contradict each other
            yield mistake["msg"].removeprefix("Value error, ")
        elif mistake["type"] == "extra_forbidden":
            yield f"{key}: unknown key{_nearest(key, [*valid, *Params.model_fields])}"
        else:
            yield _wrong_value(key, mistake)


def _wrong_value(key: str, mistake: ErrorDetails) -> str:
    value, message = mistake["input"], mistake["msg"]
    message = message.removeprefix("Value error, ").replace("valid dictionary", "mapping of keys")
    allowed = message[0].lower() + message[1:]
    hint = ""
    if mistake["type"] == "literal_error" and isinstance(value, str):
        choices = [choice.strip("'") for choice in mistake["ctx"]["expected"].replace(" or ", ", ").split(", ")]  # pyright: ignore[reportTypedDictNotRequiredAccess]
        hint = _nearest(value, choices)
    return f"{key} = {json.dumps(value)}: {allowed}{hint}"


def _nearest(name: str, valid: list[str]) -> str:
    """A hint with the most similar valid name: the same key in another section, or else the closest spelling."""
    last = name.rpartition(".")[2]
    close = [v for v in valid if v.rpartition(".")[2] == last] or difflib.get_close_matches(name, valid, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _keys(section: Any) -> list[str]:
    return list(section.model_fields)
