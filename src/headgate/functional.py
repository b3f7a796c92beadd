"""``gru()``: checks its arguments, picks a backend, calls it. The only file that dispatches.

Letters: T time steps, B batch, I input size, H hidden size.
"""

import torch
from torch import Tensor

from headgate import equations
from headgate.kernels import aten

BACKENDS = {"equations": equations.sequence, "torch": aten.sequence}  # one signature


def gru(
    x: Tensor,
    h0: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    *,
    reset: str = "after",
    reverse: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """A GRU over a sequence, one layer, one direction: the function of :func:`headgate.equations.sequence`, faster.

    x (T, B, I) floating, or (T, B) int32/int64 ids that stand for one-hot vectors of size I; h0 (B, H);
    weight_ih (3H, I), weight_hh (3H, H), bias_ih (3H,), bias_hh (3H,), gates in the order r, z, n.
    Returns every state (T, B, H) and the last one read (B, H).

    ``backend`` forces one of :data:`BACKENDS`; "auto" takes ``torch``, which runs wherever PyTorch does.
    Raises RuntimeError for shapes that do not fit and ValueError for an unknown variant or backend.
    """
    _check(x, h0, weight_ih, weight_hh, bias_ih, bias_hh)
    if reset not in ("after", "before"):
        raise ValueError(f'reset must be "after" or "before", got {reset!r}')
    if backend != "auto" and backend not in BACKENDS:
        raise ValueError(f"backend must be one of auto, {', '.join(BACKENDS)}, got {backend!r}")
    sequence = BACKENDS["torch" if backend == "auto" else backend]
    return sequence(x, h0, weight_ih, weight_hh, bias_ih, bias_hh, reset=reset, reverse=reverse)


def _check(
    x: Tensor, h0: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor | None, bias_hh: Tensor | None
) -> None:
    H = weight_hh.shape[-1]
    T, B = x.shape[:2] if x.dim() >= 2 else (0, 0)
    I = weight_ih.shape[-1]  # noqa: E741 - the letter of the equations
    if x.is_floating_point() and x.shape != (T, B, I):
        raise RuntimeError(f"x must be (T, B, {I}), or (T, B) ids, got {tuple(x.shape)}")
    if not x.is_floating_point():
        if x.dtype not in (torch.int32, torch.int64):
            raise RuntimeError(f"ids must be int32 or int64, got {x.dtype}")
        if x.dim() != 2:
            raise RuntimeError(f"ids must be (T, B), got {tuple(x.shape)}")
        if x.device.type == "cpu" and x.numel() and (int(x.min()) < 0 or int(x.max()) >= I):
            raise RuntimeError(f"ids must be from 0 to {I - 1}, got {int(x.min())} to {int(x.max())}")
    for name, tensor, shape in (
        ("h0", h0, (B, H)),
        ("weight_ih", weight_ih, (3 * H, I)),
        ("weight_hh", weight_hh, (3 * H, H)),
        ("bias_ih", bias_ih, (3 * H,)),
        ("bias_hh", bias_hh, (3 * H,)),
    ):
        if tensor is not None and tensor.shape != shape:
            raise RuntimeError(f"{name} must be {shape}, got {tuple(tensor.shape)} (H = {H} from weight_hh)")
