"""A sequence model: sequence -> GRU -> summary of its states -> dropout -> linear.

Letters: T time steps, B batch, I input size, H hidden size, D directions (1 or 2), O output size.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from headgate.layers.gru import GRU

POOLS = ("last", "mean", "max")


class SequenceModel(nn.Module):
    """A model that maps a sequence to O numbers: a GRU, a summary of its states, and a linear layer.

    Parameters
    ----------
    input_size, hidden_size, output_size : int
        I, H and O.
    num_layers : int
        Layers of the GRU.
    batch_first : bool
        The input is (B, T, I) instead of (T, B, I).
    bidirectional : bool
        Add a backward direction to each layer.
    pool : {"last", "mean", "max"}
        The summary, over the valid steps only: the final state of each direction (forward at the sequence's true end,
        backward at its first step), or the mean or maximum of all states.
    dropout : float
        Acts between layers and on the summary.
    reset, bias, backend, device, dtype
        As for :class:`headgate.GRU`.

    Notes
    -----
    In evaluation mode, with the native library on a CPU, the output for a sequence has the same bits alone, padded, and
    at any position of any batch.

    Examples
    --------
    >>> model = SequenceModel(10, 20, 1)
    >>> model(torch.randn(3, 7, 10), lengths=[7, 1, 4]).shape  # (B, T, I) -> (B, O)
    torch.Size([3, 1])
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        num_layers: int = 1,
        *,
        batch_first: bool = True,
        bidirectional: bool = False,
        pool: str = "last",
        dropout: float = 0.0,
        reset: str = "after",
        bias: bool | str = True,
        backend: str = "auto",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if pool not in POOLS:
            raise ValueError(f"pool must be one of {', '.join(POOLS)}, got {pool!r}")
        self.pool = pool
        self.gru = GRU(
            input_size,
            hidden_size,
            num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout if num_layers > 1 else 0.0,
            bidirectional=bidirectional,
            reset=reset,
            batch_invariant=False,
            backend=backend,
            device=device,
            dtype=dtype,
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden_size * (2 if bidirectional else 1), output_size, device=device, dtype=dtype)

    def forward(self, x: Tensor | PackedSequence, lengths: Any = None) -> Tensor:
        """Compute the output for each sequence.

        Parameters
        ----------
        x : Tensor (B, T, I) or PackedSequence
            Or (T, B, I) with batch_first=False, or (T, I) unbatched; or integer ids without the last axis.
        lengths : integers (B,), optional
            From 0 to T; all T by default. The summary of a sequence of length 0 is zero.

        Returns
        -------
        Tensor (B, O)
            Or (O,) unbatched.

        Raises
        ------
        ValueError, RuntimeError
            As :class:`headgate.GRU`, and ValueError for a PackedSequence with ``lengths``.
        """
        if isinstance(x, PackedSequence):
            if lengths is not None:
                raise ValueError("a PackedSequence has lengths of its own: omit lengths")
            x, lengths = pad_packed_sequence(x, self.gru.batch_first)
        if x.dim() == (2 if x.is_floating_point() else 1):
            axis = 0 if self.gru.batch_first else 1
            row: Tensor = self(x.unsqueeze(axis), None if lengths is None else torch.as_tensor(lengths).reshape(1))
            return row.squeeze(0)
        states, last = self.gru(x, lengths=lengths)
        summary = self.dropout(self._summary(states, last, lengths))  # (B, D*H)
        linear = nn.functional.linear if self.training else _linear_by_row
        return linear(summary, self.head.weight, self.head.bias)

    def _summary(self, states: Tensor, last: Tensor, lengths: Any) -> Tensor:
        D = 2 if self.gru.bidirectional else 1
        if self.pool == "last":
            return last[-D:].transpose(0, 1).flatten(1)
        time = 1 if self.gru.batch_first else 0
        T = states.shape[time]
        if lengths is None:
            lengths = torch.full((states.shape[1 - time],), T)
        ends: Tensor = torch.as_tensor(lengths, device=states.device).unsqueeze(1)  # (B, 1)
        if self.pool == "mean":  # padding states are zero: summed in order, they leave every bit unchanged
            total = states.cumsum(time).select(time, -1) if T else states.sum(time)
            return total / ends.clamp(min=1)
        steps = torch.arange(T, device=states.device)
        beyond = steps >= ends if self.gru.batch_first else (steps >= ends).t()
        highest = states.masked_fill(beyond.unsqueeze(-1), -torch.inf).amax(time) if T else states.sum(time)
        return torch.where(ends > 0, highest, 0.0)


def _linear_by_row(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute ``nn.functional.linear`` to the same bits for a row alone or in a batch.

    A BLAS picks the order of its sums by the shape; a sum over the last axis does not.
    """
    return torch.stack([(x * row).sum(-1) for row in weight], -1) + bias


def spread_memory(gru: GRU, steps: int) -> None:
    """Initialize half of each layer's units to remember for different times, up to ``steps`` (chrono initialization).

    With z the share of the old state that is kept, a unit remembers for about 1 / (1 - z) steps. The bias of its update
    gate becomes log(u), u uniform between 1 and steps - 1 (Tallec and Ollivier 2018). The other half keeps its usual
    short memory, so that the model still learns from the last steps as well as before. Draws from torch's generator.
    """
    H = gru.hidden_size
    if gru.bias is not True:
        raise ValueError(f"gru must have bias=True, got bias={gru.bias!r}")
    with torch.no_grad():
        for name, bias in gru.named_parameters():
            if name.startswith("bias_ih"):
                bias[H : H + H // 2] = torch.empty(H // 2).uniform_(1, steps - 1).log().to(bias)
            elif name.startswith("bias_hh"):
                bias[H : H + H // 2] = 0
