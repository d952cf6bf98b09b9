"""A function captured once as a CUDA graph and replayed: a launch for all of its kernels, in place of one for each."""

import sys
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.torch_version import TorchVersion

Function = Callable[[Tensor], None]


def capture(function: Callable[[], None], generator: torch.Generator) -> Callable[[], None]:
    """What repeats the function's work on the same tensors, with fresh numbers from the generator each time."""
    graph = torch.cuda.CUDAGraph()
    if TorchVersion(torch.__version__) < "2.14":  # later versions find the generators themselves
        graph.register_generator_state(generator)
    with torch.cuda.graph(graph, stream=torch.cuda.Stream(generator.device)):
        function()
    return graph.replay


class Captured:
    """The execution of a function of a batch: called once, then replayed; for each size of batch anew.

    A replay must leave the very bytes that a call leaves, or results would depend on how they were executed. So the
    first batch of each size is done both ways; where they differ, or nothing can be captured, a warning says so and
    the function is called.

    Args:
        changed: all the tensors that the function changes. Like those that it reads, they stay where they are.
        generator: the one that it draws from.
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
        """Do `function(batch)`; it is the same function each time, and never waits for the device."""
        if len(batch) not in self._replays:
            self._replays[len(batch)] = self._replay(function, batch)
        (self._replays[len(batch)] or function)(batch)

    def _replay(self, function: Function, batch: Tensor) -> Function | None:
        """What does a batch of this size in place of a call, if anything; nothing is changed when it is found."""
        start = self._state()
        function(batch)  # also loads its kernels, which cannot be done within a capture
        called = self._state()
        self._restore(start)
        fixed = batch.clone()
        try:
            replay = self.capture(lambda: function(fixed), self.generator)
        except RuntimeError as error:
            # The end of a capture that was broken off fails too, and hides why.
            reason = str(error.__context__ or error).splitlines()[0]
            print(f"warning: training steps are not captured: {reason}", file=sys.stderr)
            return None
        finally:
            self._restore(start)  # work that was done, not captured, would be done twice, or pass for the replay's

        def replayed(batch: Tensor) -> None:
            fixed.copy_(batch)
            replay()

        replayed(batch)
        equal = [a.numpy().tobytes() for a in self._state()] == [a.numpy().tobytes() for a in called]
        self._restore(start)
        if equal:
            return replayed
        print("warning: training steps are not captured: one that was replayed came out otherwise", file=sys.stderr)
        return None

    def _state(self) -> list[Tensor]:
        """On the CPU: the device's memory is for the work."""
        return [*(tensor.cpu().clone() for tensor in self.changed), self.generator.get_state()]

    def _restore(self, state: list[Tensor]) -> None:
        for tensor, value in zip(self.changed, state[:-1], strict=True):
            tensor.copy_(value)
        self.generator.set_state(state[-1])
