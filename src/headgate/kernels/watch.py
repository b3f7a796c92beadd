"""Whether anything but plain eager execution follows a call: a recorder, a mode, a transform, a tensor of another kind.

The native library reads and writes through pointers, which none of these sees: what records a call would record the
memory before it is written. Their calls go through an operator that torch knows, or through the definition.
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
    """Whether nothing follows a call with these tensors. The questions below in one, for the usual answer: it is asked
    in every call, and must take no time.
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
    """Whether torch.jit.trace or an ONNX exporter writes the call down, for a program of torch's own functions."""
    if torch.compiler.is_compiling():
        return torch.onnx.is_in_onnx_export()
    return torch._C._is_tracing()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # torch.compile guards on both
def transformed() -> bool:
    """Whether torch.func or forward-mode differentiation is under way, of which only the definition knows."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def by_modes() -> bool:
    """Whether a dispatch mode or a function mode is on the stack. A default device is one that watches nothing."""
    if torch._C._len_torch_dispatch_stack():
        return True
    modes = range(torch._C._len_torch_function_stack())
    return any(not isinstance(torch._C._get_function_stack_at(i), DeviceContext) for i in modes)


def plain(tensors: Iterable[Any]) -> bool:
    """Whether all are tensors of no class but torch's own, or None."""
    return _PLAIN.issuperset(map(type, tensors))


def batched(tensors: Iterable[Tensor | None]) -> bool:
    """Whether one is a tensor inside torch.vmap, or inside the older vmap behind ``is_grads_batched``."""
    of = torch._C._functorch
    return any(v is not None and (of.is_legacy_batchedtensor(v) or of.is_functorch_wrapped_tensor(v)) for v in tensors)


def foreign(tensors: Sequence[Any]) -> bool:
    """Whether one is of a class that computes torch's operators itself, and so cannot know one of ours."""
    return any(
        getattr(kind, "__torch_dispatch__", None) is not Tensor.__torch_dispatch__
        and not issubclass(kind, FakeTensor | FunctionalTensor)
        for kind in set(map(type, tensors)) - _PLAIN
    )


def expanded(tensors: Sequence[Any]) -> bool:
    """Whether one is a weight of torch.nn.utils._expanded_weights, which makes gradients of each sample."""
    if torch.compiler.is_compiling():
        return False
    from torch.nn.utils._expanded_weights.expanded_weights_impl import ExpandedWeight

    return any(isinstance(v, ExpandedWeight) for v in tensors)
