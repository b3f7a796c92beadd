"""The gated recurrent unit in plain PyTorch: one step, one sequence, both variants. This file is the definition.

    r  = sigmoid(W_ir x + b_ir + W_hr h + b_hr)              reset gate
    z  = sigmoid(W_iz x + b_iz + W_hz h + b_hz)              update gate: z = 1 keeps the old state
    n  = tanh(W_in x + b_in + r * (W_hn h + b_hn))           candidate, reset="after"
    n  = tanh(W_in x + b_in + W_hn (r * h) + b_hn)           candidate, reset="before"
    h' = (1 - z) * n + z * h                                 new state

``reset="after"`` is the function of ``torch.nn.GRU``, cuDNN and Keras; ``reset="before"`` that of Cho et al.
(arXiv:1406.1078, version 3), of the textbook *Dive into Deep Learning* and of ONNX's default. Neither can be
rewritten as the other. Everything fast in this package is tested against this file in float64; it is not fast itself.

Letters: T time steps, B batch, I input size, H hidden size. The three gates lie along one axis of size 3H in the order
r, z, n: weight_ih (3H, I), weight_hh (3H, H), bias_ih (3H,), bias_hh (3H,). Any floating dtype, one for all.
"""

import torch
from torch import Tensor
from torch.nn import functional


def project(x: Tensor, weight_ih: Tensor, bias_ih: Tensor | None = None) -> Tensor:
    """What the input contributes to the three gates: ``a = W_i x + b_i``.

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


def step(a: Tensor, h: Tensor, weight_hh: Tensor, bias_hh: Tensor | None = None, *, reset: str = "after") -> Tensor:
    """One step: a (B, 3H) from :func:`project`, h (B, H) -> the new state (B, H).

    >>> h = step(torch.zeros(1, 3), torch.ones(1, 1), torch.zeros(3, 1))  # every gate open by half
    >>> h
    tensor([[0.5000]])
    """
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
    return (1 - z) * n + z * h


def sequence(
    x: Tensor,
    h0: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    *,
    reset: str = "after",
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """A whole sequence, one layer, one direction.

    x (T, B, I) floating or (T, B) integer ids, h0 (B, H) -> every state (T, B, H), the last one (B, H). With
    ``reverse`` the sequence is read from its end: the state at t then knows the steps t to T-1, and the last state
    returned is the one at t = 0.

    >>> states, last = sequence(torch.tensor([[0], [1]]), torch.zeros(1, 3), torch.randn(9, 2), torch.randn(9, 3))
    >>> states.shape, torch.equal(states[-1], last)
    (torch.Size([2, 1, 3]), True)
    """
    a = project(x, weight_ih, bias_ih)  # (T, B, 3H): the input's share needs no recurrence
    h, states = h0, []
    for a_t in reversed(a.unbind(0)) if reverse else a.unbind(0):
        h = step(a_t, h, weight_hh, bias_hh, reset=reset)
        states.append(h)
    if reverse:
        states.reverse()
    return (torch.stack(states) if states else h0.new_empty(0, *h0.shape)), h
