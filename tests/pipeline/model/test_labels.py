"""Labels as an input: one-hot vectors beside the values of their image, whatever other dimensions those have."""

import pytest
import torch
from torch.func import vmap

from pipeline.model.labels import one_hot, with_label


def test_one_hot_has_a_one_at_the_label() -> None:
    y = torch.tensor([[2, 0], [1, 2]])
    expected = torch.nn.functional.one_hot(y, 3).float()
    assert torch.equal(one_hot(y, 3), expected)
    assert torch.equal(one_hot(y.to(torch.uint8), 3), expected)
    assert torch.equal(one_hot(torch.tensor(1), 3), torch.tensor([0.0, 1.0, 0.0]))
    assert torch.equal(vmap(vmap(lambda y: one_hot(y, 3)))(y), expected)


@pytest.mark.parametrize("samples", [(), (7,), (5, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_sample_of_an_image_gets_the_images_label(samples: tuple[int, ...], dtype: torch.dtype) -> None:
    values, y = torch.randn(*samples, 4, 3, dtype=dtype), torch.tensor([1, 0, 4, 1])
    found = with_label(values, y, 5)
    assert found.shape == (*samples, 4, 8)
    assert found.dtype == dtype
    assert torch.equal(found[..., :3], values)
    assert torch.equal(found[..., 3:].argmax(-1), y.expand(*samples, 4))
    assert torch.equal(found[..., 3:].sum(-1), torch.ones(*samples, 4, dtype=dtype))


def test_one_label_serves_for_all_values() -> None:
    found = with_label(torch.zeros(4, 3), torch.tensor(1), 2)
    assert torch.equal(found[:, 3:], torch.tensor([[0.0, 1.0]]).expand(4, 2))


def test_without_classes_values_stay_as_they_are() -> None:
    values = torch.randn(4, 3)
    assert with_label(values, None, 0) is values
    assert with_label(values, torch.arange(4), 0) is values


def test_with_classes_labels_are_needed() -> None:
    with pytest.raises(ValueError, match="it needs the label of each image, one of 5"):
        with_label(torch.zeros(4, 3), None, 5)
