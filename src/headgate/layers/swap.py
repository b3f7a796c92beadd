"""``swap()``: replace the GRUs of any model by headgate's, and back."""

from typing import NamedTuple

import torch
from torch import nn

from headgate.layers.cell import GRUCell
from headgate.layers.gru import GRU

_KEPT_BY_TORCH = ("mode", "proj_size", "_flat_weights_names", "_all_weights", "_flat_weights", "_flat_weight_refs")
_OURS = {"reset": "after", "batch_invariant": True, "backend": "auto"}


class Swapped(NamedTuple):
    """The result of :func:`swap`: names of the modules it replaced, and of those it left, each with the reason."""

    changed: tuple[str, ...]
    left: dict[str, str]

    def __str__(self) -> str:
        lines = [f"swapped {len(self.changed)}: {', '.join(self.changed) or 'nothing'}"]
        return "\n".join(lines + [f"left {name}: {reason}" for name, reason in self.left.items()])


def swap(model: nn.Module, *, back: bool = False) -> Swapped:
    """Make every ``torch.nn.GRU`` and ``GRUCell`` of a model headgate's, in place.

    Each module stays the same object: its parameters, hooks, name, device, dtype and training flag do not change, so an
    optimizer, a data-parallel wrapper or a compiled model that knows it needs no change either.

    Parameters
    ----------
    model : nn.Module
        Any model, or a GRU itself.
    back : bool
        Make headgate's modules torch's again.

    Returns
    -------
    Swapped
        ``changed``, the names of the modules, and ``left``, a dict from the names of the GRUs that were not swapped
        to the reasons. The name of the model itself is ``"(the model)"``.

    Raises
    ------
    TypeError
        If ``model`` is not a module.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(3, 4), nn.GRU(4, 5))
    >>> print(swap(model))
    swapped 1: 1
    >>> model[1]
    GRU(4, 5)
    >>> swap(model, back=True).changed
    ('1',)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"swap needs a torch.nn.Module, got {type(model).__name__}")
    changed, left = [], {}
    for name, module in model.named_modules():
        if not isinstance(module, (GRU, GRUCell) if back else (nn.GRU, nn.GRUCell)):
            continue
        if reason := (_torch_lacks(module) if back else _cannot_become_ours(module)):
            left[name or "(the model)"] = reason
            continue
        (_to_torch if back else _to_ours)(module)
        changed.append(name or "(the model)")
    return Swapped(tuple(changed), left)


def _cannot_become_ours(module: nn.Module) -> str | None:
    """Return the reason why a torch module is left alone, or None."""
    kind = type(module)
    if isinstance(module, torch.jit.ScriptModule):
        return "a ScriptModule is compiled already: swap before torch.jit.script"
    if nn.utils.parametrize.is_parametrized(module):
        return "it is parametrized: swap before registering parametrizations"
    if kind not in (nn.GRU, nn.GRUCell):
        base = "GRU" if isinstance(module, nn.GRU) else "GRUCell"
        return f"{kind.__name__} is a subclass: derive it from headgate.{base}"
    if isinstance(module, nn.GRU) and any(
        weight is not getattr(module, name, None)
        for name, weight in zip(module._flat_weights_names, module._flat_weights, strict=True)
    ):
        return "_flat_weights holds tensors other than its parameters: swap before replacing them"
    return None


def _torch_lacks(module: nn.Module) -> str | None:
    """Return the reason why a module of headgate cannot become torch's, or None."""
    if type(module) not in (GRU, GRUCell):
        return f"{type(module).__name__} is a subclass or parametrized"
    if module.reset != "after":
        return 'torch.nn.GRU has no reset="before"'
    if module.bias == "single":
        return 'torch.nn.GRU has no bias="single"'
    if getattr(module, "learned_state", False):
        return "torch.nn.GRU has no learned state"
    if getattr(module, "_given", None):
        return "_flat_weights holds tensors other than its parameters"
    return None


def _to_ours(module: nn.Module) -> None:
    for name in _KEPT_BY_TORCH:
        module.__dict__.pop(name, None)
    if isinstance(module, nn.GRU):
        module.__class__ = GRU  # type: ignore[assignment]
        module.__dict__.update(_OURS, learned_state=False, _given=None, bias=bool(module.bias))
    else:
        module.__class__ = GRUCell
        module.__dict__.update(reset="after", backend="auto", bias=bool(module.bias))


def _to_torch(module: nn.Module) -> None:
    if isinstance(module, GRU):
        names = module._all_weights
        for name in (*_OURS, "learned_state", "_given"):
            module.__dict__.pop(name, None)
        module.__class__ = nn.GRU  # type: ignore[assignment]
        module.__dict__.update(
            mode="GRU", proj_size=0, _all_weights=names, _flat_weights_names=[n for layer in names for n in layer]
        )
        module._init_flat_weights()
    else:
        for name in ("reset", "backend"):
            module.__dict__.pop(name, None)
        module.__class__ = nn.GRUCell
