"""A device that exists only by name: its tensors refuse to mix with the CPU's, and compute on the CPU.

PyTorch's `FakeTensorMode` checks devices without a GPU too, but its tensors have no values, and nearly every
step here asks for some: which positions are masked, how many steps are done, whether codes are dead. And
its backward pass fails in a CUDA build without a driver ("hasPrimaryContext expects a valid device index").
So these tensors carry values, and the device is called `meta`, the one besides `cpu` that every build has.
`test_simulated_device.py` holds the rules for mixing against those of `FakeTensorMode`'s `cuda`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map, tree_map_only

aten = torch.ops.aten
ELSEWHERE = torch.device("meta")
# Copies may cross from one device to another
CROSSING = {aten._to_copy, aten.copy_, aten._foreach_copy_, aten.copy}
# A tensor on a GPU may be indexed by positions on the CPU
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}


class TensorElsewhere(torch.Tensor):
    """A tensor that says it is on another device; `values` is what it really is, on the CPU."""

    values: torch.Tensor

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> TensorElsewhere:
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, values.size(), strides=values.stride(), storage_offset=values.storage_offset(),
            dtype=values.dtype, layout=values.layout, device=ELSEWHERE, requires_grad=False,
        )  # fmt: skip
        made.values = values
        return made

    def __repr__(self, **_: Any) -> str:
        return f"TensorElsewhere({self.values!r})"

    def __getitem__(self, index: Any) -> torch.Tensor:
        return super().__getitem__(lists_as_tensors(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(lists_as_tensors(index), value)

    def tolist(self) -> Any:
        return self.values.tolist()

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        if id(self) not in memo:
            made = TensorElsewhere(self.values.clone())
            if isinstance(self, torch.nn.Parameter):
                made = torch.nn.Parameter(made, self.requires_grad)  # type: ignore[assignment]
            memo[id(self)] = made
        return memo[id(self)]

    # With these two `nn.Module.to` swaps tensors, as it does for every wrapper, and ties stay tied
    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["values"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, torch.Tensor], *_: Any) -> TensorElsewhere:
        return TensorElsewhere(inner["values"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def lists_as_tensors(index: Any) -> Any:
    """PyTorch turns a list of positions into a tensor on the indexed one's device, without values here."""
    if isinstance(index, tuple):
        return tuple(lists_as_tensors(part) for part in index)
    return torch.tensor(index) if isinstance(index, list) else index


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation: its devices checked, its values computed on the CPU.

    Outside of inference mode, whose tensors cannot be views of others where Python dispatches.
    """
    with torch.inference_mode(False), torch.no_grad():
        return checked(func, args, kwargs)


def checked(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    packet = func.overloadpacket
    if packet is aten._fused_sdp_choice:
        return 0  # plain attention: the fused kernels of a GPU are not here
    if packet is aten._has_compatible_shallow_copy_type:
        return False  # `nn.Module.to` must make new parameters
    inputs = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.Tensor)]
    assert all(leaf.device.type == "cpu" or isinstance(leaf, TensorElsewhere) for leaf in inputs), (
        f"{func} got a tensor without values"
    )
    there = [leaf for leaf in inputs if isinstance(leaf, TensorElsewhere)]
    asked = kwargs.get("device")
    if packet not in CROSSING:
        strangers = [leaf for leaf in inputs if not isinstance(leaf, TensorElsewhere) and leaf.dim() > 0]
        indexed_there = packet in INDEXING and isinstance(args[0], TensorElsewhere)
        if indexed_there:
            positions = [leaf for leaf in args[1] if leaf is not None]
            strangers = [leaf for leaf in strangers if all(leaf is not other for other in positions)]
        if there and strangers:
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but {func} got meta and cpu "
                f"{[list(leaf.shape) for leaf in strangers]}"
            )
    is_elsewhere = bool(there) if asked is None else torch.device(asked).type == ELSEWHERE.type
    if packet in (aten.copy_, aten._foreach_copy_):
        is_elsewhere = isinstance(inputs[0], TensorElsewhere)
    real_args, real_kwargs = tree_map(to_values, (args, kwargs))
    if asked is not None:
        real_kwargs["device"] = torch.device("cpu")
    out = func(*real_args, **real_kwargs)
    if packet is aten._to_copy and any(out is leaf for leaf in tree_flatten(real_args)[0]):
        out = out.clone()
    if not is_elsewhere:
        return out
    wrapped = tree_map_only(torch.Tensor, TensorElsewhere, out)
    return return_and_correct_aliasing(func, args, kwargs, wrapped) if there else wrapped


def to_values(leaf: Any) -> Any:
    return leaf.values if isinstance(leaf, TensorElsewhere) else leaf


class _Factories(TorchDispatchMode):
    """Takes `torch.zeros(..., device="meta")` and `.to("meta")`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


@contextmanager
def simulated_device() -> Iterator[torch.device]:
    """Within it the device that it yields is one to put modules and tensors on."""
    autocast, is_enabled = torch.autocast, torch.is_autocast_enabled
    fused = [*_foreach_utils._get_fused_kernels_supported_devices(), ELSEWHERE.type]

    def no_autocast(device_type: str, *args: Any, **kwargs: Any) -> AbstractContextManager[Any]:
        return nullcontext() if device_type == ELSEWHERE.type else autocast(device_type, *args, **kwargs)

    plain_tensor = torch.tensor

    def tensor(data: Any, *, device: Any = "cpu", **kwargs: Any) -> torch.Tensor:
        return plain_tensor(data, **kwargs).to(device)  # for `meta` PyTorch makes one without values

    with (
        mock.patch.object(torch, "tensor", tensor),
        mock.patch.object(torch, "autocast", no_autocast),
        mock.patch.object(torch, "is_autocast_enabled", lambda kind: kind != "meta" and is_enabled(kind)),
        mock.patch("torch.optim.optimizer._get_fused_kernels_supported_devices", return_value=fused),
        _Factories(),
    ):
        yield ELSEWHERE
