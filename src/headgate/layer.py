"""The GRU as modules: signatures, names, initialization and state_dict of ``torch.nn.GRU`` and ``torch.nn.GRUCell``,
plus what these lack.

Letters: T time steps, B batch, I input size, H hidden size, L layers, D directions (1 or 2).
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from headgate.functional import gru


class Gates(NamedTuple):
    """What the gates were: each (L*D, T, B, H), (L*D, B, T, H) with batch_first, (L*D, T, H) unbatched."""

    r: Tensor
    z: Tensor
    n: Tensor


class GRU(nn.Module):
    """Several layers of gated recurrent units over a sequence; a drop-in for ``torch.nn.GRU``.

        r  = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
        z  = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
        n  = tanh(W_in x + b_in + r * (W_hn h + b_hn))        reset="after", as torch.nn.GRU
        n  = tanh(W_in x + b_in + W_hn (r * h) + b_hn)        reset="before", as Cho et al. (arXiv:1406.1078v3)
        h' = (1 - z) * n + z * h

    Arguments of ``torch.nn.GRU``: input_size, hidden_size, num_layers, bias, batch_first, dropout (between layers),
    bidirectional, device, dtype. Beyond it:

    reset          "after" or "before": two different functions; weights of one are not weights of the other
    bias           "single" is the textbook's one bias a gate: bias_hh is zero and no parameter
    learned_state  True: the state that a sequence starts from, where none is given, is a parameter of each layer and
                   direction, state_l0 (H,) and so on, zero at first
    backend        "auto", or one of headgate.functional.BACKENDS to force it

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
        learned_state: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        _check_sizes(input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        _check_variant(bias, reset)
        if not isinstance(batch_first, bool):
            raise TypeError(f"batch_first should be of type bool, got: {type(batch_first).__name__}")
        if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout <= 1:
            raise ValueError(f"dropout should be a number from 0 to 1, the probability of a zero, got {dropout!r}")
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
        self.learned_state = bool(learned_state)
        self.backend = backend

        D, H = (2 if bidirectional else 1), hidden_size
        for layer in range(num_layers):
            sizes = _sizes(D * H if layer else input_size, H, bias)
            if learned_state:
                sizes["state"] = (H,)
            for suffix in _suffixes(layer, D):
                for name, shape in sizes.items():
                    self.register_parameter(name + suffix, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every parameter from the uniform distribution on (-1/sqrt(H), 1/sqrt(H)), in torch.nn.GRU's order.

        Learned states become zero.
        """
        bound = 1 / math.sqrt(self.hidden_size)
        for name, parameter in self.named_parameters():
            if name.startswith("state"):
                nn.init.zeros_(parameter)
            else:
                nn.init.uniform_(parameter, -bound, bound)

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        resets: Tensor | None = None,
        return_gates: bool = False,
    ) -> tuple[Any, ...]:
        """input (T, B, I), or (B, T, I) with batch_first, (T, I) unbatched, or a PackedSequence; hx (L*D, B, H), or
        (L*D, H) unbatched -> the states of the last layer, laid out as the input (T, B, D*H), and the final states
        (L*D, B, H): layer 0 forward, layer 0 backward, layer 1 forward, ...

        An integer input without its last axis holds ids that stand for one-hot vectors of size I, which are never
        made. Without hx the state starts from zeros, or from the learned one. An input in half precision is converted
        to the weights' float32; weights in half precision are computed with in float32, and the result converted back.

        lengths       (B,) integers from 0 to T: a row is read up to its length. Outputs beyond it are zero, the final
                      state is that at its true end, and the backward direction starts there
        resets        (T, B) boolean, laid out as the input: a new sequence begins at this step, from zeros or the
                      learned state; the backward direction, which reads it from its end, does not look beyond it
        return_gates  True: a third value, Gates

        Raises what ``torch.nn.GRU`` raises: ValueError for a wrong rank or dtype, RuntimeError for wrong shapes.

        >>> gru = GRU(10, 20, bidirectional=True)
        >>> states, last = gru(torch.randn(5, 3, 10), lengths=[5, 0, 2])
        >>> bool((states[2:, 2] == 0).all()), torch.equal(last[0, 2], states[1, 2, :20])
        (True, True)
        """
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, hx, lengths, resets, return_gates)
        ids, batched = self._read_shape(input, hx)
        x = input if batched else input.unsqueeze(0 if self.batch_first else 1)
        if self.batch_first:
            x = x.transpose(0, 1)  # from here on (T, B, I) or ids (T, B)
        L, D, H, B = self.num_layers, 2 if self.bidirectional else 1, self.hidden_size, x.shape[1]
        if hx is not None:
            hx = hx if batched else hx.unsqueeze(1)
            if hx.shape != (L * D, B, H):
                axes = ("B, T" if self.batch_first else "T, B") + ("" if ids else ", I")
                hint = f" (input {tuple(input.shape)} read as ({axes}))" if batched else ""
                raise RuntimeError(f"Expected hidden size {(L * D, B, H)}, got {list(hx.shape)}{hint}")
            hx = hx.to(self._dtype) if _converts(hx, self._dtype) else hx
        if lengths is not None:
            lengths = torch.as_tensor(lengths, device=x.device)
            lengths = lengths.long() if not lengths.numel() else lengths  # an empty list has no dtype of its own
            lengths = lengths if batched else lengths.reshape(-1)
        if resets is not None:
            shape = tuple(input.shape[:2]) if batched else (len(input),)
            if resets.shape != shape or resets.dtype != torch.bool:
                found = f"{tuple(resets.shape)} {resets.dtype}"
                raise RuntimeError(f"resets must be {shape} torch.bool, laid out as the input, got {found}")
            resets = resets if batched else resets.unsqueeze(0 if self.batch_first else 1)
            resets = resets.transpose(0, 1) if self.batch_first else resets
        if not ids:
            x = x.to(self._dtype)

        last, gates = [], []
        for layer in range(L):
            if layer and self.dropout:
                x = nn.functional.dropout(x, self.dropout, self.training)
            both = []
            for direction, suffix in enumerate(_suffixes(layer, D)):
                start = getattr(self, "state" + suffix, None)
                if hx is not None:
                    h0 = hx[layer * D + direction]
                elif start is not None:
                    h0 = start.expand(B, H)
                else:
                    h0 = torch.zeros(B, H, dtype=self._dtype, device=x.device)
                states, h, *rzn = gru(
                    x, h0, *_weights(self, suffix), reset=self.reset, reverse=direction == 1, lengths=lengths,
                    resets=resets, reset_state=start, return_gates=return_gates, backend=self.backend,
                )  # fmt: skip
                both.append(states)
                last.append(h)
                gates += rzn
            x = both[0] if D == 1 else torch.cat(both, -1)  # (T, B, D*H)

        outputs: tuple[Any, ...] = (x.transpose(0, 1) if self.batch_first else x, torch.stack(last))
        if return_gates:
            all_gates = torch.stack(gates)  # (L*D, T, B, 3H)
            outputs += (Gates(*(all_gates.transpose(1, 2) if self.batch_first else all_gates).split(H, -1)),)
        return outputs if batched else self._without_batch(*outputs)

    def _forward_packed(
        self, packed: PackedSequence, hx: Tensor | None, lengths: Any, resets: Any, return_gates: bool
    ) -> tuple[Any, ...]:
        """A PackedSequence is read as its padded rows with their lengths; states come back packed, gates padded."""
        if lengths is not None or resets is not None:
            raise ValueError("a PackedSequence has lengths of its own and no resets: pass the padded input instead")
        x, lengths = pad_packed_sequence(packed, self.batch_first)  # rows in the order of the caller
        states, *rest = self.forward(x, hx, lengths=lengths, return_gates=return_gates)
        repacked = pack_padded_sequence(states, lengths, self.batch_first, enforce_sorted=False)
        order = packed.sorted_indices, packed.unsorted_indices
        if order[0] is None:
            return PackedSequence(repacked.data, packed.batch_sizes), *rest
        return PackedSequence(repacked.data, packed.batch_sizes, *order), *rest

    def _without_batch(self, states: Tensor, last: Tensor, gates: Gates | None = None) -> tuple[Any, ...]:
        batch = 0 if self.batch_first else 1
        outputs = states.squeeze(batch), last.squeeze(1)
        return outputs if gates is None else (*outputs, Gates(*(v.squeeze(batch + 1) for v in gates)))

    @property
    def _dtype(self) -> torch.dtype:
        dtype: torch.dtype = _weights(self, "_l0")[0].dtype  # functional_call and parametrizations put in plain tensors
        return dtype

    @property
    def all_weights(self) -> list[list[nn.Parameter]]:
        """The weights and biases of each layer and direction, as ``torch.nn.GRU`` lists them."""
        D = 2 if self.bidirectional else 1
        return [
            [w for w in _weights(self, suffix) if w is not None]
            for layer in range(self.num_layers)
            for suffix in _suffixes(layer, D)
        ]

    def flatten_parameters(self) -> None:
        """For programs written for ``torch.nn.GRU``; there is nothing to flatten."""

    def _read_shape(self, input: Tensor, hx: Tensor | None) -> tuple[bool, bool]:
        """Check ranks and dtypes; returns whether the input holds ids, and whether it has a batch axis."""
        if not isinstance(input, Tensor):
            raise TypeError(f"input must be a tensor or a PackedSequence, got {type(input).__name__}")
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
        if not ids:
            _check_dtype(input, self._dtype)
            if input.shape[-1] != self.input_size:
                raise RuntimeError(
                    f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got {input.shape[-1]}"
                )
        return ids, batched

    def extra_repr(self) -> str:
        return _repr(self, num_layers=1, bias=True, batch_first=False, dropout=0.0, bidirectional=False, reset="after",
                     learned_state=False, backend="auto")  # fmt: skip


class GRUCell(nn.Module):
    """One step of a gated recurrent unit; a drop-in for ``torch.nn.GRUCell``. For the equations see :class:`GRU`.

    input (B, I), or (I,) unbatched, or ids (B,) that stand for one-hot vectors; hx (B, H) or (H,), zeros where it is
    None -> the new state, (B, H) or (H,). ``bias="single"``, ``reset`` and ``backend`` as for GRU. Packs the weights in
    every call: for many steps with the same weights, a GRU over the sequence or a Runtime is faster.

    Raises what ``torch.nn.GRUCell`` raises: ValueError for a wrong rank, RuntimeError for shapes that do not fit.

    >>> cell = GRUCell(10, 20)
    >>> cell(torch.randn(3, 10)).shape
    torch.Size([3, 20])
    """

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
        super().__init__()
        bias = bias if bias == "single" else bool(bias)  # torch.nn.GRUCell goes by its truth, too
        _check_sizes(input_size=input_size, hidden_size=hidden_size)
        _check_variant(bias, reset)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        self.reset = reset
        self.backend = backend
        for name, shape in _sizes(input_size, hidden_size, bias).items():
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
        ids = not (input.is_floating_point() or input.is_complex())
        ranks = (0, 1) if ids else (1, 2)
        if input.dim() not in ranks:
            kind = "ids" if ids else "input"
            raise ValueError(f"GRUCell: Expected {kind} to be {ranks[0]}D or {ranks[1]}D, got {input.dim()}D instead")
        if hx is not None and hx.dim() not in (1, 2):
            raise ValueError(f"GRUCell: Expected hidden to be 1D or 2D, got {hx.dim()}D instead")
        dtype, H = _weights(self, "")[0].dtype, self.hidden_size
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
            _check_dtype(input, dtype, RuntimeError)
            x = x.to(dtype)
        h0 = h0.to(dtype) if _converts(h0, dtype) else h0
        _, h = gru(x.unsqueeze(0), h0, *_weights(self, ""), reset=self.reset, backend=self.backend)
        return h if batched else h.squeeze(0)

    def extra_repr(self) -> str:
        return _repr(self, bias=True, reset="after", backend="auto")


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if not isinstance(size, int):
            raise TypeError(f"{name} should be of type int, got: {type(size).__name__}")
        if size <= 0:
            raise ValueError(f"{name} must be greater than zero, got {size}")


def _check_variant(bias: bool | str, reset: str) -> None:
    if not isinstance(bias, bool) and bias != "single":
        raise TypeError(f'bias should be of type bool, got: {type(bias).__name__} {bias!r} (or it is "single")')
    if reset not in ("after", "before"):
        raise ValueError(f'reset must be "after" or "before", got {reset!r}')


def _converts(given: Tensor, dtype: torch.dtype) -> bool:
    """Whether it is converted to the weights' dtype without asking: half precision to float32, and under autocast."""
    half = given.dtype in (torch.bfloat16, torch.float16) and dtype == torch.float32
    return half or torch.is_autocast_enabled(given.device.type)


def _check_dtype(input: Tensor, dtype: torch.dtype, error: type[Exception] = ValueError) -> None:
    """Raise unless the input has the weights' dtype, or can be converted to it without asking."""
    if input.dtype != dtype and not _converts(input, dtype):
        raise error(
            f"RNN input dtype ({input.dtype}) does not match weight dtype ({dtype}). "
            f"Convert input: input.to({dtype}), or convert model: model.to({input.dtype})"
        )


def _sizes(I: int, H: int, bias: bool | str) -> dict[str, tuple[int, ...]]:  # noqa: E741 - the letter of the equations
    """The parameters of one layer and direction."""
    sizes: dict[str, tuple[int, ...]] = {"weight_ih": (3 * H, I), "weight_hh": (3 * H, H)}
    if bias:
        sizes["bias_ih"] = (3 * H,)
    if bias is True:
        sizes["bias_hh"] = (3 * H,)
    return sizes


def _suffixes(layer: int, D: int) -> list[str]:
    """The endings of the parameter names of a layer, one a direction."""
    return [f"_l{layer}", f"_l{layer}_reverse"][:D]


def _weights(module: nn.Module, suffix: str) -> list[Any]:
    return [getattr(module, name + suffix, None) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]


def _repr(module: nn.Module, **defaults: Any) -> str:
    """Sizes, and what differs from the defaults."""
    text = f"{module.input_size}, {module.hidden_size}"
    for name, default in defaults.items():
        value = getattr(module, name)
        if value != default or type(value) is not type(default):
            text += f", {name}={value!r}" if isinstance(value, str) else f", {name}={value}"
    return text
