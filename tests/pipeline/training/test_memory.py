"""The estimate of a training's memory, against the tensors that a training holds."""

import copy
import gc
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.data.image_format import ImageFormat
from pipeline.model.vae import VAE
from pipeline.training.memory import memory
from pipeline.training.trainer import Trainer
from tests.support import flat_format, model_settings, training

# The weights, 1.1 MB, are much larger than the images and a batch's layers.
MODEL = model_settings(latent=2, encoder=[300, 300], decoder=[300], activation="silu", sigma=0.2)
SHARES = 0.5, 0.3, 0.2
SETTINGS = training(
    epochs=3, batch_size=8, optimizer="adamw", learning_rate=1e-3, warmup=0.1, final_learning_rate=0.1,
    weight_decay=0.1, clip_norm=100.0, validation=0.2, precision="float32", rollbacks=0, seed=0,
)  # fmt: skip


def test_memory_is_that_of_the_weights_times_their_copies() -> None:
    settings = model_settings(latent=2, encoder=[5], decoder=[], activation="silu", sigma=0.2)
    weights = (30 + 1) * 5 + (5 + 1) * 4 + (2 + 1) * 30
    assert memory(settings, flat_format(30), (), rollbacks=0) == 6 * 4 * weights
    assert (
        memory(settings, flat_format(30), (), rollbacks=1)
        == memory(settings, flat_format(30), (), rollbacks=9)
        == 10 * 4 * weights
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"network": "conv", "width": 4},
        {"observation": "logistic_mixture"},
        {"sigma": "learned"},
        {"prior": "flow"},
        {"prior": "flow", "condition": "label"},
    ],
)
def test_memory_counts_every_weight(changes: dict[str, Any]) -> None:
    settings, images = model_settings(latent=2, encoder=[5], decoder=[], **changes), ImageFormat(6, 5, 17)
    weights = sum(parameter.nbytes for parameter in VAE(settings, images, SHARES).parameters())
    assert memory(settings, images, SHARES, rollbacks=0) == 6 * weights


def held(vae: VAE) -> dict[int, int]:
    """Bytes of every storage that a tensor uses, by address."""
    # type(): isinstance() would also look into lazy modules.
    tensors = [item for item in gc.get_objects() if issubclass(type(item), Tensor)]
    tensors += [parameter.grad for parameter in vae.parameters() if parameter.grad is not None]
    return {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}


@pytest.mark.parametrize("rollbacks", [0, 2])
def test_a_training_holds_at_most_what_was_estimated(monkeypatch: pytest.MonkeyPatch, rollbacks: int) -> None:
    """It holds most while the new best weights replace the old ones."""
    vae = VAE(MODEL, flat_format(300))
    before = held(vae)
    found: list[int] = []

    def measured(function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            result = function(*arguments)
            found.append(sum(nbytes for address, nbytes in held(vae).items() if address not in before))
            return result

        return call

    images = torch.randint(0, 17, (20, 300), dtype=torch.uint8)
    monkeypatch.setattr("pipeline.training.trainer.copy", SimpleNamespace(deepcopy=measured(copy.deepcopy)))
    trainer = Trainer(vae, images, SETTINGS.model_copy(update={"rollbacks": rollbacks}))
    monkeypatch.setattr(trainer.gradient_step, "restore", measured(trainer.gradient_step.restore))
    for _ in range(2):
        trainer.check()
        trainer.step()
    trainer.check()
    trainer.end_epoch()
    trainer.step()
    if rollbacks:
        trainer.roll_back()
    weights = sum(parameter.nbytes for parameter in vae.parameters())
    assert max(found) / weights == pytest.approx(memory(MODEL, flat_format(300), (), rollbacks) / weights - 1, abs=0.1)
