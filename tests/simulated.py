"""A GPU's rules without a GPU: tensors of a device of their own, which the host must not touch in passing.

Its tensors hold their numbers on the CPU, and every operation is done there; so results are those of the CPU, to the
bit. What a GPU would refuse is refused: an operation on tensors of both sides. What a GPU would wait for is counted:
a number, or a tensor, that comes back to the host; and what cannot be captured as a graph, one that is sent there.
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

# Copies between the two sides; and tables of indices may come from the host.
CROSSING = ("aten::_to_copy", "aten::copy_", "aten::to.")
INDEXING = ("aten::index.", "aten::index_put", "aten::_index_put")
# Where the size or the value of what comes out depends on numbers.
WAITS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class Remote(Tensor):
    """A tensor of the device."""

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
    """Within it the device exists; `crossings` are the operations by which something came to the host or from it."""

    def __init__(self) -> None:
        super().__init__()
        self.crossings: list[str] = []

    def __enter__(self) -> "Simulated":
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device) is then a copy, as on a GPU
        return super().__enter__()

    def __exit__(self, *failure: Any) -> None:
        super().__exit__(*failure)
        torch._C._set_only_lift_cpu_tensors(False)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {}, self.crossings)


def _run(func: Any, args: Any, kwargs: dict[str, Any], crossings: list[str]) -> Any:
    name, crossing = func.name(), func.name().startswith(CROSSING)
    leaves, tree = tree_flatten((args, kwargs))
    there = [leaf for leaf in leaves if isinstance(leaf, Remote)]
    here = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, Remote)]
    devices = [leaf for leaf in leaves if isinstance(leaf, torch.device)]
    remote = devices[0].type == NAME if devices else bool(there)
    if name == "aten::_has_compatible_shallow_copy_type":
        return not (there and here)
    if there and any(tensor.dim() for tensor in here) and not crossing and not name.startswith(INDEXING):
        raise RuntimeError(f"{name}: expected all tensors to be on the same device")
    waits = _by_truth(leaves) if name.startswith(INDEXING) else WAITS & set(func.tags)
    if waits or (there and (here or not remote)) or (here and remote):
        crossings.append(name)
    held_args, held_kwargs = tree_unflatten([_held(leaf) for leaf in leaves], tree)
    result = func(*held_args, **held_kwargs)
    owners = {id(leaf.held): leaf for leaf in there}
    if not remote:
        return result.clone() if id(result) in owners else result
    return tree_map(lambda leaf: owners[id(leaf)] if id(leaf) in owners else _wrapped(leaf), result)


def _by_truth(leaves: list[Any]) -> bool:
    """Whether an index is a table of truth values, which are counted first."""
    return any(isinstance(leaf, Tensor) and leaf.dtype == torch.bool for leaf in leaves[1:])


def _held(leaf: Any) -> Any:
    if isinstance(leaf, torch.device) and leaf.type == NAME:
        return torch.device("cpu")
    return leaf.held if isinstance(leaf, Remote) else leaf


def _wrapped(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    with torch.inference_mode(mode=False):  # a view of a wrapper could not be made within
        return Remote(leaf)
