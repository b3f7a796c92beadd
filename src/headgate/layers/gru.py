"""The GRU as a module: signature, names, initialization and state_dict of ``torch.nn.GRU``, with extensions.

Letters: T time steps, B batch, I input size, H hidden size, L layers, D directions (1 or 2).
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from headgate.kernels import watch
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
    suffixes,
    weights,
)


class Gates(NamedTuple):
    """The gates of every step, each (L*D, T, B, H), (L*D, B, T, H) with batch_first, or (L*D, T, H) unbatched."""

    r: Tensor
    z: Tensor
    n: Tensor


class _FlatWeights(list[Any]):
    """A module's _flat_weights: assigning an item also assigns the module's weight."""

    def __init__(self, module: "GRU", weights: list[Any]) -> None:
        super().__init__(weights)
        self._module = module

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(index, value)
        self._module._flat_weights = self


class GRU(nn.RNNBase):
    """A multi-layer gated recurrent unit over a sequence; a drop-in replacement for ``torch.nn.GRU``.

        r  = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
        z  = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
        n  = tanh(W_in x + b_in + r * (W_hn h + b_hn))        reset="after", as in torch.nn.GRU
        n  = tanh(W_in x + b_in + W_hn (r * h) + b_hn)        reset="before", as in Cho et al. [1]_
        h' = (1 - z) * n + z * h

    Parameters
    ----------
    input_size, hidden_size, num_layers : int
        I, H and L.
    bias : bool or "single"
        As in ``torch.nn.GRU``. "single": one bias per gate, as in textbooks; there is no bias_hh.
    batch_first : bool
        Input and output are (B, T, ...) instead of (T, B, ...).
    dropout : float
        The probability of a zero in the outputs of every layer but the last, in training.
    bidirectional : bool
        Add a backward direction to each layer.
    device, dtype : optional
        Device and dtype of the parameters.
    reset : {"after", "before"}
        Two different functions: the weights of one do not work for the other.
    learned_state : bool
        The default initial state is a parameter of each layer and direction, state_l0 (H,) and so on, initialized to
        zero.
    batch_invariant : bool
        True: on a CPU, a row is computed to the same bits alone and in any batch. False: not necessarily in training,
        so that large batches can use matrix tiles (AMX); see :func:`headgate.layers.functional.gru`.
    backend : {"auto", "native", "torch", "equations"}
        The implementation, see :func:`headgate.layers.functional.gru`.
    proj_size : int
        Must be 0, as in ``torch.nn.GRU``.

    Raises
    ------
    TypeError, ValueError
        For arguments of a wrong type or value.

    Notes
    -----
    A subclass of ``nn.RNNBase``, so that code that checks for one accepts it; not of ``nn.GRU``, which torch.compile
    refuses.

    References
    ----------
    .. [1] Cho et al. 2014, arXiv:1406.1078, version 3.

    Examples
    --------
    >>> gru = GRU(10, 20)
    >>> states, last = gru(torch.randn(5, 3, 10))
    >>> states.shape, last.shape
    (torch.Size([5, 3, 20]), torch.Size([1, 3, 20]))
    >>> ids = torch.tensor([[3], [7]])  # T = 2, B = 1: the one-hot vectors e_3 and e_7
    >>> torch.allclose(gru(ids)[0], gru(nn.functional.one_hot(ids, 10).float())[0], atol=1e-6)
    True
    """

    bias: bool | str  # type: ignore[assignment]
    mode = "GRU"
    proj_size = 0
    _given: dict[str, tuple[Any, Tensor]] | None = None

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
        batch_invariant: bool = True,
        backend: str = "auto",
        proj_size: int = 0,
    ) -> None:
        super(nn.RNNBase, self).__init__()  # RNNBase.__init__ supports neither bias="single" nor learned states
        if proj_size != 0:
            raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
        input_size, hidden_size, num_layers = check_sizes(
            input_size=input_size, hidden_size=hidden_size, num_layers=num_layers
        )
        check_variant(bias, reset)
        if not isinstance(batch_first, bool):
            raise TypeError(f"batch_first should be of type bool, got: {type(batch_first).__name__}")
        if isinstance(dropout, bool) or not isinstance(dropout, int | float | np.number) or not 0 <= dropout <= 1:  # type: ignore[redundant-expr]
            raise ValueError(f"dropout should be a number from 0 to 1, the probability of a zero, got {dropout!r}")
        if dropout > 0 and num_layers == 1:
            warnings.warn(
                f"dropout acts between layers: dropout={dropout} has no effect with num_layers=1", stacklevel=2
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
        self.batch_invariant = bool(batch_invariant)
        self.backend = backend

        D, H = (2 if bidirectional else 1), hidden_size
        for layer in range(num_layers):
            sizes = sizes_of(D * H if layer else input_size, H, bias)
            if learned_state:
                sizes["state"] = (H,)
            for suffix in suffixes(layer, D):
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
        """Compute all layers over a batch of sequences.

        Parameters
        ----------
        input : Tensor (T, B, I) or PackedSequence
            Or (B, T, I) with batch_first, or (T, I) unbatched. An integer tensor without the last axis holds ids that
            stand for one-hot vectors of size I, which are never made. Half precision is converted to the weights'
            float32.
        hx : Tensor (L*D, B, H), optional
            The initial states, (L*D, H) unbatched; by default the learned state, or zeros.
        lengths : integers (B,), optional
            From 0 to T: each row is read up to its length. Outputs beyond it are zero, the final state is the one at
            the row's true end, and the backward direction starts there.
        resets : Tensor (T, B), optional
            Boolean, laid out like the input: a new sequence begins at this step, from the learned state or zeros. The
            backward direction reads each sequence from its own end.
        return_gates : bool
            Also return the gates.

        Returns
        -------
        states : Tensor (T, B, D*H) or PackedSequence
            The states of the last layer, laid out like the input.
        last : Tensor (L*D, B, H)
            The final states: layer 0 forward, layer 0 backward, layer 1 forward, ...
        gates : Gates
            Only with ``return_gates``.

        Raises
        ------
        ValueError, RuntimeError
            As ``torch.nn.GRU``: ValueError for a wrong rank or dtype, RuntimeError for wrong shapes.

        Notes
        -----
        Weights in half precision are computed with in float32, and the result is converted back.

        Examples
        --------
        >>> gru = GRU(10, 20, bidirectional=True)
        >>> states, last = gru(torch.randn(5, 3, 10), lengths=[5, 0, 2])
        >>> bool((states[2:, 2] == 0).all()), torch.equal(last[0, 2], states[1, 2, :20])
        (True, True)
        """
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, hx, lengths, resets, return_gates)
        if not isinstance(input, Tensor) and isinstance(input, fx.Proxy):
            options = {"lengths": lengths, "resets": resets, "return_gates": return_gates}
            return leaf(self, input, hx, **{k: v for k, v in options.items() if v is not None and v is not False})
        return self._compute(input, hx, lengths, resets, return_gates)

    def _compute(
        self,
        input: Tensor,
        hx: Tensor | None,
        lengths: Any,
        resets: Tensor | None,
        return_gates: bool,
        packed: PackedSequence | None = None,
    ) -> tuple[Any, ...]:
        """Compute all layers over padded input, which with ``packed`` is its content."""
        dtype = self._dtype
        ids, batched = self._read_shape(input, hx, dtype)
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
            hx = hx.to(dtype) if converts(hx, dtype) else hx
        if lengths is not None:
            lengths = torch.as_tensor(lengths, device=x.device)
            lengths = lengths.long() if not lengths.numel() else lengths  # an empty list has no dtype of its own
            lengths = lengths if batched else lengths.reshape(-1)
        if resets is not None:
            shape = tuple(input.shape[:2]) if batched else (len(input),)
            if resets.shape != shape or resets.dtype != torch.bool:
                received = f"{tuple(resets.shape)} {resets.dtype}"
                raise RuntimeError(f"resets must be {shape} torch.bool, laid out like the input, got {received}")
            resets = resets if batched else resets.unsqueeze(0 if self.batch_first else 1)
            resets = resets.transpose(0, 1) if self.batch_first else resets
        if not ids:
            x = x.to(dtype)

        last, gates = [], []
        for layer in range(L):
            if layer and self.dropout:
                x = self._dropped(x, packed)
            both = []
            for direction, suffix in enumerate(suffixes(layer, D)):
                start = getattr(self, "state" + suffix, None)
                if hx is not None:
                    h0 = hx[layer * D + direction] if L * D > 1 else hx.squeeze(0)  # squeeze: its gradient is a view
                elif start is not None:
                    h0 = start.expand(B, H)
                else:
                    h0 = torch.zeros(B, H, dtype=dtype, device=x.device)
                states, h, *rzn = gru(
                    x,
                    h0,
                    *self._weights(suffix),
                    reset=self.reset,
                    reverse=direction == 1,
                    lengths=lengths,
                    resets=resets,
                    reset_state=start,
                    return_gates=return_gates,
                    batch_invariant=self.batch_invariant or not self.training,
                    backend=self.backend,
                )
                both.append(states)
                last.append(h)
                gates += rzn
            x = both[0] if D == 1 else torch.cat(both, -1)  # (T, B, D*H)
        if D == 1 and x.requires_grad and watch.unwatched((x,)):
            x = x.clone()  # backward needs the states, and callers may change the outputs in place as torch.nn.GRU's

        outputs: tuple[Any, ...] = (
            x.transpose(0, 1) if self.batch_first else x,
            torch.stack(last) if L * D > 1 else last[0].unsqueeze(0),
        )
        if return_gates:
            all_gates = torch.stack(gates)  # (L*D, T, B, 3H)
            outputs += (Gates(*(all_gates.transpose(1, 2) if self.batch_first else all_gates).split(H, -1)),)
        return outputs if batched else self._without_batch(*outputs)

    def _forward_packed(
        self, packed: PackedSequence, hx: Tensor | None, lengths: Any, resets: Any, return_gates: bool
    ) -> tuple[Any, ...]:
        """Compute a PackedSequence as padded rows with lengths; return the states packed and the gates padded."""
        if lengths is not None or resets is not None:
            raise ValueError(
                "a PackedSequence has lengths of its own and no resets: pass the padded input to set either"
            )
        x, lengths = pad_packed_sequence(packed, self.batch_first)  # rows in the order of the caller
        states, *rest = self._compute(x, hx, lengths, None, return_gates, packed)
        return _packed_like(packed, states, self.batch_first), *rest

    def _dropped(self, x: Tensor, packed: PackedSequence | None) -> Tensor:
        """Apply dropout to the states (T, B, D*H) between two layers; a mask covers packed steps as in torch.nn.GRU."""
        if packed is None or not self.training:
            return nn.functional.dropout(x, self.dropout, self.training)
        repacked = _packed_like(packed, x, batch_first=False)
        dropped = nn.functional.dropout(repacked.data, self.dropout)
        return pad_packed_sequence(repacked._replace(data=dropped))[0]

    def _without_batch(self, states: Tensor, last: Tensor, gates: Gates | None = None) -> tuple[Any, ...]:
        batch = 0 if self.batch_first else 1
        outputs = states.squeeze(batch), last.squeeze(1)
        return outputs if gates is None else (*outputs, Gates(*(v.squeeze(batch + 1) for v in gates)))

    @property
    def _dtype(self) -> torch.dtype:
        dtype: torch.dtype = weights(self, "_l0")[0].dtype  # a plain tensor under functional_call and parametrizations
        return dtype

    def _weights(self, suffix: str) -> list[Any]:
        """Return weight_ih, weight_hh, bias_ih, bias_hh of a layer and direction, with any replacements."""
        own = weights(self, suffix)
        if self._given is None:
            return own
        return [self._instead_of(name + suffix, weight) for name, weight in zip(NAMES, own, strict=True)]

    def _instead_of(self, name: str, weight: Any) -> Any:
        """Return the tensor assigned through _flat_weights while ``weight`` is still the module's, else ``weight``."""
        then, tensor = (self._given or {}).get(name, (None, None))
        return tensor if tensor is not None and then is weight else weight

    # torch.nn.GRU keeps these lists in addition to its parameters; here they derive from them and cannot be stale.

    @property
    def _all_weights(self) -> list[list[str]]:
        """The names of the weights and biases of each layer and direction; learned states are not included."""
        names = sizes_of(1, 1, self.bias)
        D = 2 if self.bidirectional else 1
        return [[n + suffix for n in names] for layer in range(self.num_layers) for suffix in suffixes(layer, D)]

    @_all_weights.setter
    def _all_weights(self, names: list[list[str]]) -> None:
        if names != self._all_weights:
            raise ValueError(f"_all_weights follows from the arguments of GRU: {self._all_weights}, got {names}")

    @property
    def _flat_weights_names(self) -> list[str]:
        return [name for names in self._all_weights for name in names]

    @_flat_weights_names.setter
    def _flat_weights_names(self, names: list[str]) -> None:
        if names != self._flat_weights_names:
            raise ValueError(
                f"_flat_weights_names follows from the arguments of GRU: {self._flat_weights_names}, got {names}"
            )

    @property
    def _flat_weights(self) -> list[Any]:
        """The tensors used in computation, in the order of the names: parameters, or their replacements."""
        return _FlatWeights(self, [self._instead_of(n, getattr(self, n, None)) for n in self._flat_weights_names])

    @_flat_weights.setter
    def _flat_weights(self, tensors: Sequence[Any]) -> None:
        # A parameter becomes the module's. Any other tensor replaces a weight only in computation, until that weight is
        # reassigned or the module is moved or converted, and does not enter the state_dict.
        names = self._flat_weights_names
        if len(tensors) != len(names):
            raise ValueError(f"_flat_weights must be {len(names)} tensors ({', '.join(names)}), got {len(tensors)}")
        replacements = {}
        for name, tensor in zip(names, tensors, strict=True):
            weight = getattr(self, name, None)
            if isinstance(tensor, nn.Parameter) and tensor is not weight:
                setattr(self, name, tensor)
            elif tensor is not None and tensor is not weight:
                replacements[name] = weight, tensor
        self._given = replacements or None

    @property
    def all_weights(self) -> list[list[nn.Parameter]]:
        """The weights and biases of each layer and direction, as ``torch.nn.GRU`` lists them."""
        return [[getattr(self, name) for name in names] for names in self._all_weights]

    def flatten_parameters(self) -> None:
        """Do nothing; for programs written for ``torch.nn.GRU``."""

    # RNNBase uses these to keep its lists up to date, which is not needed here.

    __setattr__ = nn.Module.__setattr__  # type: ignore[assignment]
    __setstate__ = nn.Module.__setstate__
    _replicate_for_data_parallel = nn.Module._replicate_for_data_parallel

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__.copy()

    def _init_flat_weights(self) -> None:
        self._given = None

    def _update_flat_weights(self) -> None:
        pass

    def _weights_have_changed(self) -> bool:
        return False

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._given = None
        return nn.Module._apply(self, fn, recurse)

    def check_input(self, input: Tensor, batch_sizes: Tensor | None) -> None:
        """Raise RuntimeError unless the input is a batch, or with ``batch_sizes`` the data of a PackedSequence.

        As in ``torch.nn.GRU``; ids have one axis fewer.
        """
        ids = not (input.is_floating_point() or input.is_complex())
        axes = (3 if batch_sizes is None else 2) - ids
        if input.dim() != axes:
            raise RuntimeError(f"input must have {axes} dimensions, got {input.dim()}")
        if not ids:
            self._check_features(input, self._dtype)

    def _check_features(self, input: Tensor, dtype: torch.dtype) -> None:
        check_dtype(input, dtype)
        if input.shape[-1] != self.input_size:
            raise RuntimeError(
                f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got {input.shape[-1]}"
            )

    def __prepare_scriptable__(self) -> nn.GRU:
        """Return the torch.nn.GRU, with the same parameters, that torch.jit.script compiles instead."""
        if self.reset != "after" or self.bias == "single" or self.learned_state:
            raise RuntimeError(
                'torch.jit.script compiles a GRU as torch.nn.GRU, which has no reset="before", bias="single" or '
                "learned_state=True: use torch.jit.trace, torch.compile or torch.export"
            )
        plain = nn.GRU(
            self.input_size,
            self.hidden_size,
            self.num_layers,
            bool(self.bias),
            self.batch_first,
            self.dropout,
            self.bidirectional,
            device="meta",
        )
        for name in self._flat_weights_names:
            setattr(plain, name, getattr(self, name))
        return plain.train(self.training)

    def _read_shape(self, input: Tensor, hx: Tensor | None, dtype: torch.dtype) -> tuple[bool, bool]:
        """Check ranks and dtypes; return two flags: the input holds ids, the input has a batch axis."""
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
            self._check_features(input, dtype)
        return ids, batched

    def extra_repr(self) -> str:
        return represent(
            self,
            num_layers=1,
            bias=True,
            batch_first=False,
            dropout=0.0,
            bidirectional=False,
            reset="after",
            learned_state=False,
            batch_invariant=True,
            backend="auto",
        )


def _packed_like(packed: PackedSequence, padded: Tensor, batch_first: bool) -> PackedSequence:
    """Pack rows that are in the order of the caller, with the lengths and the order of ``packed``."""
    lengths = (packed.batch_sizes[:, None] > torch.arange(int(packed.batch_sizes[0]))).sum(0)  # of the sorted rows
    order = packed.sorted_indices
    rows = padded if order is None else padded.index_select(0 if batch_first else 1, order)
    return packed._replace(data=pack_padded_sequence(rows, lengths, batch_first).data)
