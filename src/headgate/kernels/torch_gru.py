"""The backend ``torch``: PyTorch's own GRU if it has one for the case, else the same function in large operations.

Letters: T time steps, B batch, I input size, H hidden size.
"""

from typing import Any

import torch
from torch import Tensor

from headgate import equations
from headgate.equations import Options, Weights, project, step
from headgate.kernels import watch


def sequence(x: Tensor, h0: Tensor, weights: Weights, options: Options = Options()) -> tuple[Tensor, ...]:
    """Compute :func:`headgate.equations.sequence` with torch's operations.

    Floating x with reset="after" goes to ``torch._VF.gru`` (cuDNN on a CUDA device). Ids, for which ``torch._VF.gru``
    would need a one-hot tensor, and reset="before" run step by step on the projected input. Lengths, resets and gates,
    which it does not support, go to the definition. Under autocast only ``torch._VF.gru`` runs in half precision; the
    other paths mix operations that autocast converts with some that it does not, and stay in float32.
    """
    recorded = watch.recorded()
    if recorded and weights.bias_ih is not None and weights.bias_hh is None:
        weights = weights._replace(bias_hh=torch.zeros_like(weights.bias_ih))  # torch._VF.gru takes two biases or none
    weight_ih, weight_hh, bias_ih, bias_hh = weights
    reset, reverse = options.reset, options.reverse
    unsupported = options.lengths is not None or options.resets is not None or options.return_gates
    whole = not unsupported and x.is_floating_point() and reset == "after" and (bias_ih is None) == (bias_hh is None)
    if not whole and torch.is_autocast_enabled(h0.device.type):
        with torch.autocast(h0.device.type, enabled=False):
            return sequence(x, h0, weights, options)
    if unsupported:
        return equations.sequence(x, h0, weights, options)
    if whole and (recorded or len(x)):  # a recorded program must work for any number of steps
        flat = [w for w in weights if w is not None]
        states, last = torch._VF.gru(
            x.flip(0) if reverse else x, h0[None].contiguous(), flat, bias_ih is not None, 1, 0.0, True, False, False
        )
        return states.flip(0) if reverse else states, last[0]
    if not x.is_floating_point() and bias_ih is not None and x.numel() >= 4 * weight_ih.shape[1]:
        a = project(x, weight_ih + bias_ih[:, None])  # fewer columns than ids: add the bias to the columns
    else:
        a = project(x, weight_ih, bias_ih)  # (T, B, 3H)
    if not len(x):
        return h0.new_empty(0, *h0.shape), h0
    if reverse:
        a = a.flip(0)
    if recorded and reset == "after":
        states = _states(a, h0, weight_hh, bias_hh)
    elif reset == "after":
        b = weight_hh.new_zeros(len(weight_hh)) if bias_hh is None else bias_hh
        (states,) = _After.apply(a, h0, weight_hh, b)
    else:
        states = _before(a, h0, weight_hh, bias_hh)
    return states.flip(0) if reverse else states, states[-1]


class _After(torch.autograd.Function):
    """The recurrence with reset="after", its weight gradient one product over the sequence instead of one per step.

    a (T, B, 3H), h0 (B, H), weight_hh (3H, H), bias_hh (3H,) -> every state (T, B, H). Backward keeps, for every step,
    the state before it, r, z, n and m = W_hn h + b_hn. With g the inputs of the three gates that come from h:

        dn' = dh (1 - z) (1 - n^2)      dz' = dh (h - n) z (1 - z)      dr' = dn' m r (1 - r)
        da = (dr', dz', dn')            dg = (dr', dz', dn' r)          dh <- dh z + W^T dg
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, h0: Tensor, weight_hh: Tensor, bias_hh: Tensor) -> tuple[Tensor]:
        T, (B, H) = len(a), h0.shape
        W_rz, W_n = (w.t().contiguous() for w in weight_hh.split([2 * H, H]))
        a_rz, a_n = a[..., : 2 * H] + bias_hh[: 2 * H], a[..., 2 * H :]
        b_n = bias_hh[2 * H :].expand(B, H)
        h, rz = a.new_empty(T + 1, B, H), a.new_empty(T, B, 2 * H)
        m, n = a.new_empty(T, B, H), a.new_empty(T, B, H)
        h[0] = h0
        for t in range(T):
            torch.addmm(a_rz[t], h[t], W_rz, out=rz[t]).sigmoid_()
            r, z = rz[t].split(H, -1)
            torch.addmm(b_n, h[t], W_n, out=m[t])
            torch.addcmul(a_n[t], r, m[t], out=n[t]).tanh_()
            torch.lerp(n[t], h[t], z, out=h[t + 1])  # (1 - z) n + z h
        ctx.save_for_backward(a, h0, weight_hh, bias_hh, h, rz, m, n)
        return (h[1:],)

    @staticmethod
    def backward(ctx: Any, d_states: Tensor) -> tuple[Tensor | None, ...]:
        a, h0, weight_hh, bias_hh, h, rz, m, n = ctx.saved_tensors
        again = torch.is_grad_enabled()  # create_graph=True: compute it from the definition
        if again or watch.batched((d_states,)) or watch.transformed() or watch.recorded():
            needed = ctx.needs_input_grad
            with torch.enable_grad():
                leaves = [
                    v.view_as(v) if need else v for v, need in zip((a, h0, weight_hh, bias_hh), needed, strict=True)
                ]
                inputs = [v for v, need in zip(leaves, needed, strict=True) if need]
                gradients = iter(torch.autograd.grad(_states(*leaves), inputs, d_states, create_graph=again))
            return tuple(next(gradients) if need else None for need in needed)
        T, B, H = n.shape
        r, z = rz.split(H, -1)
        before = h[:-1]
        dn_dh = (1 - z) * (1 - n * n)
        factors = torch.stack([dn_dh * m * r * (1 - r), (before - n) * z * (1 - z), dn_dh * r], 2)  # dg / dh
        d_gates, d_all = torch.empty_like(factors), torch.empty_like(n)  # (T, B, 3, H), (T, B, H)
        dh = torch.zeros_like(h0)
        for t in reversed(range(T)):
            torch.add(d_states[t], dh, out=d_all[t])
            torch.mul(factors[t], d_all[t, :, None], out=d_gates[t])
            dh = torch.addmm(d_all[t] * z[t], d_gates[t].view(B, 3 * H), weight_hh)
        dg = d_gates.view(T * B, 3 * H)
        d_weight, d_bias = dg.t() @ before.reshape(T * B, H), dg.sum(0)
        da = d_gates.clone()
        torch.mul(d_all, dn_dh, out=da[:, :, 2])
        return da.view(T, B, 3 * H), dh, d_weight, d_bias


def _states(a: Tensor, h: Tensor, weight_hh: Tensor, bias_hh: Tensor | None) -> Tensor:
    states = []
    for a_t in a.unbind(0):
        h = step(a_t, h, weight_hh, bias_hh)
        states.append(h)
    return torch.stack(states)


def _before(a: Tensor, h: Tensor, weight_hh: Tensor, bias_hh: Tensor | None) -> Tensor:
    H = h.shape[-1]
    W_rz, W_n = (W.t() for W in weight_hh.split([2 * H, H]))
    a_rz, a_n = (a if bias_hh is None else a + bias_hh).split([2 * H, H], -1)
    states = []
    for a_rz_t, a_n_t in zip(a_rz.unbind(0), a_n.unbind(0), strict=True):
        r, z = torch.sigmoid(torch.addmm(a_rz_t, h, W_rz)).split(H, -1)
        n = torch.tanh(torch.addmm(a_n_t, r * h, W_n))
        h = torch.lerp(n, h, z)
        states.append(h)
    return torch.stack(states)
