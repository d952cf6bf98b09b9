"""A captured function leaves the bytes of a called one, or it is called.

Without a GPU a function that records takes the place of the capture. The last test needs a GPU.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pipeline.data.dataset import Dataset
from pipeline.model.vae import VAE
from pipeline.training.cuda_graph import GraphedFunction
from pipeline.training.fit import fit
from tests.support import model_settings, training


class Work:
    """Two tensors and a generator, changed by a function of a batch."""

    def __init__(self) -> None:
        self.sums, self.noise = torch.zeros(3), torch.zeros(3)
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, batch: Tensor) -> None:
        self.sums += batch.sum()
        self.noise.copy_(torch.randn(3, generator=self.generator))

    def graphed(self, capture: Callable[..., Callable[[], None]]) -> Callable[[Tensor], None]:
        """Runs this function by a `GraphedFunction`."""
        graph = GraphedFunction([self.sums, self.noise], self.generator, capture)
        return lambda batch: graph(self, batch)

    def bytes(self) -> list[bytes]:
        return [value.numpy().tobytes() for value in (self.sums, self.noise, self.generator.get_state())]


class Recorder:
    """Takes the place of a capture: its replay calls the function, and then does something `wrong`, if asked to."""

    def __init__(self, wrong: Callable[[], object] = lambda: None) -> None:
        self.wrong, self.captures, self.replays = wrong, 0, 0

    def __call__(self, function: Callable[[], None], generator: torch.Generator) -> Callable[[], None]:
        self.captures += 1

        def replay() -> None:
            self.replays += 1
            function()
            self.wrong()

        return replay


def batches() -> list[Tensor]:
    return [torch.arange(float(size)) + number for number, size in enumerate([10, 10, 7, 10, 7])]


def run(function: Callable[[Tensor], None], work: Work) -> list[bytes]:
    for batch in batches():
        function(batch)
    return work.bytes()


@pytest.fixture
def called() -> list[bytes]:
    """The result of calling the function."""
    work = Work()
    return run(work, work)


def test_replays_leave_the_bytes_of_calls(called: list[bytes], capsys: pytest.CaptureFixture[str]) -> None:
    work, recorder = Work(), Recorder()
    assert run(work.graphed(recorder), work) == called
    assert recorder.captures == 2  # one for each batch size
    assert recorder.replays == 5 + 2  # one more of each size, compared with a call
    assert capsys.readouterr().err == ""


def test_a_replay_with_another_result_is_not_used(called: list[bytes], capsys: pytest.CaptureFixture[str]) -> None:
    work = Work()
    recorder = Recorder(lambda: work.sums.add_(1e-5))
    assert run(work.graphed(recorder), work) == called
    assert recorder.replays == 2
    assert capsys.readouterr().err.count("a replay gave a different result") == 2


def test_a_capture_that_calls_and_records_nothing_is_not_used(
    called: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    """As if the work ran on another stream than the captured one."""

    def empty(function: Callable[[], None], generator: torch.Generator) -> Callable[[], None]:
        function()
        return lambda: None

    work = Work()
    assert run(work.graphed(empty), work) == called
    assert "a replay gave a different result" in capsys.readouterr().err


def test_nan_is_the_same_result_as_nan(capsys: pytest.CaptureFixture[str]) -> None:
    work = Work()
    work.sums.fill_(torch.nan)
    work.graphed(Recorder())(torch.arange(3.0))
    assert work.sums.isnan().all()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("calls", [False, True], ids=["before the call", "after the call"])
def test_a_failed_capture_leaves_nothing_behind(
    called: list[bytes], capsys: pytest.CaptureFixture[str], calls: bool
) -> None:
    def fail(function: Callable[[], None], generator: torch.Generator) -> Callable[[], None]:
        if calls:
            function()
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    work = Work()
    assert run(work.graphed(fail), work) == called
    warning = "warning: training steps are not captured: operation not permitted when stream is capturing\n"
    assert capsys.readouterr().err == 2 * warning


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_on_a_gpu_captured_steps_give_the_bytes_of_called_ones(
    tiny: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    precision: str,
    optimizer: str,
    network: str,
) -> None:
    settings = training(
        epochs=3, batch_size=20, optimizer=optimizer, learning_rate=0.01, weight_decay=0.1, clip_norm=100.0,
        validation=0.2, precision=precision,
    )  # fmt: skip
    model = model_settings(latent=2, network=network, encoder=[16], decoder=[16], width=4, sigma=0.2)

    def trained() -> list[Tensor]:
        torch.manual_seed(0)
        vae = VAE(model, tiny.format()).to("cuda")
        list(fit(vae, tiny.train_images.flatten(1).to("cuda"), settings))
        return [value.cpu() for value in vae.state_dict().values()]

    captured = trained()
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(GraphedFunction, "__call__", lambda self, function, batch: function(batch))
    assert all(torch.equal(a, b) for a, b in zip(captured, trained(), strict=True))
