"""The common parts of GRU and GRUCell: names and shapes of the parameters, checks of the arguments.

Letters: I input size, H hidden size, D directions (1 or 2).
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn


def check_sizes(**sizes: int) -> list[int]:
    """Return the sizes as ints; NumPy integers are accepted. Raises TypeError or ValueError as ``torch.nn.GRU``."""
    for name, size in sizes.items():
        if not isinstance(size, int | np.integer):
            raise TypeError(f"{name} should be of type int, got: {type(size).__name__}")
        if size <= 0:
            raise ValueError(f"{name} must be greater than zero, got {size}")
    return [int(size) for size in sizes.values()]


def check_variant(bias: bool | str, reset: str) -> None:
    if not isinstance(bias, bool) and bias != "single":
        raise TypeError(f'bias should be of type bool, got: {type(bias).__name__} {bias!r} (or "single")')
    if reset not in ("after", "before"):
        raise ValueError(f'reset must be "after" or "before", got {reset!r}')


def converts(given: Tensor, dtype: torch.dtype) -> bool:
    """Return True if ``given`` is converted to the weights' dtype implicitly: from half to float32, or by autocast."""
    half = given.dtype in (torch.bfloat16, torch.float16) and dtype == torch.float32
    return half or torch.is_autocast_enabled(given.device.type)


def check_dtype(input: Tensor, dtype: torch.dtype, error: type[Exception] = ValueError) -> None:
    """Raise ``error`` unless the input has the weights' dtype or is converted to it implicitly."""
    if input.dtype != dtype and not converts(input, dtype):
        raise error(
            f"RNN input dtype ({input.dtype}) does not match weight dtype ({dtype}). "
            f"Convert input: input.to({dtype}), or convert model: model.to({input.dtype})"
        )


def sizes_of(I: int, H: int, bias: bool | str) -> dict[str, tuple[int, ...]]:  # noqa: E741 - the letter of the equations
    """Return the parameters of one layer and direction, name -> shape."""
    sizes: dict[str, tuple[int, ...]] = {"weight_ih": (3 * H, I), "weight_hh": (3 * H, H)}
    if bias:
        sizes["bias_ih"] = (3 * H,)
    if bias is True:
        sizes["bias_hh"] = (3 * H,)
    return sizes


def suffixes(layer: int, D: int) -> list[str]:
    """Return the suffixes of a layer's parameter names, one per direction."""
    return [f"_l{layer}", f"_l{layer}_reverse"][:D]


NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def weights(module: nn.Module, suffix: str) -> list[Any]:
    """Return weight_ih, weight_hh, bias_ih, bias_hh of a layer and direction; a missing bias is None."""
    parameters = module._parameters  # a parametrization replaces a parameter by a property
    names = (name + suffix for name in NAMES)
    return [parameters[name] if name in parameters else getattr(module, name, None) for name in names]


def leaf(module: nn.Module, input: fx.Proxy, *arguments: Any, **options: Any) -> Any:
    """Record a call of the module in torch.fx as one node, like a call of torch's own modules."""
    path = input.tracer.path_of_module(module)  # type: ignore[attr-defined]
    return input.tracer.create_proxy("call_module", path, (input, *arguments), options)


def represent(module: nn.Module, **defaults: Any) -> str:
    """Return the sizes and the arguments that differ from their defaults, for ``extra_repr``."""
    text = f"{module.input_size}, {module.hidden_size}"
    for name, default in defaults.items():
        value = getattr(module, name)
        if value != default or type(value) is not type(default):
            text += f", {name}={value!r}" if isinstance(value, str) else f", {name}={value}"
    return text
