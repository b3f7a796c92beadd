"""The definition of the GRU, in plain tensor operations.

    r  = sigmoid(W_ir x + b_ir + W_hr h + b_hr)              reset gate
    z  = sigmoid(W_iz x + b_iz + W_hz h + b_hz)              update gate: z = 1 keeps the old state
    n  = tanh(W_in x + b_in + r * (W_hn h + b_hn))           candidate, reset="after"
    n  = tanh(W_in x + b_in + W_hn (r * h) + b_hn)           candidate, reset="before"
    h' = (1 - z) * n + z * h                                 new state

``reset="after"`` is the function of ``torch.nn.GRU``, cuDNN and Keras; ``reset="before"`` that of Cho et al.
(arXiv:1406.1078, version 3), of the textbook *Dive into Deep Learning* and of ONNX's default. Neither can be
rewritten as the other. Everything fast in this package is tested against this file in float64; it is not fast itself.

Letters: T time steps, B batch, I input size, H hidden size. The three gates lie along one axis of size 3H in the order
r, z, n. Any floating dtype, one for all.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Weights(NamedTuple):
    """Weights of one layer and direction, gates stacked in the order r, z, n.

    Attributes
    ----------
    ih : Tensor (3H, I)
        Multiplies the input.
    hh : Tensor (3H, H)
        Multiplies the state.
    bias_ih, bias_hh : Tensor (3H,), optional
        Added to the two products.
    """

    ih: Tensor
    hh: Tensor
    bias_ih: Tensor | None = None
    bias_hh: Tensor | None = None


class Options(NamedTuple):
    """Options of a computation over a sequence.

    Attributes
    ----------
    reset : {"after", "before"}
        Apply the reset gate after or before the matrix product of the candidate.
    reverse : bool
        Read the sequence from its end: the state at t then knows the steps t to T-1, and the last state is the one at
        t = 0.
    lengths : Tensor (B,), optional
        Integers from 0 to T: a row's steps from its length on are padding. The state does not change there (it stays h0
        if the sequence is read from its end), and outputs and gates are zero.
    resets : Tensor (T, B), optional
        Boolean: a new sequence begins at this step, so the state before it is ``reset_state``. Read from the end, the
        state starts over where a sequence ends.
    reset_state : Tensor (H,), optional
        The state at the beginning of such a sequence; zeros by default.
    return_gates : bool
        Also return r, z and n of every step.
    batch_invariant : bool
        Compute a row to the same bits alone and in any batch, as far as the backend has a choice.
    """

    reset: str = "after"
    reverse: bool = False
    lengths: Tensor | None = None
    resets: Tensor | None = None
    reset_state: Tensor | None = None
    return_gates: bool = False
    batch_invariant: bool = True


def project(x: Tensor, weight_ih: Tensor, bias_ih: Tensor | None = None) -> Tensor:
    """Compute the input's contribution to the three gates, ``a = W_i x + b_i``.

    x is floating (..., I), or integer (...) where an id k stands for the one-hot vector of size I with its one at k;
    the product is then column k of weight_ih, and the one-hot vector is never made. Returns (..., 3H).

    >>> weight = torch.arange(6.0).reshape(3, 2)
    >>> project(torch.tensor(1), weight)
    tensor([1., 3., 5.])
    >>> project(torch.tensor([0.0, 1.0]), weight)
    tensor([1., 3., 5.])
    """
    if x.is_floating_point():
        return functional.linear(x, weight_ih, bias_ih)
    a = functional.embedding(x, weight_ih.t())
    return a if bias_ih is None else a + bias_ih


def gates(
    a: Tensor, h: Tensor, weight_hh: Tensor, bias_hh: Tensor | None = None, *, reset: str = "after"
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gates of one step: a (B, 3H) from :func:`project`, h (B, H) -> r, z, n, (B, H) each."""
    H = h.shape[-1]
    a_r, a_z, a_n = a.split(H, -1)  # (B, H) each
    W_rz, W_n = weight_hh.split([2 * H, H])
    b_rz, b_n = (None, None) if bias_hh is None else bias_hh.split([2 * H, H])

    h_r, h_z = functional.linear(h, W_rz, b_rz).split(H, -1)
    r = torch.sigmoid(a_r + h_r)
    z = torch.sigmoid(a_z + h_z)
    if reset == "after":
        n = torch.tanh(a_n + r * functional.linear(h, W_n, b_n))
    elif reset == "before":
        n = torch.tanh(a_n + functional.linear(r * h, W_n, b_n))
    else:
        raise ValueError(f'reset must be "after" or "before", got {reset!r}')
    return r, z, n


def step(a: Tensor, h: Tensor, weight_hh: Tensor, bias_hh: Tensor | None = None, *, reset: str = "after") -> Tensor:
    """Compute one step: a (B, 3H) from :func:`project`, h (B, H) -> the new state (B, H).

    >>> h = step(torch.zeros(1, 3), torch.ones(1, 1), torch.zeros(3, 1))  # every gate half open
    >>> h
    tensor([[0.5000]])
    """
    _, z, n = gates(a, h, weight_hh, bias_hh, reset=reset)
    return (1 - z) * n + z * h


def sequence(x: Tensor, h0: Tensor, weights: Weights, options: Options = Options()) -> tuple[Tensor, ...]:
    """Compute a whole sequence, one layer, one direction.

    Parameters
    ----------
    x : Tensor
        The input (T, B, I), floating, or ids (T, B), integer, that stand for one-hot vectors.
    h0 : Tensor (B, H)
        The state before the first step.
    weights : Weights
    options : Options

    Returns
    -------
    tuple of Tensor
        Every state (T, B, H), the last one (B, H), and with ``return_gates`` r, z and n of every step (T, B, 3H).

    Examples
    --------
    >>> weights = Weights(torch.randn(9, 2), torch.randn(9, 3))
    >>> states, last = sequence(torch.tensor([[0], [1]]), torch.zeros(1, 3), weights)
    >>> states.shape, torch.equal(states[-1], last)
    (torch.Size([2, 1, 3]), True)
    """
    reset, reverse, lengths, resets, reset_state, return_gates, _ = options
    T, B, H = len(x), *h0.shape
    if lengths is not None and x.is_floating_point():  # a NaN in the padding must not reach a gradient
        x = torch.where((torch.arange(T, device=x.device)[:, None] < lengths)[..., None], x, x.new_zeros(()))
    a = project(x, weights.ih, weights.bias_ih).unbind()  # T of (B, 3H): the input's share needs no recurrence
    fresh = h0.new_zeros(H) if reset_state is None else reset_state
    h, states, all_gates = h0, [], []
    for t in reversed(range(T)) if reverse else range(T):
        inside = None if lengths is None else (t < lengths)[:, None]  # (B, 1)
        if resets is not None and (t + 1 < T or not reverse):
            begins = resets[t + 1 if reverse else t][:, None]
            if reverse and lengths is not None:
                begins = begins & (t + 1 < lengths)[:, None]  # no sequence begins in the padding
            if inside is not None:
                begins = begins & inside
            h = torch.where(begins, fresh, h)
        r, z, n = gates(a[t], h, weights.hh, weights.bias_hh, reset=reset)
        new = (1 - z) * n + z * h
        rzn = torch.cat([r, z, n], -1)
        if inside is not None:
            h = torch.where(inside, new, h)
            new, rzn = (torch.where(inside, v, torch.zeros_like(v)) for v in (new, rzn))
        else:
            h = new
        states.append(new)
        all_gates.append(rzn)
    order = slice(None, None, -1 if reverse else 1)
    outputs = torch.stack(states[order]) if states else h0.new_empty(0, B, H), h
    if not return_gates:
        return outputs
    return *outputs, torch.stack(all_gates[order]) if states else h0.new_empty(0, B, 3 * H)
