"""The rules of a GPU without a GPU: a device whose tensors the host must not touch within a step.

Its tensors hold their numbers on the CPU, and each operation runs there, so results are those of the CPU to the bit.
An operation on tensors of both sides is an error, as on a GPU. Transfers between the two sides are recorded: a number
or tensor that comes to the host makes the host wait for a GPU, and one that goes to the device cannot be captured in a
CUDA graph.

This uses private parts of PyTorch. It can go as soon as the tests run on a GPU, where
`torch.cuda.set_sync_debug_mode("error")` finds the same mistakes.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "simulated"


class Backend(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


_setup_privateuseone_for_python_backend(NAME, Backend())
_autocast = torch.library.Library("_", "IMPL")
_autocast.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
DEVICE = torch.device(NAME, 0)

# These operations may have tensors of both sides: copies, and indexing, whose indices may be on the host.
COPYING = ("aten::_to_copy", "aten::copy_", "aten::to.")
INDEXING = ("aten::index.", "aten::index_put", "aten::_index_put")
# The host waits for operations whose result has a value or a shape that depends on the data.
WAITS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class Remote(Tensor):
    """A tensor of the device; `held` has its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "Remote":
        remote = Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=DEVICE,
        )  # fmt: skip
        remote.held = held
        return remote

    def tolist(self) -> Any:
        return self.cpu().tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {}, [])


class Simulated(TorchDispatchMode):
    """The device exists inside this context. `crossings` names the operations that moved data between the sides."""

    def __init__(self) -> None:
        super().__init__()
        self.crossings: list[str] = []

    def __enter__(self) -> "Simulated":
        torch._C._set_only_lift_cpu_tensors(True)  # then torch.tensor(..., device) is a copy, as on a GPU
        return super().__enter__()

    def __exit__(self, *failure: Any) -> None:
        super().__exit__(*failure)
        torch._C._set_only_lift_cpu_tensors(False)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {}, self.crossings)


def _run(func: Any, args: Any, kwargs: dict[str, Any], crossings: list[str]) -> Any:
    """Run an operation on the numbers that its tensors hold; add it to `crossings` if it moves data."""
    name, copying = func.name(), func.name().startswith(COPYING)
    leaves, tree = tree_flatten((args, kwargs))
    remote = [leaf for leaf in leaves if isinstance(leaf, Remote)]
    local = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, Remote)]
    devices = [leaf for leaf in leaves if isinstance(leaf, torch.device)]
    result_is_remote = devices[0].type == NAME if devices else bool(remote)
    if name == "aten::_has_compatible_shallow_copy_type":
        return not (remote and local)
    if remote and any(tensor.dim() for tensor in local) and not copying and not name.startswith(INDEXING):
        raise RuntimeError(f"{name}: expected all tensors to be on the same device")
    waits = _has_mask(leaves) if name.startswith(INDEXING) else WAITS & set(func.tags)
    if waits or (remote and (local or not result_is_remote)) or (local and result_is_remote):
        crossings.append(name)
    held_args, held_kwargs = tree_unflatten([_held(leaf) for leaf in leaves], tree)
    result = func(*held_args, **held_kwargs)
    owners = {id(leaf.held): leaf for leaf in remote}  # an operation in place returns its argument
    if not result_is_remote:
        return result.clone() if id(result) in owners else result
    return tree_map(lambda leaf: owners[id(leaf)] if id(leaf) in owners else _wrapped(leaf), result)


def _has_mask(leaves: list[Any]) -> bool:
    """Whether an index is a boolean mask: its true values must be counted first."""
    return any(isinstance(leaf, Tensor) and leaf.dtype == torch.bool for leaf in leaves[1:])


def _held(leaf: Any) -> Any:
    if isinstance(leaf, torch.device) and leaf.type == NAME:
        return torch.device("cpu")
    return leaf.held if isinstance(leaf, Remote) else leaf


def _wrapped(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    with torch.inference_mode(mode=False):  # in inference mode a view of a wrapper is an error
        return Remote(leaf)
