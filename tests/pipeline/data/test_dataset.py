"""A data set's file gives back what was written, and anything else is refused by one message."""

import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.data import sources
from pipeline.data.dataset import PARTS, Dataset, load_dataset, save_dataset
from pipeline.errors import UserError
from pipeline.storage.tensors import save_tensors
from tests.support import STAGES, Run, outputs


def test_a_data_set_is_read_as_it_was_written(tmp_path: Path, tiny: Dataset) -> None:
    path = tmp_path / "images.safetensors"
    save_dataset(path, tiny)
    loaded = load_dataset(path)
    assert (loaded.name, loaded.levels, loaded.shape, loaded.format().pixels) == ("tiny", 17, (6, 5), 30)
    assert all(torch.equal(getattr(loaded, part), getattr(tiny, part)) for part in PARTS)


def test_missing_and_foreign_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "images.safetensors"
    with pytest.raises(UserError, match=r"images\.safetensors is missing.*dvc repro"):
        load_dataset(path)
    save_tensors(path, {"other": torch.zeros(2)}, {"name": "x"})
    with pytest.raises(UserError, match=r"images\.safetensors is not a data set of this project.*dvc repro"):
        load_dataset(path)


def changed(part: str, change: Callable[[Tensor], Any]) -> Callable[[Dataset], dict[str, Any]]:
    return lambda dataset: {part: change(getattr(dataset, part))}


def with_value(value: int) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor.index_fill(0, torch.tensor([3]), value)


WRONG: list[tuple[Callable[[Dataset], dict[str, Any]], str]] = [
    (changed("train_images", lambda x: x / 16), "train_images are torch.float32, not torch.uint8"),
    (changed("test_images", Tensor.long), "test_images are torch.int64, not torch.uint8"),
    (changed("test_images", with_value(17)), "test_images have values up to 17, not 16"),
    (changed("train_images", lambda x: x[..., None].expand(*x.shape, 3)), r"train_images have the shape (60, 6, 5, 3)"),
    (changed("test_images", lambda x: x.flatten(1)), "test_images have the shape (20, 30)"),
    (changed("train_images", lambda x: x[:0]), "train_images have the shape (0, 6, 5)"),
    (changed("test_images", lambda x: x[..., :0]), "test_images have the shape (20, 6, 0)"),
    (changed("test_images", lambda x: x[..., :4]), "train_images have 6 x 5 pixels, test_images 6 x 4"),
    (changed("train_labels", lambda y: y[:59]), "train_labels have the shape (59,), not (60,)"),
    (changed("test_labels", lambda y: y[:, None].expand(-1, 8)), "test_labels have the shape (20, 8), not (20,)"),
    (changed("test_labels", lambda y: y[0]), "test_labels have the shape (), not (20,)"),
    (changed("train_labels", Tensor.float), "train_labels are torch.float32, not torch.uint8 or signed integers"),
    (changed("train_labels", Tensor.bool), "train_labels are torch.bool, not torch.uint8"),
    (changed("train_labels", lambda y: y.long() - 1), "train_labels have the negative value -1"),
    (changed("test_labels", lambda y: y.to(torch.uint16)), "test_labels are torch.uint16, not torch.uint8"),
    (lambda _: {"levels": 257}, "levels = 257, not a whole number from 2 to 256"),
    (lambda _: {"levels": 1}, "levels = 1, not"),
    (lambda _: {"levels": 17.0}, "levels = 17.0, not"),
    (lambda _: {"levels": "17"}, "levels = '17', not"),
    (lambda _: {"name": ""}, "name = '', not"),
    (lambda _: {"name": None}, "name = None, not"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), WRONG, ids=[message for _, message in WRONG])
def test_what_is_no_data_set_is_refused_when_it_is_made_and_when_it_is_read(
    tmp_path: Path, tiny: Dataset, change: Callable[[Dataset], dict[str, Any]], message: str
) -> None:
    changes = change(tiny)
    with pytest.raises(UserError, match=rf"^data set .*: {re.escape(message)}.*uint8 images"):
        replace(tiny, **changes)
    path = tmp_path / "images.safetensors"
    parts = {**asdict(tiny), **changes}
    save_tensors(path, {part: parts.pop(part) for part in PARTS}, parts)
    with pytest.raises(UserError, match=rf"images\.safetensors.*: {re.escape(message)}.*delete it and run `dvc repro`"):
        load_dataset(path)


def test_arrays_in_place_of_tensors_are_refused(tiny: Dataset) -> None:
    with pytest.raises(UserError, match=r"train_images are uint8, not torch\.uint8"):
        replace(tiny, train_images=tiny.train_images.numpy())
    with pytest.raises(UserError, match="test_labels are int64, not torch"):
        replace(tiny, test_labels=np.arange(20))


@pytest.mark.parametrize(
    "relabel",
    [
        lambda y: y + 6,
        lambda y: y.long() % 2 * 700,
        lambda y: y.int() * 0 + 26,
        lambda y: y.to(torch.int8) * 0,
    ],
    ids=["6 to 10", "two distant classes", "one class", "one class of zeros"],
)
def test_any_integers_are_classes(tmp_path: Path, tiny: Dataset, relabel: Callable[[Tensor], Tensor]) -> None:
    path = tmp_path / "images.safetensors"
    labels = relabel(tiny.test_labels)
    save_dataset(path, replace(tiny, test_labels=labels))
    assert torch.equal(load_dataset(path).test_labels, labels)


@pytest.mark.parametrize("stage", [stage for stage in STAGES if "data/images.safetensors" in STAGES[stage]["cmd"]])
def test_every_stage_refuses_before_it_works(
    small_params: Callable[..., Path], run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    tiny: Dataset, stage: str,
) -> None:  # fmt: skip
    folder = small_params(data__name="digits").parent
    parts: dict[str, Any] = {**asdict(tiny), "train_images": tiny.train_images / 16}
    if stage == "download":
        monkeypatch.setitem(sources.BUNDLED, "digits", lambda: Dataset(**parts))
    else:
        file = {part: parts.pop(part) for part in PARTS}
        save_tensors(folder / "data/images.safetensors", file, parts)
    before = outputs(folder)
    # The other input files do not exist: a stage that read them first would report that.
    assert run(stage) == 1
    (message,) = capsys.readouterr().err.splitlines()
    assert "train_images are torch.float32, not torch.uint8" in message
    assert outputs(folder) == before


def test_shares_of_classes_are_those_of_the_training_images(tiny: Dataset) -> None:
    """From class 0 to the largest label anywhere: a class may have no training images."""
    assert tiny.class_shares() == pytest.approx((0.2,) * 5)
    train = torch.tensor([1] * 45 + [3] * 15, dtype=torch.uint8)
    dataset = replace(tiny, train_labels=train, test_labels=torch.full((20,), 5, dtype=torch.int16))
    assert dataset.class_shares() == (0.0, 0.75, 0.0, 0.25, 0.0, 0.0)
    one = replace(tiny, train_labels=torch.zeros(60).long(), test_labels=torch.zeros(20).long())
    assert one.class_shares() == (1.0,)


def test_too_many_classes_are_refused(tiny: Dataset) -> None:
    def with_label(label: int) -> Dataset:
        return replace(tiny, test_labels=torch.full((20,), label))

    assert len(with_label(999).class_shares()) == 1000
    for label in (1000, 2**62):  # before any memory is asked for
        with pytest.raises(UserError, match=rf"data set tiny: labels up to {label}; at most 1000 classes are possible"):
            with_label(label).class_shares()
