"""Checks for anything that follows a call besides plain eager execution: tracing, modes, transforms, tensor subclasses.

The native library reads and writes through pointers, which none of these can see: a tracer would record the output
before it is written. Such calls go through an operator that torch knows, or through the definition.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.autograd import forward_ad
from torch.utils._device import DeviceContext

_PLAIN = frozenset((Tensor, nn.Parameter, type(None)))


def unwatched(tensors: Iterable[Any]) -> bool:
    """Return True if nothing follows a call with these tensors.

    Combines the checks below into one, because every call asks and the usual answer must be fast.
    """
    return not (
        torch.compiler.is_compiling()
        or torch._C._is_tracing()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    ) and _PLAIN.issuperset(map(type, tensors))


def recorded() -> bool:
    """Return True if torch.jit.trace or an ONNX exporter records the call as a program of torch's own operators."""
    if torch.compiler.is_compiling():
        return torch.onnx.is_in_onnx_export()
    return torch._C._is_tracing()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # torch.compile guards on both
def transformed() -> bool:
    """Return True inside torch.func transforms and forward-mode differentiation; only the definition supports them."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def by_modes() -> bool:
    """Return True if a dispatch or function mode is active, other than the mode that sets a default device."""
    if torch._C._len_torch_dispatch_stack():
        return True
    modes = range(torch._C._len_torch_function_stack())
    return any(not isinstance(torch._C._get_function_stack_at(i), DeviceContext) for i in modes)


def plain(tensors: Iterable[Any]) -> bool:
    """Return True if each is a Tensor, a Parameter or None, not a subclass."""
    return _PLAIN.issuperset(map(type, tensors))


def batched(tensors: Iterable[Tensor | None]) -> bool:
    """Return True if one is a tensor inside torch.vmap or the older vmap that ``is_grads_batched`` uses."""
    of = torch._C._functorch
    return any(v is not None and (of.is_legacy_batchedtensor(v) or of.is_functorch_wrapped_tensor(v)) for v in tensors)


def foreign(tensors: Sequence[Any]) -> bool:
    """Return True if one is of a class implementing torch's operators itself, and so cannot know this package's."""
    return any(
        getattr(kind, "__torch_dispatch__", None) is not Tensor.__torch_dispatch__
        and not issubclass(kind, FakeTensor | FunctionalTensor)
        for kind in set(map(type, tensors)) - _PLAIN
    )


def expanded(tensors: Sequence[Any]) -> bool:
    """Return True if one is an ExpandedWeight, with which torch computes per-sample gradients."""
    if torch.compiler.is_compiling():
        return False
    from torch.nn.utils._expanded_weights.expanded_weights_impl import ExpandedWeight

    return any(isinstance(v, ExpandedWeight) for v in tensors)
