"""The backend ``torch``: PyTorch's own GRU where it has one, else the same function in few, large tensor operations.

Letters: T time steps, B batch, I input size, H hidden size.
"""

import torch
from torch import Tensor

from headgate.equations import project


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
    """As :func:`headgate.equations.sequence`.

    Floating x with reset="after" goes to ``torch._VF.gru`` (cuDNN on a CUDA device). Ids, which that has no way in
    for without a one-hot tensor, and reset="before" run step by step on the projected input.
    """
    if x.is_floating_point() and reset == "after" and len(x) and (bias_ih is None) == (bias_hh is None):
        weights = [w for w in (weight_ih, weight_hh, bias_ih, bias_hh) if w is not None]
        states, last = torch._VF.gru(
            x.flip(0) if reverse else x, h0[None].contiguous(), weights, bias_ih is not None, 1, 0.0, True, False, False
        )
        return states.flip(0) if reverse else states, last[0]
    a = project(x, weight_ih, bias_ih)  # (T, B, 3H)
    loop = _after if reset == "after" else _before
    steps = loop(a.flip(0) if reverse else a, h0, weight_hh, bias_hh)
    if not steps:
        return h0.new_empty(0, *h0.shape), h0
    return torch.stack(steps[::-1] if reverse else steps), steps[-1]


def _after(a: Tensor, h: Tensor, weight_hh: Tensor, bias_hh: Tensor | None) -> list[Tensor]:
    H = h.shape[-1]
    W = weight_hh.t()
    b = weight_hh.new_zeros(3 * H) if bias_hh is None else bias_hh
    a_rz, a_n = a.split([2 * H, H], -1)
    states = []
    for a_rz_t, a_n_t in zip(a_rz.unbind(0), a_n.unbind(0), strict=True):
        h_rz, h_n = torch.addmm(b, h, W).split([2 * H, H], -1)
        r, z = torch.sigmoid(a_rz_t + h_rz).split(H, -1)
        n = torch.tanh(torch.addcmul(a_n_t, r, h_n))
        h = torch.lerp(n, h, z)  # (1 - z) n + z h
        states.append(h)
    return states


def _before(a: Tensor, h: Tensor, weight_hh: Tensor, bias_hh: Tensor | None) -> list[Tensor]:
    H = h.shape[-1]
    W_rz, W_n = (W.t() for W in weight_hh.split([2 * H, H]))
    a_rz, a_n = (a if bias_hh is None else a + bias_hh).split([2 * H, H], -1)
    states = []
    for a_rz_t, a_n_t in zip(a_rz.unbind(0), a_n.unbind(0), strict=True):
        r, z = torch.sigmoid(torch.addmm(a_rz_t, h, W_rz)).split(H, -1)
        n = torch.tanh(torch.addmm(a_n_t, r * h, W_n))
        h = torch.lerp(n, h, z)
        states.append(h)
    return states
