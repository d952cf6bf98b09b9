"""The estimate of a training's memory."""

from pipeline.config import Model
from pipeline.training.memory import memory


def test_memory_is_six_times_that_of_the_weights() -> None:
    settings = Model(latent=2, encoder=(5,), decoder=(), activation="silu", sigma=0.2)
    encoder = (30 + 1) * 5 + (5 + 1) * 4
    decoder = (2 + 1) * 30
    assert memory(settings, 30) == 6 * 4 * (encoder + decoder)
