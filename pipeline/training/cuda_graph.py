"""A function captured once as a CUDA graph and replayed: one launch for all of its kernels instead of one for each.

PyTorch's own wrappers do not fit: `torch.compile(mode="reduce-overhead")` needs a compiler on the machine, and
`make_graphed_callables` leaves out the optimiser.
"""

import sys
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.torch_version import TorchVersion

Function = Callable[[Tensor], None]


def capture(function: Callable[[], None], generator: torch.Generator) -> Callable[[], None]:
    """A function that replays the work of `function` on the same tensors, with new numbers from the generator."""
    graph = torch.cuda.CUDAGraph()
    if TorchVersion(torch.__version__) < "2.14":  # later versions find the generators themselves
        graph.register_generator_state(generator)
    with torch.cuda.graph(graph, stream=torch.cuda.Stream(generator.device)):
        function()
    return graph.replay


class GraphedFunction:
    """Runs a function of a batch as a CUDA graph, one graph for each batch size.

    Results must not depend on how a step is run, so a replay must leave the same bytes as a call. The first batch of
    each size is run both ways. If the results differ, or the capture fails, a warning says so and the function is
    called directly from then on.

    Args:
        changed: all tensors that the function changes. They, and the tensors that it reads, must keep their addresses.
        generator: the generator that the function draws from.
        capture: makes the replay; tests replace it.
    """

    def __init__(
        self,
        changed: Sequence[Tensor],
        generator: torch.Generator,
        capture: Callable[[Callable[[], None], torch.Generator], Callable[[], None]] = capture,
    ) -> None:
        self.changed, self.generator, self.capture = changed, generator, capture
        self._replays: dict[int, Function | None] = {}

    def __call__(self, function: Function, batch: Tensor) -> None:
        """Run `function(batch)`. It must be the same function each time, and must not wait for the device."""
        if len(batch) not in self._replays:
            self._replays[len(batch)] = self._make_replay(function, batch)
        (self._replays[len(batch)] or function)(batch)

    def _make_replay(self, function: Function, batch: Tensor) -> Function | None:
        """The replay for this batch size, or None if it cannot be used. All tensors are left as they were."""
        start = self._state()
        function(batch)  # also loads the kernels, which is not allowed during a capture
        called = self._state()
        self._restore(start)
        fixed = batch.clone()
        try:
            replay = self.capture(lambda: function(fixed), self.generator)
        except RuntimeError as error:
            # Ending a failed capture raises a second error, which hides the cause.
            reason = str(error.__context__ or error).splitlines()[0]
            print(f"warning: training steps are not captured: {reason}", file=sys.stderr)
            return None
        finally:
            self._restore(start)  # a failed capture may have run the function instead of recording it

        def replayed(batch: Tensor) -> None:
            fixed.copy_(batch)
            replay()

        replayed(batch)
        equal = [a.numpy().tobytes() for a in self._state()] == [a.numpy().tobytes() for a in called]
        self._restore(start)
        if equal:
            return replayed
        print("warning: training steps are not captured: a replay gave a different result", file=sys.stderr)
        return None

    def _state(self) -> list[Tensor]:
        """A copy of the tensors and of the generator's state, on the CPU to save the device's memory."""
        return [*(tensor.cpu().clone() for tensor in self.changed), self.generator.get_state()]

    def _restore(self, state: list[Tensor]) -> None:
        for tensor, value in zip(self.changed, state[:-1], strict=True):
            tensor.copy_(value)
        self.generator.set_state(state[-1])
