"""A linear head and its cross-entropy in one call of the native library, which holds one chunk of logits at a time.

Letters: N tokens, H hidden size, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor, nn

from headgate import machine, native
from headgate.kernels import watch
from headgate.kernels.dense import check_floats, check_range, dense


def losses(states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, invariant: bool) -> Tensor:
    """Compute the loss of each token in nats, detached: states (N, H), weight (V, H), bias (V,), targets (N,) -> (N,).

    ``invariant``: a token's loss has the same bits whatever the other tokens are.
    """
    return _run(states, weight, bias, targets, invariant, (False, False, False))[0]


def mean_loss(states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, invariant: bool) -> Tensor:
    """Compute the mean of :func:`losses`, differentiable; forward computes the gradients too."""
    loss: Tensor = _MeanLoss.apply(states, weight, bias, targets, invariant)
    return loss


class _MeanLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, invariant: bool
    ) -> Tensor:
        losses, gradients = _run(states, weight, bias, targets, invariant, ctx.needs_input_grad[:3])
        ctx.save_for_backward(states, weight, bias, targets, *gradients)
        return losses.mean()

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, bias, targets, *gradients = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: use torch's own operations, which can be differentiated again
            loss = nn.functional.cross_entropy(nn.functional.linear(states, weight, bias), targets)
            needed = [v for v, g in zip((states, weight, bias), gradients, strict=True) if g is not None]
            again = iter(torch.autograd.grad(loss, needed, d_loss, create_graph=True))
            return (*(None if g is None else next(again) for g in gradients), None, None)
        if watch.batched((d_loss,)) or watch.by_modes() or watch.recorded() or not watch.plain((d_loss,)):
            return (*(g if g is None else d_loss * g for g in gradients), None, None)
        scale = d_loss.item()  # usually 1, and then no product is needed
        return (*(g if g is None or scale == 1 else scale * g for g in gradients), None, None)


def _run(
    states: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    invariant: bool,
    needed: tuple[bool, ...],
) -> tuple[Tensor, list[Tensor | None]]:
    """Compute the losses and the gradients of their mean with respect to states, weight and bias.

    Raises RuntimeError for wrong shapes, dtypes or targets.
    """
    if states.dim() != 2:
        raise RuntimeError(f"states must be (N, H), got {tuple(states.shape)}")
    (N, H), V = states.shape, len(weight)
    check_floats("states", states.dtype)
    if targets.dtype not in (torch.int32, torch.int64) or targets.shape != (N,):
        raise RuntimeError(f"targets must be int32 or int64 ({N},), got {targets.dtype} {tuple(targets.shape)}")
    arguments = [
        dense("states", states, (N, H), states.dtype),
        dense("weight", weight, (V, H), states.dtype),
        None if bias is None else dense("bias", bias, (V,), states.dtype),
        dense("targets", targets.long(), (N,), torch.int64),
    ]
    check_range("targets", targets, V - 1)
    losses = states.new_empty(N)
    gradients = [
        torch.empty_like(v) if v is not None and need else None for v, need in zip(arguments, needed, strict=False)
    ]
    pointers = [None if v is None else v.data_ptr() for v in (*arguments, losses, *gradients)]
    described = native.Head(N, H, V, 1 / max(N, 1), machine.capped(torch.get_num_threads()), invariant, *pointers)
    native.call(f"cross_entropy_{native.SUFFIXES[states.itemsize]}", described)
    return losses, gradients
