"""Random parameters, IDX files and checkpoints: an outcome is a valid one or a clear refusal, never a traceback."""

import copy
import gzip
import hashlib
import json
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from pipeline import tensors
from pipeline.config import Model, ParameterError, Params, Train, load
from pipeline.datasets import Dataset
from pipeline.errors import UserError
from pipeline.fetch import Pinned, SourceError, verified
from pipeline.likelihood import importance
from pipeline.observations import dequantised
from pipeline.training import fit
from pipeline.vae import ACTIVATIONS, VAE

# The same examples every time, and fixtures that an example does not change.
ALWAYS = settings(
    derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150
)
GOOD = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))
KEYS = [(section, key) for section, content in GOOD.items() for key in content]

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=8),
    st.sampled_from(["mnist", "auto", "1e-3", "0x10", "2024-01-01", "~", "<script>", "../..", "${HOME}"]),
)  # fmt: skip
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)


def outcome(path: Path, text: str) -> Params | str:
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        return load(path)
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
def test_random_values_are_valid_or_refused_by_their_key(tmp_path: Path, changes: list[Any]) -> None:
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
def test_a_renamed_key_is_told(tmp_path: Path, path: tuple[str, str], name: str) -> None:
    content = copy.deepcopy(GOOD)
    section, key = path
    content[section][name] = content[section].pop(key)
    found = outcome(tmp_path / "params.yaml", dump(content))
    assert isinstance(found, Params) == (name == key)


@ALWAYS
@given(text=st.text(max_size=300) | st.lists(st.sampled_from("{}[]:-,&*!|>'\"#%@\n \tab1"), max_size=60).map("".join))
def test_any_text_is_refused_in_words(tmp_path: Path, text: str) -> None:
    assert isinstance(outcome(tmp_path / "params.yaml", text.encode("utf-8", "replace").decode()), str)


@settings(ALWAYS, max_examples=60)
@given(data=st.data())
def test_valid_parameters_of_the_smallest_size_give_numbers_or_a_reason(
    params: Params, tiny: Dataset, data: st.DataObject
) -> None:
    def log_uniform(low: float, high: float) -> float:
        return 10 ** data.draw(st.floats(low, high))

    layers = st.lists(st.integers(1, 8), max_size=2).map(tuple)
    model = Model.model_validate({
        "latent": data.draw(st.integers(1, 4)), "encoder": data.draw(layers), "decoder": data.draw(layers),
        "activation": data.draw(st.sampled_from(sorted(ACTIVATIONS))), "sigma": log_uniform(-30, 3),
    })  # fmt: skip
    train = Train.model_validate(params.train.model_dump() | {
        "epochs": 1, "batch_size": data.draw(st.integers(1, 100)),
        "optimizer": data.draw(st.sampled_from(["adam", "adamw"])),
        "learning_rate": log_uniform(-8, 12), "clip_norm": log_uniform(-8, 30),
        "validation": data.draw(st.floats(0.01, 0.99)), "rollbacks": data.draw(st.integers(0, 2)),
        "warmup": data.draw(st.floats(0, 0.99)),
    })  # fmt: skip
    evaluate = params.evaluate.model_copy(update={
        "samples": 32, "budget": data.draw(st.integers(32, 200)), "chunk": data.draw(st.integers(128, 300)),
        "proposal": data.draw(st.sampled_from(["prior", "encoder", "laplace", "mixture"])),
        "degrees_of_freedom": data.draw(st.none() | st.floats(0.1, 100)),
    })  # fmt: skip
    torch.manual_seed(0)
    vae = VAE(model, tiny.pixels)
    try:
        epochs = list(fit(vae, tiny.train_images.flatten(1), tiny.levels, train))
    except UserError as error:
        assert any(word in str(error) for word in ("train.validation", "learning_rate"))
        return
    assert all(torch.isfinite(p).all() for p in vae.parameters())
    assert torch.isfinite(torch.tensor(epochs[-1].validation_elbo))
    estimate = importance.log_px(vae, dequantised(tiny.test_images, tiny.levels, 1)[:3], evaluate, evaluate.proposal)
    bad = ~estimate.diagnosis.log_px.isfinite()
    assert not (bad & estimate.diagnosis.trusted).any()


CONTENT = (2051).to_bytes(4, "big") + bytes(range(256)) * 8
IDX = Pinned("images", len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), "content")


def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes flipped, cut out, doubled or cut off."""
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


@settings(ALWAYS, max_examples=4000)
@given(data=st.data())
def test_a_damaged_checkpoint_is_what_was_written_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "state.safetensors"
    written = {"w": torch.arange(40.0).reshape(5, 8), "step": torch.tensor(3), "on": torch.tensor([True, False])}
    tensors.save(path, written, {"epoch": 3, "text": "<script>"})
    path.write_bytes(data.draw(st.composite(damaged)(path.read_bytes())))
    try:
        found, description = tensors.load(path)
    except UserError as error:
        assert "delete it and run `dvc repro`" in str(error)
        return
    assert json.dumps(description) == json.dumps({"epoch": 3, "text": "<script>"})
    assert {name: tensor.tolist() for name, tensor in found.items()} == {n: t.tolist() for n, t in written.items()}
