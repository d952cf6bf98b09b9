"""Tensor files give back what was written, have equal bytes for equal content, and show any damage."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import UserError
from pipeline.storage.tensors import load_tensors, save_tensors, with_prefix

TENSORS = {
    "weights/w": torch.arange(12.0).reshape(3, 4).T,
    "step": torch.tensor(3),
    "on": torch.tensor([True, False]),
    "none": torch.zeros(0, 5, dtype=torch.float64),
}
DESCRIPTION = {"name": "σ", "levels": 17, "nested": {"list": [1, 2.5, None]}}


def test_tensors_and_description_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    save_tensors(path, TENSORS, DESCRIPTION)
    tensors, description = load_tensors(path)
    assert description == DESCRIPTION
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == TENSORS[name].dtype
        assert torch.equal(tensor, TENSORS[name])


def test_equal_content_gives_equal_bytes_under_any_name_and_in_any_order(tmp_path: Path) -> None:
    for number in range(5):
        save_tensors(tmp_path / f"{number}.safetensors", TENSORS, DESCRIPTION)
    save_tensors(tmp_path / "reversed", dict(reversed(TENSORS.items())), dict(reversed(DESCRIPTION.items())))
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


@pytest.mark.parametrize("bit", range(8))
def test_a_flipped_bit_anywhere_is_found_or_harmless(tmp_path: Path, bit: int) -> None:
    path = tmp_path / "state.safetensors"
    save_tensors(path, {"w": torch.arange(3.0)}, {"epoch": 3})
    whole, refused = path.read_bytes(), 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
        try:
            tensors, description = load_tensors(path)
        except UserError as error:
            assert "is damaged" in str(error)
            refused += 1
        else:
            assert (description, tensors["w"].tolist()) == ({"epoch": 3}, [0.0, 1.0, 2.0])
    assert refused > 0.8 * len(whole)  # padding can change without effect


def test_missing_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    with pytest.raises(UserError, match=r"state\.safetensors is missing.*dvc repro"):
        load_tensors(path)
    save_tensors(path, TENSORS, DESCRIPTION)
    whole = path.read_bytes()
    for damaged in (whole[:-7], whole[:50], b"", b"\xff" * 100):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"state\.safetensors is damaged.*dvc repro"):
            load_tensors(path)
    save_file(TENSORS | {"weights/w": torch.zeros(2)}, path)
    with pytest.raises(UserError, match="is damaged"):
        load_tensors(path)


def test_a_failed_write_keeps_the_former_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    save_tensors(path, TENSORS, DESCRIPTION)
    whole = path.read_bytes()
    with pytest.raises(TypeError):
        save_tensors(path, {"x": torch.zeros(2)}, {"not JSON": object()})
    assert [found.name for found in tmp_path.iterdir()] == ["state.safetensors"]
    assert path.read_bytes() == whole


def test_a_prefix_selects_tensors_and_is_removed_from_their_names() -> None:
    tensors = {"best/a": torch.tensor(1), "best/b/c": torch.tensor(2), "bestial": torch.tensor(3)}
    assert with_prefix("best", tensors) == {"a": torch.tensor(1), "b/c": torch.tensor(2)}
