"""The judge: how well it knows the digits, that it is the same each time, its file, and what it refuses."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.config import Judge as Settings
from pipeline.data.dataset import Dataset
from pipeline.data.sources import digits
from pipeline.errors import UserError
from pipeline.judge.checkpoint import load_judge, save_judge
from pipeline.judge.classifier import MEMBERS, UNITS, Judge, Verdicts, judge_images, to_grey
from pipeline.judge.training import measure, shifted, train
from pipeline.storage.tensors import save_tensors
from tests.support import in_colour

CPU = torch.device("cpu")


def settings(steps: int = 20, seed: int = 0) -> Settings:
    return Settings(steps=steps, batch_size=64, learning_rate=0.004, seed=seed)


def file_of(path: Path, dataset: Dataset, seed: int) -> bytes:
    save_judge(path, train(dataset, settings(seed=seed), CPU), dataset)
    return path.read_bytes()


@pytest.fixture(scope="module")
def trained() -> tuple[Dataset, Judge]:
    """A judge of scikit-learn's digits."""
    dataset = digits()
    return dataset, train(dataset, settings(500), CPU)


def test_it_knows_the_digits(trained: tuple[Dataset, Judge]) -> None:
    """Deterministic. One standard error of the accuracy is 0.7 points."""
    dataset, judge = trained
    found = measure(judge, dataset)
    assert found["images"] == 360
    assert found["accuracy"] > 0.96
    assert found["recognised"] > 0.85
    assert found["accuracy_se"] == pytest.approx((found["accuracy"] * (1 - found["accuracy"]) / 360) ** 0.5, abs=1e-4)


def test_features_are_on_one_scale(trained: tuple[Dataset, Judge]) -> None:
    """Their variance over the training images is 1 on average, whatever the seed: Fréchet distances compare."""
    dataset, judge = trained
    verdicts = judge_images(judge, to_grey(dataset.train_images.flatten(1), dataset.levels))
    assert verdicts.features.shape == (len(dataset.train_images), MEMBERS * UNITS)
    assert verdicts.features.var(0, correction=0).mean() == pytest.approx(1, rel=1e-4)


def test_verdicts_are_those_of_the_probabilities(trained: tuple[Dataset, Judge]) -> None:
    """p = softmax of the mean of the networks' logits; the number of images judged at once changes nothing."""
    dataset, judge = trained
    grey = to_grey(dataset.test_images.flatten(1), dataset.levels)
    with torch.no_grad():
        p = judge.logits(grey).mean(0).softmax(-1)
    verdicts = judge_images(judge, grey)
    assert torch.equal(verdicts.classes, p.argmax(1))
    torch.testing.assert_close(verdicts.confidence, p.max(1).values)
    assert torch.equal(verdicts.recognised, verdicts.confidence >= 0.9)
    parts = Verdicts.join([judge_images(judge, part) for part in grey.split(7)])
    torch.testing.assert_close(parts.features, verdicts.features)
    assert torch.equal(parts.classes, verdicts.classes)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_judge(tmp_path: Path, tiny: Dataset) -> None:
    files = [file_of(tmp_path / f"{number}.safetensors", tiny, seed) for number, seed in enumerate((0, 0, 1))]
    assert files[0] == files[1]
    assert files[0] != files[2]


def test_training_uses_only_its_own_random_numbers(tmp_path: Path, tiny: Dataset) -> None:
    torch.manual_seed(1)
    first, state = file_of(tmp_path / "a", tiny, 0), torch.get_rng_state()
    torch.manual_seed(2)
    assert file_of(tmp_path / "a", tiny, 0) == first
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_training_does_not_see_the_test_images(tmp_path: Path, tiny: Dataset) -> None:
    blank = replace(tiny, test_images=torch.zeros_like(tiny.test_images))
    assert file_of(tmp_path / "a", tiny, 0) == file_of(tmp_path / "b", blank, 0)


def test_a_judge_read_from_its_file_gives_the_same_verdicts(tmp_path: Path, trained: tuple[Dataset, Judge]) -> None:
    dataset, judge = trained
    save_judge(tmp_path / "judge", judge, dataset)
    grey = to_grey(dataset.test_images.flatten(1), dataset.levels)
    loaded = load_judge(tmp_path / "judge", dataset, CPU)
    assert loaded
    again = judge_images(loaded, grey)
    assert all(torch.equal(a, b) for a, b in zip(judge_images(judge, grey), again, strict=True))


def test_the_judge_of_other_data_is_refused(tmp_path: Path, tiny: Dataset, trained: tuple[Dataset, Judge]) -> None:
    save_judge(tmp_path / "judge", trained[1], trained[0])
    with pytest.raises(UserError, match="trained on digits of 8 x 8 pixels, not on tiny; run `dvc repro`"):
        load_judge(tmp_path / "judge", tiny, CPU)


def test_a_file_that_is_no_judge_is_refused(tmp_path: Path, tiny: Dataset) -> None:
    path = tmp_path / "judge"
    for weights, description in (
        ({"a": torch.zeros(1)}, {}),
        ({"a": torch.zeros(1)}, {"height": 6, "width": 5, "classes": 5, "dataset": "tiny"}),
    ):
        save_tensors(path, weights, description)
        with pytest.raises(UserError, match=r"is not a judge of this project .*; delete it and run `dvc repro`"):
            load_judge(path, tiny, CPU)


def test_images_of_one_class_are_refused(tiny: Dataset) -> None:
    one = replace(tiny, train_labels=torch.full_like(tiny.train_labels, 3))
    with pytest.raises(UserError, match=r"data set tiny: all training images have one class.*; give the images labels"):
        train(one, settings(), CPU)


def test_without_labels_the_file_says_that_there_is_no_judge(tmp_path: Path, tiny: Dataset) -> None:
    save_judge(tmp_path / "judge", None, tiny)
    assert load_judge(tmp_path / "judge", tiny, CPU) is None
    with pytest.raises(UserError, match="trained on tiny of 6 x 5 pixels, not on other"):
        load_judge(tmp_path / "judge", replace(tiny, name="other"), CPU)


def test_a_judge_of_colour_images_is_read_and_is_none_of_grey_ones(tmp_path: Path, tiny: Dataset) -> None:
    colour = in_colour(tiny)
    judge = train(colour, settings(), CPU)
    save_judge(tmp_path / "judge", judge, colour)
    loaded, values = load_judge(tmp_path / "judge", colour, CPU), to_grey(colour.test_images.flatten(1), colour.levels)
    assert loaded
    assert torch.equal(judge_images(loaded, values).features, judge_images(judge, values).features)
    with pytest.raises(UserError, match="trained on tiny of 6 x 5 pixels in colour, not on tiny; run `dvc repro`"):
        load_judge(tmp_path / "judge", tiny, CPU)


def test_the_judge_sees_colours(tiny: Dataset, generator: torch.Generator) -> None:
    """Classes that differ in their colour only are learned."""
    labels = torch.arange(60) % 3
    images = torch.randint(0, 17, (60, 3, 6, 5), generator=generator, dtype=torch.uint8)
    images[torch.arange(60), labels] = 0
    coloured = replace(tiny, train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    assert measure(train(coloured, settings(200), CPU), coloured)["accuracy"] > 0.95


@pytest.mark.parametrize("labels", [[0, 1], [3, 250], list(range(26))])
@pytest.mark.parametrize("shape", [(8, 8), (9, 13), (40, 31), (3, 8, 9)])
def test_any_size_and_any_classes_can_be_judged(labels: list[int], shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    classes = torch.tensor(labels)[torch.arange(52) % len(labels)]
    images = torch.randint(0, 4, (52, *shape), generator=generator, dtype=torch.uint8)
    data = Dataset("data", 4, images, classes, images[:30], classes[:30])
    verdicts = judge_images(train(data, settings(2), CPU), to_grey(images.flatten(1), 4))
    assert verdicts.classes.max() <= max(labels)
    assert verdicts.features.shape == (52, MEMBERS * UNITS)
    assert verdicts.features.isfinite().all()


def test_shifts_move_images_by_up_to_one_pixel_each_way(generator: torch.Generator) -> None:
    images = torch.zeros(200, 28, 30, dtype=torch.uint8)
    images[:, 2, 1] = 7
    moved = shifted(images, generator)
    assert torch.equal(moved.flatten(1).sum(1), images.flatten(1).sum(1))
    places = {tuple(place) for place in moved.nonzero()[:, 1:].tolist()}
    assert places == {(row, column) for row in (1, 2, 3) for column in (0, 1, 2)}
    small = torch.randint(0, 256, (3, 8, 8), generator=generator, dtype=torch.uint8)
    assert torch.equal(shifted(small, generator), small)


def test_the_colours_of_an_image_move_together() -> None:
    grey = torch.randint(0, 256, (50, 28, 30), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    moved = shifted(grey, torch.Generator().manual_seed(2))
    colour = torch.stack([grey, 255 - grey, grey], 1)
    assert torch.equal(shifted(colour, torch.Generator().manual_seed(2))[:, 0], moved)
    assert torch.equal(shifted(colour, torch.Generator().manual_seed(2))[:, 2], moved)
    assert not torch.equal(moved, grey)
