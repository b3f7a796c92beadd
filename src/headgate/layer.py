"""The GRU as a module: the signature, names, initialization and state_dict of ``torch.nn.GRU``, plus what it lacks.

Letters: T time steps, B batch, I input size, H hidden size, L layers, D directions (1 or 2).
"""

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from headgate.functional import gru


class GRU(nn.Module):
    """Several layers of gated recurrent units over a sequence; a drop-in for ``torch.nn.GRU``.

        r  = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
        z  = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
        n  = tanh(W_in x + b_in + r * (W_hn h + b_hn))        reset="after", as torch.nn.GRU
        n  = tanh(W_in x + b_in + W_hn (r * h) + b_hn)        reset="before", as Cho et al. (arXiv:1406.1078v3)
        h' = (1 - z) * n + z * h

    Arguments of ``torch.nn.GRU``: input_size, hidden_size, num_layers, bias, batch_first, dropout (between layers),
    bidirectional, device, dtype. Beyond it:

    reset      "after" or "before": two different functions; weights of one are not weights of the other
    bias       "single" is the textbook's one bias a gate: bias_hh is zero and no parameter
    backend    "auto", or one of headgate.functional.BACKENDS to force it

    Input: (T, B, I), or (B, T, I) with batch_first, or (T, I) unbatched. An integer tensor without the last axis holds
    ids that stand for one-hot vectors of size I, which are never made. hx: (L*D, B, H), or (L*D, H) unbatched; zeros
    by default. Returns the states of the last layer (T, B, D*H) and the final states (L*D, B, H), laid out as the
    input; layer 0 forward, layer 0 backward, layer 1 forward, ...

    Raises the exceptions of ``torch.nn.GRU``: TypeError and ValueError for impossible arguments, ValueError for a
    wrong input rank or dtype, RuntimeError for shapes that do not fit. Packed sequences are not accepted yet.

    >>> gru = GRU(10, 20)
    >>> states, last = gru(torch.randn(5, 3, 10))
    >>> states.shape, last.shape
    (torch.Size([5, 3, 20]), torch.Size([1, 3, 20]))
    >>> ids = torch.tensor([[3], [7]])  # T = 2, B = 1: the one-hot vectors e_3 and e_7
    >>> torch.allclose(gru(ids)[0], gru(nn.functional.one_hot(ids, 10).float())[0], atol=1e-6)
    True
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool | str = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        reset: str = "after",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        for name, size in (("input_size", input_size), ("hidden_size", hidden_size), ("num_layers", num_layers)):
            if not isinstance(size, int):
                raise TypeError(f"{name} should be of type int, got: {type(size).__name__}")
            if size <= 0:
                raise ValueError(f"{name} must be greater than zero, got {size}")
        if not isinstance(bias, bool) and bias != "single":
            raise TypeError(f'bias should be True, False or "single", got: {bias!r}')
        if not isinstance(batch_first, bool):
            raise TypeError(f"batch_first should be of type bool, got: {type(batch_first).__name__}")
        if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout <= 1:
            raise ValueError(f"dropout should be a number from 0 to 1, the probability of a zero, got {dropout!r}")
        if reset not in ("after", "before"):
            raise ValueError(f'reset must be "after" or "before", got {reset!r}')
        if dropout > 0 and num_layers == 1:
            warnings.warn(
                f"dropout acts between layers: it does nothing with dropout={dropout} and num_layers=1", stacklevel=2
            )
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bool(bidirectional)
        self.reset = reset
        self.backend = backend

        D, H = (2 if bidirectional else 1), hidden_size
        for layer in range(num_layers):
            sizes: dict[str, tuple[int, ...]] = {
                "weight_ih": (3 * H, D * H if layer else input_size),
                "weight_hh": (3 * H, H),
            }
            if bias:
                sizes["bias_ih"] = (3 * H,)
            if bias is True:
                sizes["bias_hh"] = (3 * H,)
            for suffix in _suffixes(layer, D):
                for name, shape in sizes.items():
                    self.register_parameter(name + suffix, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every parameter from the uniform distribution on (-1/sqrt(H), 1/sqrt(H)), in torch.nn.GRU's order."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        ids, batched = self._read_shape(input, hx)
        x = input if batched else input.unsqueeze(0 if self.batch_first else 1)
        if self.batch_first:
            x = x.transpose(0, 1)  # from here on (T, B, I) or ids (T, B)
        L, D, H, B = self.num_layers, 2 if self.bidirectional else 1, self.hidden_size, x.shape[1]
        if hx is None:
            hx = torch.zeros(L * D, B, H, dtype=self._dtype, device=input.device)
        elif not batched:
            hx = hx.unsqueeze(1)
        if hx.shape != (L * D, B, H):
            axes = ("B, T" if self.batch_first else "T, B") + ("" if ids else ", I")
            hint = f" (input {tuple(input.shape)} read as ({axes}))" if batched else ""
            raise RuntimeError(f"Expected hidden size {(L * D, B, H)}, got {list(hx.shape)}{hint}")

        last = []
        for layer in range(L):
            if layer and self.dropout:
                x = nn.functional.dropout(x, self.dropout, self.training)
            states = []
            for direction, suffix in enumerate(_suffixes(layer, D)):
                outputs, h = gru(
                    x, hx[layer * D + direction], *self._weights(suffix), reset=self.reset, reverse=direction == 1,
                    backend=self.backend,
                )  # fmt: skip
                states.append(outputs)
                last.append(h)
            x = states[0] if D == 1 else torch.cat(states, -1)  # (T, B, D*H)

        final = torch.stack(last)
        if self.batch_first:
            x = x.transpose(0, 1)
        return (x, final) if batched else (x.squeeze(0 if self.batch_first else 1), final.squeeze(1))

    @property
    def _dtype(self) -> torch.dtype:
        return self.get_parameter("weight_ih_l0").dtype

    def _weights(self, suffix: str) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        bias_ih, bias_hh = (getattr(self, name + suffix, None) for name in ("bias_ih", "bias_hh"))
        return getattr(self, "weight_ih" + suffix), getattr(self, "weight_hh" + suffix), bias_ih, bias_hh

    def _read_shape(self, input: Tensor, hx: Tensor | None) -> tuple[bool, bool]:
        """Check ranks and dtypes; returns whether the input holds ids, and whether it has a batch axis."""
        if not isinstance(input, Tensor):
            raise TypeError(f"input must be a tensor, got {type(input).__name__}: pad packed sequences first")
        ids = not (input.is_floating_point() or input.is_complex())
        ranks = (1, 2) if ids else (2, 3)
        if input.dim() not in ranks:
            kind = "ids" if ids else "input"
            raise ValueError(f"GRU: Expected {kind} to be {ranks[0]}D or {ranks[1]}D, got {input.dim()}D instead")
        batched = input.dim() == ranks[1]
        if hx is not None and hx.dim() != (3 if batched else 2):
            kind = "batched" if batched else "unbatched"
            raise RuntimeError(
                f"For {kind} {input.dim()}-D input, hx should be {3 if batched else 2}-D but got {hx.dim()}-D tensor"
            )
        if ids:
            return True, batched
        dtype = self._dtype
        if input.dtype != dtype and not torch.is_autocast_enabled(input.device.type):
            raise ValueError(
                f"RNN input dtype ({input.dtype}) does not match weight dtype ({dtype}). "
                f"Convert input: input.to({dtype}), or convert model: model.to({input.dtype})"
            )
        if input.shape[-1] != self.input_size:
            raise RuntimeError(
                f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got {input.shape[-1]}"
            )
        return False, batched

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        for name, default in _DEFAULTS.items():
            value = getattr(self, name)
            if value != default or type(value) is not type(default):
                text += f", {name}={value!r}" if isinstance(value, str) else f", {name}={value}"
        return text


_DEFAULTS = {  # what repr leaves out
    "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False, "reset": "after",
    "backend": "auto",
}  # fmt: skip


def _suffixes(layer: int, D: int) -> list[str]:
    """The endings of the parameter names of a layer, one a direction."""
    return [f"_l{layer}", f"_l{layer}_reverse"][:D]
