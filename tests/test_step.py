"""One step: all of it on the device, nothing of it where a number is not finite, the same bytes called or replayed."""

from collections.abc import Callable

import pytest
import torch
from simulated import DEVICE, Simulated
from torch import Tensor

from pipeline.config import Model, Train
from pipeline.datasets import Dataset
from pipeline.graphs import Captured
from pipeline.ranks import ALONE
from pipeline.step import Step
from pipeline.training import fit
from pipeline.vae import VAE

MODEL = Model(latent=2, encoder=(16,), decoder=(16,), activation="silu", sigma=0.2)
SETTINGS = Train(
    epochs=3, batch_size=20, optimizer="adamw", learning_rate=0.01, warmup=0.1, final_learning_rate=0.1,
    weight_decay=0.1, clip_norm=100.0, validation=0.2, precision="float32", rollbacks=0, seed=0,
)  # fmt: skip


def made(dataset: Dataset, settings: Train = SETTINGS, device: torch.device | None = None) -> Step:
    torch.manual_seed(0)
    images = dataset.train_images.flatten(1).to(device)
    vae = VAE(MODEL, dataset.pixels).to(device)
    return Step(vae, images, dataset.levels, settings, ALONE, torch.Generator().manual_seed(0))


def held(step: Step) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in step.state().items() if name != "measures"}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_making_one_changes_nothing(tiny: Dataset) -> None:
    step = made(tiny)
    torch.manual_seed(0)
    fresh = VAE(MODEL, tiny.pixels)
    assert equal(fresh.state_dict(), step.vae.state_dict())
    assert torch.equal(step.generator.get_state(), torch.Generator().manual_seed(0).get_state())
    assert not any(value.any() for name, value in held(step).items() if name.startswith("optimizer/"))
    assert not step.measures.any()


def test_a_step_that_is_not_finite_changes_nothing_nor_do_those_after_it(tiny: Dataset) -> None:
    step, batch = made(tiny), torch.arange(10)
    step(batch, 0.01, 0)
    assert step.measures[0].isfinite().all()
    assert (step.measures[0] != 0).all()
    weight = next(step.vae.parameters())
    kept = weight[0, 0].item()
    with torch.no_grad():
        weight[0, 0] = torch.inf
    before = held(step)
    step(batch, 0.01, 1)
    assert equal(before, held(step))
    with torch.no_grad():
        weight[0, 0] = kept
    before = held(step)
    step(batch, 0.01, 2)
    assert step.measures[2].isfinite().all()
    assert equal(before, held(step))
    step.clear()
    step(batch, 0.01, 3)
    after = held(step)
    assert not any(torch.equal(value, after[name]) for name, value in before.items())


def test_gradients_are_divided_down_to_the_clip_norm(tiny: Dataset) -> None:
    """Moments after one step are (1 − β) times the gradient, so they tell its length."""
    free = made(tiny)
    free(torch.arange(10), 0.01, 0)
    norm = free.measures[0, 2].item()
    for clip in (norm / 7, norm * 7):
        step = made(tiny, SETTINGS.model_copy(update={"clip_norm": clip}))
        step(torch.arange(10), 0.01, 0)
        moments = [value for name, value in step.state().items() if name.endswith("/exp_avg")]
        length = torch.cat([moment.flatten() for moment in moments]).norm().item() / 0.1
        assert length == pytest.approx(min(clip, norm), rel=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_in_a_step_nothing_comes_to_the_host_or_from_it(tiny: Dataset, precision: str, optimizer: str) -> None:
    """Else it could not be captured; and the numbers are those of the CPU."""
    settings = SETTINGS.model_copy(update={"precision": precision, "optimizer": optimizer})
    here = made(tiny, SETTINGS.model_copy(update={"optimizer": optimizer}))
    here(torch.arange(10), 0.01, 0)
    with Simulated() as simulated:
        there = made(tiny, settings, DEVICE)
        batch = torch.arange(10).to(DEVICE)
        simulated.crossings.clear()
        there(batch, 0.01, 0)
        assert simulated.crossings == []
        for name, value in there.state().items():
            torch.testing.assert_close(value.cpu(), here.state()[name])


class Recorded:
    """In a graph's place: repeats the function on the same tensors, as it is or with something wrong."""

    def __init__(self, wrong: Callable[[], None] = lambda: None) -> None:
        self.wrong, self.captures, self.replays = wrong, 0, 0

    def __call__(self, function: Callable[[], None], generator: torch.Generator) -> Callable[[], None]:
        self.captures += 1

        def replay() -> None:
            self.replays += 1
            function()
            self.wrong()

        return replay


def test_replayed_steps_leave_the_bytes_of_called_ones(tiny: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    called, replayed = made(tiny), made(tiny)
    recorded = Recorded()
    replayed.captured = Captured(list(replayed.state().values()), replayed.generator, recorded)
    for number, size in enumerate([10, 10, 7, 10, 7]):
        batch = torch.arange(size) + number
        for step in (called, replayed):
            step(batch, 0.01 * number, number)
    assert equal(called.state(), replayed.state())
    assert torch.equal(called.generator.get_state(), replayed.generator.get_state())
    assert recorded.captures == 2
    assert recorded.replays == 5 + 2  # each of them looked at once
    assert capsys.readouterr().err == ""


def test_a_replay_that_comes_out_otherwise_is_refused(tiny: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    called, other = made(tiny), made(tiny)
    changed = list(other.state().values())
    last = changed[-1]

    def wrong() -> None:
        last.add_(1e-6)

    recorded = Recorded(wrong)
    other.captured = Captured(changed, other.generator, recorded)
    for number in range(3):
        for step in (called, other):
            step(torch.arange(10), 0.01, number)
    assert equal(called.state(), other.state())
    assert recorded.replays == 1
    assert capsys.readouterr().err.count("came out otherwise") == 1


def test_a_capture_that_works_at_once_and_replays_nothing_is_refused(
    tiny: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    """As when the work goes to another stream than the one that is captured."""

    def empty(function: Callable[[], None], generator: torch.Generator) -> Callable[[], None]:
        function()
        return lambda: None

    called, other = made(tiny), made(tiny)
    other.captured = Captured(list(other.state().values()), other.generator, empty)
    for step in (called, other):
        step(torch.arange(10), 0.01, 0)
    assert equal(called.state(), other.state())
    assert "came out otherwise" in capsys.readouterr().err


def test_numbers_that_are_not_finite_are_equal_bytes(tiny: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    step = made(tiny)
    with torch.no_grad():
        next(step.vae.parameters()).fill_(torch.nan)
    step.captured = Captured(list(step.state().values()), step.generator, Recorded())
    step(torch.arange(10), 0.01, 0)
    assert step.measures[0].isnan().any()
    assert capsys.readouterr().err == ""


def test_what_cannot_be_captured_is_called(tiny: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(function: Callable[[], None], generator: torch.Generator) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    called, other = made(tiny), made(tiny)
    other.captured = Captured(list(other.state().values()), other.generator, refused)
    for step in (called, other):
        step(torch.arange(10), 0.01, 0)
    assert equal(called.state(), other.state())
    assert capsys.readouterr().err == (
        "warning: training steps are not captured: operation not permitted when stream is capturing\n"
    )


def test_a_capture_that_fails_when_it_has_worked_leaves_nothing(tiny: Dataset) -> None:
    def broken_off(function: Callable[[], None], generator: torch.Generator) -> Callable[[], None]:
        function()
        raise RuntimeError("out of patience")

    called, other = made(tiny), made(tiny)
    other.captured = Captured(list(other.state().values()), other.generator, broken_off)
    for step in (called, other):
        step(torch.arange(10), 0.01, 0)
    assert equal(called.state(), other.state())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_on_a_gpu_steps_are_captured_and_end_with_the_same_bytes(
    tiny: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    precision: str,
    optimizer: str,
) -> None:
    settings = SETTINGS.model_copy(update={"precision": precision, "optimizer": optimizer})

    def trained() -> list[Tensor]:
        torch.manual_seed(0)
        vae = VAE(MODEL, tiny.pixels).to("cuda")
        list(fit(vae, tiny.train_images.flatten(1).to("cuda"), tiny.levels, settings))
        return [value.cpu() for value in vae.state_dict().values()]

    captured = trained()
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(Captured, "__call__", lambda self, function, batch: function(batch))
    assert all(torch.equal(a, b) for a, b in zip(captured, trained(), strict=True))
