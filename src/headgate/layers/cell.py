"""One step of the GRU as a module: signature, names, initialization and state_dict of ``torch.nn.GRUCell``.

Letters: B batch, I input size, H hidden size.
"""

import math
from typing import Any

import torch
from torch import Tensor, fx, nn

from headgate.layers.functional import gru
from headgate.layers.parameters import (
    NAMES,
    check_dtype,
    check_sizes,
    check_variant,
    converts,
    leaf,
    represent,
    sizes_of,
    weights,
)


class GRUCell(nn.RNNCellBase):
    """One step of a gated recurrent unit; a drop-in replacement for ``torch.nn.GRUCell``.

    The equations are those of :class:`GRU`. Called as ``cell(input, hx=None)``; every call packs the weights, so for
    many steps with the same weights a GRU over the sequence or a Runtime is faster.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    bias : bool or "single"
        As for :class:`GRU`.
    device, dtype : optional
        Device and dtype of the parameters.
    reset : {"after", "before"}
        As for :class:`GRU`: two different functions.
    backend : str
        As for :class:`GRU`.

    Raises
    ------
    TypeError, ValueError
        For arguments of a wrong type or value.

    Examples
    --------
    >>> cell = GRUCell(10, 20)
    >>> cell(torch.randn(3, 10)).shape
    torch.Size([3, 20])
    """

    bias: bool | str  # type: ignore[assignment]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool | str = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        reset: str = "after",
        backend: str = "auto",
    ) -> None:
        super(nn.RNNCellBase, self).__init__()  # RNNCellBase.__init__ does not support bias="single"
        bias = bias if bias == "single" else bool(bias)  # as in torch.nn.GRUCell, any truthy value is True
        input_size, hidden_size = check_sizes(input_size=input_size, hidden_size=hidden_size)
        check_variant(bias, reset)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        self.reset = reset
        self.backend = backend
        for name, shape in sizes_of(input_size, hidden_size, bias).items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        for name in ("bias_ih", "bias_hh"):
            if not hasattr(self, name):
                self.register_parameter(name, None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every parameter from the uniform distribution on (-1/sqrt(H), 1/sqrt(H))."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Compute one step.

        Parameters
        ----------
        input : Tensor (B, I) or (I,)
            Floating; or integer ids (B,) or () that stand for one-hot vectors of size I.
        hx : Tensor (B, H) or (H,), optional
            The state before the step; zeros by default.

        Returns
        -------
        Tensor (B, H) or (H,)
            The new state.

        Raises
        ------
        ValueError, RuntimeError
            As ``torch.nn.GRUCell``: ValueError for a wrong rank, RuntimeError for wrong shapes.
        """
        if not isinstance(input, Tensor) and isinstance(input, fx.Proxy):
            recorded: Tensor = leaf(self, input, hx)
            return recorded
        ids = not (input.is_floating_point() or input.is_complex())
        ranks = (0, 1) if ids else (1, 2)
        if input.dim() not in ranks:
            kind = "ids" if ids else "input"
            raise ValueError(f"GRUCell: Expected {kind} to be {ranks[0]}D or {ranks[1]}D, got {input.dim()}D instead")
        if hx is not None and hx.dim() not in (1, 2):
            raise ValueError(f"GRUCell: Expected hidden to be 1D or 2D, got {hx.dim()}D instead")
        dtype, H = weights(self, "")[0].dtype, self.hidden_size
        if not ids and input.shape[-1] != self.input_size:
            raise RuntimeError(f"input has inconsistent input_size: got {input.shape[-1]} expected {self.input_size}")
        batched = input.dim() == ranks[1]
        if hx is not None and hx.dim() != 1 + batched:
            kind, rank = ("batched", 2) if batched else ("unbatched", 1)
            raise RuntimeError(f"For {kind} {input.dim()}-D input, hx should be {rank}-D but got {hx.dim()}-D tensor")
        x = input if batched else input.unsqueeze(0)
        h0 = torch.zeros(len(x), H, dtype=dtype, device=input.device) if hx is None else hx
        h0 = h0 if batched or hx is None else h0.unsqueeze(0)
        if len(h0) != len(x):
            raise RuntimeError(f"Input batch size {len(x)} doesn't match hidden0 batch size {len(h0)}")
        if h0.shape[1] != H:
            raise RuntimeError(f"hidden0 has inconsistent hidden_size: got {h0.shape[1]}, expected {H}")
        if not ids:
            check_dtype(input, dtype, RuntimeError)
            x = x.to(dtype)
        h0 = h0.to(dtype) if converts(h0, dtype) else h0
        _, h = gru(x.unsqueeze(0), h0, *weights(self, ""), reset=self.reset, backend=self.backend)
        return h if batched else h.squeeze(0)

    def __prepare_scriptable__(self) -> nn.GRUCell:
        """Return the torch.nn.GRUCell, with the same parameters, that torch.jit.script compiles instead."""
        if self.reset != "after" or self.bias == "single":
            raise RuntimeError(
                'torch.jit.script compiles a GRUCell as torch.nn.GRUCell, which has no reset="before" or '
                'bias="single": use torch.jit.trace, torch.compile or torch.export instead'
            )
        plain = nn.GRUCell(self.input_size, self.hidden_size, bool(self.bias), device="meta")
        for name in NAMES:
            setattr(plain, name, getattr(self, name))
        return plain.train(self.training)

    def extra_repr(self) -> str:
        return represent(self, bias=True, reset="after", backend="auto")
