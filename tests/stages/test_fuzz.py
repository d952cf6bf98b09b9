"""Random parameters, data files and checkpoints: each is valid or refused by a clear message, never by a traceback."""

import copy
import gzip
import hashlib
import json
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from pipeline.config import ParameterError, Params, load_params, read_yaml
from pipeline.data.dataset import Dataset, save_dataset
from pipeline.data.download import Pinned, SourceError, verified
from pipeline.errors import UserError
from pipeline.model.activations import ACTIVATIONS
from pipeline.model.networks import NETWORKS
from pipeline.model.objectives import OBJECTIVES
from pipeline.model.observations import OBSERVATIONS
from pipeline.storage.tensors import load_tensors, save_tensors
from pipeline.training.trainer import NotFiniteError
from tests.support import ROOT, Run, write_params

# The same examples in every run. No example changes a fixture.
ALWAYS = settings(
    derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150
)
GOOD = read_yaml(ROOT / "params.yaml")
KEYS = [(section, key) for section, content in GOOD.items() for key in content]

# A model of binary pixels has binarised images, and the others do not.
OBSERVED = [{"model__observation": name} for name in sorted(OBSERVATIONS) if name != "bernoulli"]
OBSERVED += [{"model__observation": "bernoulli", "data__binarise": name} for name in ("threshold", "dynamic")]

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=8),
    st.sampled_from(["mnist", "auto", "1e-3", "0x10", "2024-01-01", "~", "<script>", "../..", "${HOME}"]),
)  # fmt: skip
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)


def outcome(path: Path, text: str) -> Params | str:
    """The parameters in a file of this text, or the message that refuses it."""
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        return load_params(path)
    except ParameterError as error:
        assert error.exit_code == 2
        assert str(path) in str(error)
        return str(error)


def dump(content: object) -> str:
    text = StringIO()
    YAML(typ="safe").dump(content, text)
    return text.getvalue()


@ALWAYS
@given(changes=st.lists(st.tuples(st.sampled_from(KEYS), anything), min_size=1, max_size=4))
def test_a_random_value_is_valid_or_refused_by_its_key(tmp_path: Path, changes: list[Any]) -> None:
    content = copy.deepcopy(GOOD)
    for (section, key), value in changes:
        content[section][key] = value
    found = outcome(tmp_path / "params.yaml", dump(content))
    if isinstance(found, Params):
        used = {path: found.model_dump(mode="json")[path[0]][path[1]] for path, _ in changes}
        assert used == {path: content[path[0]][path[1]] for path in used}  # nothing was converted
    elif "not valid YAML" not in found:
        assert any(f"{section}.{key}" in found for (section, key), _ in changes), found


@ALWAYS
@given(path=st.sampled_from(KEYS), name=st.text(min_size=1, max_size=12))
def test_a_renamed_key_is_reported(tmp_path: Path, path: tuple[str, str], name: str) -> None:
    content = copy.deepcopy(GOOD)
    section, key = path
    content[section][name] = content[section].pop(key)
    found = outcome(tmp_path / "params.yaml", dump(content))
    assert isinstance(found, Params) == (name == key)


@ALWAYS
@given(text=st.text(max_size=300) | st.lists(st.sampled_from("{}[]:-,&*!|>'\"#%@\n \tab1"), max_size=60).map("".join))
def test_any_other_text_is_refused(tmp_path: Path, text: str) -> None:
    assert isinstance(outcome(tmp_path / "params.yaml", text.encode("utf-8", "replace").decode()), str)


@pytest.mark.slow
@settings(ALWAYS, max_examples=40)
@given(data=st.data())
def test_a_run_with_random_valid_parameters_gives_numbers_or_a_reason(
    tiny: Dataset, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    data: st.DataObject,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    save_dataset(Path("data/images.safetensors"), tiny)
    write_params(tmp_path / "params.yaml", **random_parameters(data))
    capsys.readouterr()
    codes = [run("train")]
    if codes == [0]:
        codes.append(run("evaluate"))
    if codes[-1] in (1, NotFiniteError.exit_code):
        message = capsys.readouterr().err
        assert any(word in message for word in ("train.validation", "learning_rate", "model.sigma")), message
        return
    assert codes == [0, 0]
    table = pd.read_parquet("reports/images.parquet")
    assert table["trusted"].to_numpy(dtype=bool)[~np.isfinite(table["log_px"])].sum() == 0


def random_parameters(data: st.DataObject) -> dict[str, object]:
    """Valid values of keys that change the arithmetic, also far from any sensible ones."""

    def log_uniform(low: float, high: float) -> float:
        return 10 ** data.draw(st.floats(low, high))

    layers = st.lists(st.integers(1, 8), max_size=2)
    samples = data.draw(st.integers(32, 100))
    return {
        "model__latent": data.draw(st.integers(1, 4)),
        "model__encoder": data.draw(layers),
        "model__decoder": data.draw(layers),
        "model__activation": data.draw(st.sampled_from(sorted(ACTIVATIONS))),
        "model__sigma": "learned" if data.draw(st.booleans()) else log_uniform(-30, 3),
        **data.draw(st.sampled_from(OBSERVED)),
        "model__network": data.draw(st.sampled_from(sorted(NETWORKS))),
        "model__width": data.draw(st.integers(1, 4)),
        "model__depth": data.draw(st.integers(0, 2)),
        "model__components": data.draw(st.integers(1, 3)),
        "train__objective": data.draw(st.sampled_from(sorted(OBJECTIVES))),
        "train__samples": data.draw(st.integers(1, 3)),
        "train__beta": log_uniform(-3, 3),
        "train__beta_warmup": data.draw(st.floats(0, 1)),
        "train__epochs": 1,
        "train__batch_size": data.draw(st.integers(1, 100)),
        "train__optimizer": data.draw(st.sampled_from(["adam", "adamw"])),
        "train__learning_rate": log_uniform(-8, 12),
        "train__clip_norm": data.draw(st.sampled_from([None, log_uniform(-8, 30)])),
        "train__validation": data.draw(st.floats(0.01, 0.99)),
        "train__rollbacks": data.draw(st.integers(0, 2)),
        "train__warmup": data.draw(st.floats(0, 0.99)),
        "evaluate__images": 3,
        "evaluate__samples": samples,
        "evaluate__budget": data.draw(st.integers(32, 4 * samples)),
        "evaluate__chunk": data.draw(st.integers(128, 300)),
        "evaluate__proposal": data.draw(st.sampled_from(["prior", "encoder", "laplace", "mixture"])),
        "evaluate__degrees_of_freedom": data.draw(st.none() | st.floats(0.1, 100)),
    }


CONTENT = (2051).to_bytes(4, "big") + bytes(range(256)) * 8
IDX = Pinned("images", len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), "content")


def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """The bytes with some flipped, cut out, doubled, inserted or cut off."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        at, size = draw(st.integers(0, max(0, len(content) - 1))), draw(st.integers(0, 40))
        match draw(st.sampled_from(["flip", "cut", "double", "truncate", "insert"])):
            case "flip" if content:
                content[at] ^= draw(st.integers(1, 255))
            case "cut":
                del content[at : at + size]
            case "double":
                content[at:at] = content[at : at + size]
            case "truncate":
                del content[at:]
            case _:
                content[at:at] = draw(st.binary(max_size=20))
    return bytes(content)


@ALWAYS
@given(data=st.data())
def test_a_damaged_idx_file_is_the_published_one_or_refused(data: st.DataObject) -> None:
    if data.draw(st.booleans()):
        archive = gzip.compress(data.draw(st.composite(damaged)(CONTENT)), mtime=0)
    else:
        archive = data.draw(st.composite(damaged)(gzip.compress(CONTENT, mtime=0)))
    try:
        assert verified(IDX, archive) == CONTENT
    except SourceError as error:
        assert str(error)


@pytest.mark.slow
@settings(ALWAYS, max_examples=4000)
@given(data=st.data())
def test_a_damaged_checkpoint_is_what_was_written_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "state.safetensors"
    written = {"w": torch.arange(40.0).reshape(5, 8), "step": torch.tensor(3), "on": torch.tensor([True, False])}
    save_tensors(path, written, {"epoch": 3, "text": "<script>"})
    path.write_bytes(data.draw(st.composite(damaged)(path.read_bytes())))
    try:
        found, description = load_tensors(path)
    except UserError as error:
        assert "delete it and run `dvc repro`" in str(error)
        return
    assert json.dumps(description) == json.dumps({"epoch": 3, "text": "<script>"})
    assert {name: tensor.tolist() for name, tensor in found.items()} == {n: t.tolist() for n, t in written.items()}
