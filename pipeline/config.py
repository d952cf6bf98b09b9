"""`params.yaml` as frozen, strict types: one class a section, checked whole before any work starts."""

import difflib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent

from pipeline.errors import UserError

Count = Annotated[int, Field(ge=1, le=10**9)]
Layer = Annotated[int, Field(ge=1, le=65_536)]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
# DVC reads this file too; what no person writes is a mistake or an attack.
LARGEST_FILE = 1 << 20  # bytes

Seed = Annotated[int, Field(ge=0, lt=2**63)]


def _chunk(evaluations: int) -> int:
    if 0 < evaluations < 128:
        raise ValueError("0, for as many as suit the machine, or at least 128")
    return evaluations


class Section(BaseModel):
    """No unknown keys, no conversions ("8" is not 8), no NaN or infinity, no change after reading."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class Data(Section):
    name: Literal["mnist", "fashion_mnist", "kmnist", "digits"]


class Model(Section):
    latent: Layer
    encoder: tuple[Layer, ...]
    decoder: tuple[Layer, ...]
    activation: Literal["elu", "gelu", "relu", "silu", "tanh"]
    sigma: Positive


class Train(Section):
    epochs: Count
    batch_size: Count
    optimizer: Literal["adam", "adamw"]
    learning_rate: Positive
    warmup: Fraction
    final_learning_rate: Annotated[float, Field(ge=0, le=1)]
    weight_decay: Annotated[float, Field(ge=0)]
    clip_norm: Positive
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
    chunk: Annotated[int, Field(ge=0), AfterValidator(_chunk)]
    seed: Seed


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
    render: Render
    runtime: Runtime
    recovery: Recovery
    tracking: Tracking


class ParameterError(UserError):
    """Every mistake in a parameter file, a line each."""

    exit_code = 2

    def __init__(self, path: Path, mistakes: list[str]) -> None:
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        super().__init__(f"{path}: {count}; nothing was run\n" + "\n".join(f"  {m}" for m in mistakes))


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and check the parameter file.

    Raises:
        ParameterError: with all mistakes at once, each naming the key, the value and what is allowed.
    """
    content = read_yaml(path)
    if not isinstance(content, Mapping):
        raise ParameterError(path, [f"a mapping of sections is expected: {', '.join(Params.model_fields)}"])
    try:
        # Through JSON, since strict types still take a list there where a tuple is asked for.
        return Params.model_validate_json(json.dumps(content, default=str))
    except ValidationError as error:
        raise ParameterError(path, list(_mistakes(error))) from None


def read_yaml(path: Path) -> Any:
    """Read a YAML file by a safe loader.

    Raises:
        ParameterError: when it cannot be read.
    """
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_FILE + 1).decode("utf-8")
        if len(text) > LARGEST_FILE:
            raise ParameterError(path, [f"larger than {LARGEST_FILE} bytes"])
        # YAML 1.2, as DVC reads it: 1e-3 is a number, `no` is a string, a doubled key is an error.
        yaml = YAML(typ="safe", pure=True)
        # A few aliases of aliases would grow to gigabytes when they are written out.
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
    """The valid name most like `name`: the same key of another section, else by spelling."""
    last = name.rpartition(".")[2]
    close = [v for v in valid if v.rpartition(".")[2] == last] or difflib.get_close_matches(name, valid, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _keys(section: Any) -> list[str]:
    return list(section.model_fields)
