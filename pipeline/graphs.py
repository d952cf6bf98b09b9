"""A function captured once as a CUDA graph and replayed: a launch for all of its kernels, in place of one for each."""

import sys
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Function = Callable[[Tensor], None]


def capture(function: Callable[[], None], generator: torch.Generator) -> Callable[[], None]:
    """What repeats the function's work on the same tensors, with fresh numbers from the generator each time."""
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        function()
    return graph.replay


class Captured:
    """A function of a batch that is called once, then replayed; for each size of batch anew.

    A replay must leave the very bytes that a call leaves, or results would depend on how they were executed. So the
    first batch of each size is done both ways; where they differ, or nothing can be captured, a warning says so and
    the function is called.

    Args:
        function: works on tensors that stay where they are, and never waits for the device.
        changed: all the tensors that it changes.
        generator: the one that it draws from.
    """

    def __init__(
        self,
        function: Function,
        changed: Sequence[Tensor],
        generator: torch.Generator,
        capture: Callable[[Callable[[], None], torch.Generator], Callable[[], None]] = capture,
    ) -> None:
        self.function, self.changed, self.generator, self.capture = function, changed, generator, capture
        self._ways: dict[int, Function] = {}

    def __call__(self, batch: Tensor) -> None:
        if len(batch) not in self._ways:
            self._ways[len(batch)] = self._way(batch)
        self._ways[len(batch)](batch)

    def _way(self, batch: Tensor) -> Function:
        """How to do a batch of this size; nothing is changed when it is found."""
        start = self._state()
        self.function(batch)  # also loads its kernels, which cannot be done within a capture
        called = self._state()
        self._restore(start)
        fixed = batch.clone()
        try:
            replay = self.capture(lambda: self.function(fixed), self.generator)
        except RuntimeError as error:
            print(f"warning: training steps are not captured: {str(error).splitlines()[0]}", file=sys.stderr)
            return self.function

        def replayed(batch: Tensor) -> None:
            fixed.copy_(batch)
            replay()

        replayed(batch)
        equal = all(torch.equal(a, b) for a, b in zip(self._state(), called, strict=True))
        self._restore(start)
        if equal:
            return replayed
        print("warning: training steps are not captured: one that was replayed came out otherwise", file=sys.stderr)
        return self.function

    def _state(self) -> list[Tensor]:
        """On the CPU: the device's memory is for the work."""
        return [*(tensor.detach().cpu().clone() for tensor in self.changed), self.generator.get_state()]

    def _restore(self, state: list[Tensor]) -> None:
        with torch.no_grad():
            for tensor, value in zip(self.changed, state[:-1], strict=True):
                tensor.copy_(value)
        self.generator.set_state(state[-1])
