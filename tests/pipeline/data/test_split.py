"""The split into images to train on and held-out images."""

import pytest

from pipeline.data.split import split
from pipeline.errors import UserError


def test_the_two_parts_are_all_images_and_depend_on_the_seed() -> None:
    train, held_out = split(60, 0.2, seed=0)
    assert sorted([*train.tolist(), *held_out.tolist()]) == list(range(60))
    assert len(held_out) == 12
    assert [part.tolist() for part in split(60, 0.2, seed=0)] == [train.tolist(), held_out.tolist()]
    assert split(60, 0.2, seed=1)[1].tolist() != held_out.tolist()


def test_a_part_may_be_a_single_image() -> None:
    assert [len(part) for part in split(2, 0.5, seed=0)] == [1, 1]


@pytest.mark.parametrize("validation", [0.001, 0.999])
def test_an_empty_part_is_refused(validation: float) -> None:
    with pytest.raises(UserError, match=r"train\.validation"):
        split(60, validation, seed=0)
