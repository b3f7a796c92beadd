"""``gru()`` and the cross-entropies of the heads: check the arguments, pick a backend, call it.

All dispatch between backends happens in this file.

Letters: T time steps, B batch, I input size, H hidden size; N tokens, V vocabulary.
"""

import functools
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from headgate import equations, native
from headgate.equations import Options, Weights
from headgate.kernels import cross_entropy, native_gru, torch_gru, watch
from headgate.kernels.dense import check_range

BACKENDS = {"equations": equations.sequence, "torch": torch_gru.sequence, "native": native_gru.sequence}
LOGITS = 2**24  # upper bound on the logits that the torch fallback holds at once


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
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    reset_state: Tensor | None = None,
    return_gates: bool = False,
    batch_invariant: bool = True,
    backend: str = "auto",
) -> tuple[Tensor, ...]:
    """Compute one layer and direction of a GRU: the function of :func:`headgate.equations.sequence`, faster.

    Parameters
    ----------
    x : Tensor (T, B, I) or (T, B)
        The input, floating; or int32 or int64 ids that stand for one-hot vectors of size I.
    h0 : Tensor (B, H)
        The state before the first step.
    weight_ih : Tensor (3H, I)
    weight_hh : Tensor (3H, H)
    bias_ih, bias_hh : Tensor (3H,), optional
        Weights and biases, gates in the order r, z, n.
    reset, reverse, lengths, resets, reset_state, return_gates
        See :class:`headgate.equations.Options`.
    batch_invariant : bool
        True: the backend ``native`` computes a row to the same bits alone and in any batch. False: it may compute
        large batches (at least 24 rows, with at least 128 hidden units) on the matrix tiles of processors with AMX,
        about as exact and faster.
    backend : {"auto", "native", "torch", "equations"}
        The implementation, see Notes.

    Returns
    -------
    tuple of Tensor
        Every state (T, B, H), the last one (B, H), and with ``return_gates`` r, z and n of every step (T, B, 3H).

    Raises
    ------
    RuntimeError
        For wrong shapes, dtypes or values, or a backend that cannot run.
    ValueError
        For an unknown variant or backend.

    Notes
    -----
    Backend "auto" is ``native``, the native library, for tensors on a CPU, and ``torch`` on other devices or if the
    library is not built. Function transforms (torch.func, forward-mode differentiation) use ``equations``. If anything
    else follows the call, "auto" picks a backend that it can see: ``torch`` while torch.jit.trace or an ONNX exporter
    records, ``equations`` for tensor subclasses that implement torch's operators themselves, and otherwise the operator
    ``headgate::gru``, which is ``native`` wrapped for torch.

    Examples
    --------
    >>> states, last = gru(torch.randn(5, 3, 2), torch.zeros(3, 4), torch.randn(12, 2), torch.randn(12, 4))
    >>> states.shape, last.shape
    (torch.Size([5, 3, 4]), torch.Size([3, 4]))
    """
    weights = Weights(weight_ih, weight_hh, bias_ih, bias_hh)
    options = Options(reset, reverse, lengths, resets, reset_state, return_gates, batch_invariant)
    _check(x, h0, weights, options)
    tensors = x, h0, *weights, reset_state, lengths, resets
    unwatched = watch.unwatched(tensors)
    backend = _pick(backend, h0.device.type) if unwatched else _pick_visible(backend, h0.device.type, tensors)
    if not unwatched and watch.expanded(tensors):
        _check_expanded(x, weights, options)
    return BACKENDS[backend](x, h0, weights, options)


def linear_cross_entropy(
    states: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    reduction: str = "mean",
    batch_invariant: bool = True,
    backend: str = "auto",
) -> Tensor:
    """Compute the cross-entropy of ``softmax(W h + b)`` in nats.

    states (N, H), weight (V, H), bias (V,), targets (N,) int64 ids -> the mean loss, or with reduction="none" the loss
    of each token (N,). ``batch_invariant`` as in :func:`gru`, a token being a row.

    The native library never holds the logits of all tokens, and computes the gradients together with the mean. If it
    cannot run, or if the losses of single tokens need gradients, torch's operations compute the loss: with more than
    :data:`LOGITS` logits in chunks of tokens, whose logits backward computes again.

    Raises RuntimeError for wrong shapes or targets out of range.
    """
    (N, H), V = states.shape, weight.shape[0]
    if weight.shape != (V, H) or targets.shape != (N,) or (bias is not None and bias.shape != (V,)):
        shapes = [tuple(v.shape) for v in (states, weight, targets)]
        raise RuntimeError(f"states (N, H), weight (V, H) and targets (N,) do not fit each other: {shapes}")
    needed = torch.is_grad_enabled() and any(v is not None and v.requires_grad for v in (states, weight, bias))
    tensors = states, weight, bias, targets
    unwatched, device = watch.unwatched(tensors), states.device.type
    picked = _pick(backend, device) if unwatched else _pick_visible(backend, device, tensors)
    hidden = unwatched or not (torch.compiler.is_compiling() or watch.by_modes() or not watch.plain(tensors))
    if backend == "native" and not hidden and not torch.compiler.is_compiling():
        raise RuntimeError(_UNSEEN.format("a mode or a tensor of another class follows this cross-entropy"))
    _check_range("targets", targets, V - 1)
    if picked != "native" or not hidden or states.itemsize not in native.SUFFIXES or (needed and reduction == "none"):

        def losses(states: Tensor, targets: Tensor) -> Tensor:
            return nn.functional.cross_entropy(nn.functional.linear(states, weight, bias), targets, reduction="none")

        nats = _some_at_a_time(losses, states, targets, V)
        return nats if reduction == "none" else nats.mean()
    if reduction == "none":
        return cross_entropy.losses(states, weight, bias, targets, batch_invariant)
    return cross_entropy.mean_loss(states, weight, bias, targets, batch_invariant)


def adaptive_cross_entropy(
    head: nn.AdaptiveLogSoftmaxWithLoss, states: Tensor, targets: Tensor, *, reduction: str = "mean"
) -> Tensor:
    """Compute the cross-entropy of an adaptive softmax in nats.

    states (N, H), targets (N,) int64 ids -> the mean loss, or with reduction="none" the loss of each token (N,). With
    the mean, a cluster that contains no target gets a gradient of zeros, not None, so that the optimizer treats it the
    same whether one process computes the batch or several do, which reduce the gradients of all parameters.

    Raises RuntimeError for wrong shapes or targets out of range.
    """

    def losses(states: Tensor, targets: Tensor) -> Tensor:
        negative: Tensor = -head(states, targets).output
        return negative

    # Most tokens need only the shortlist, a few a cluster too: less than a quarter of all logits per token.
    nats = _some_at_a_time(losses, states, targets, head.n_classes // 4)
    if reduction == "none":
        return nats
    return nats.mean() + sum(parameter[:0].sum() for parameter in head.tail.parameters())


def _some_at_a_time(losses: Callable[[Tensor, Tensor], Tensor], states: Tensor, targets: Tensor, width: int) -> Tensor:
    """Compute losses (N,) of states (N, H), targets (N,) in chunks of at most LOGITS logits, ``width`` per token."""
    n = max(LOGITS // width, 1)
    if torch.compiler.is_compiling() or watch.transformed() or watch.recorded() or len(targets) <= n:
        return losses(states, targets)
    parts = zip(states.split(n), targets.split(n), strict=True)
    return torch.cat([checkpoint(losses, *part, use_reentrant=False, preserve_rng_state=False) for part in parts])


_UNSEEN = 'backend "native" cannot run: {}, which cannot see what the native library does: take backend="auto"'


def _pick(backend: str, device: str) -> str:
    if backend != "auto" and backend not in BACKENDS:
        raise ValueError(f"backend must be one of auto, {', '.join(BACKENDS)}, got {backend!r}")
    if backend == "native" and (why_not := reason_against_native(device)):
        raise RuntimeError(f'backend "native" cannot run: {why_not}')
    if backend != "auto":
        return backend
    if device == "cpu":
        if not reason_against_native():
            return "native"
        _say_that_it_is_slow()
    return "torch"


def _pick_visible(backend: str, device: str, tensors: Sequence[Tensor | None]) -> str:
    """Pick a backend that whatever follows the call can see."""
    picked = _pick(backend, device)
    if watch.transformed():
        return "equations"
    visible, follower = "", ""
    if watch.recorded():
        visible, follower = "torch", "torch.jit.trace or an ONNX exporter records the call"
    elif torch.compiler.is_compiling() or watch.plain(tensors):
        return picked
    elif watch.expanded(tensors):
        visible, follower = "torch", "expanded weights follow the call"
    elif watch.foreign(tensors):
        visible, follower = "equations", "a tensor is of a class that implements torch's operators itself"
    if visible and backend == "native":
        raise RuntimeError(_UNSEEN.format(follower))
    return visible if visible and backend == "auto" else picked


def _check_expanded(x: Tensor, weights: Weights, options: Options) -> None:
    """Raise RuntimeError unless torch can compute per-sample gradients of this call."""
    one_bias = (weights.bias_ih is None) != (weights.bias_hh is None)
    unsupported = options.lengths is not None or options.resets is not None or options.return_gates
    if options.reset == "before" or not x.is_floating_point() or one_bias or unsupported:
        raise RuntimeError(
            'expanded weights need dense input, reset="after", two biases or none, and no lengths, resets or gates: '
            "use torch.vmap(torch.func.grad(...)) for per-sample gradients here"
        )


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # compiled programs stay on their machine
def reason_against_native(device: str = "cpu") -> str:
    """Return the reason why the backend ``native`` cannot run on the device, or an empty string if it can."""
    if device != "cpu":
        return f"the tensors are on {device}"
    return "" if native.load() is not None else native.MISSING


@functools.cache
def _say_that_it_is_slow() -> None:
    warnings.warn(
        f"headgate falls back to torch's own operations, several times slower: {native.MISSING}", stacklevel=4
    )


def _check(x: Tensor, h0: Tensor, weights: Weights, options: Options) -> None:
    """Raise RuntimeError for inconsistent shapes, dtypes or devices, and ValueError for an unknown variant."""
    if options.reset not in ("after", "before"):
        raise ValueError(f'reset must be "after" or "before", got {options.reset!r}')
    lengths, resets = options.lengths, options.resets
    H, I = weights.hh.shape[-1], weights.ih.shape[-1]  # noqa: E741 - the letter of the equations
    T, B = x.shape[:2] if x.dim() >= 2 else (0, 0)
    if x.is_floating_point():
        if x.shape != (T, B, I):
            raise RuntimeError(f"x must be (T, B, {I}), or (T, B) ids, got {tuple(x.shape)}")
    else:
        if x.dtype not in (torch.int32, torch.int64):
            raise RuntimeError(f"ids must be int32 or int64, got {x.dtype}")
        if x.dim() != 2:
            raise RuntimeError(f"ids must be (T, B), got {tuple(x.shape)}")
    for name, tensor, shape in (
        ("h0", h0, (B, H)),
        ("weight_ih", weights.ih, (3 * H, I)),
        ("weight_hh", weights.hh, (3 * H, H)),
        ("bias_ih", weights.bias_ih, (3 * H,)),
        ("bias_hh", weights.bias_hh, (3 * H,)),
        ("reset_state", options.reset_state, (H,)),
    ):
        if tensor is None:
            continue
        if tensor.shape != shape:
            raise RuntimeError(f"{name} must be {shape}, got {tuple(tensor.shape)} (H = {H} from weight_hh)")
        if tensor.dtype != h0.dtype or tensor.device != h0.device:
            raise RuntimeError(f"{name} is {tensor.dtype} on {tensor.device}, h0 is {h0.dtype} on {h0.device}")
    if x.is_floating_point() and x.dtype != h0.dtype:
        raise RuntimeError(f"x is {x.dtype}, h0 and the weights are {h0.dtype}: convert one to the other")
    for name, tensor, kinds, shape in (
        ("lengths", lengths, (torch.int32, torch.int64), (B,)),
        ("resets", resets, (torch.bool,), (T, B)),
    ):
        if tensor is not None and (tensor.dtype not in kinds or tensor.shape != shape):
            dtypes = " or ".join(str(kind) for kind in kinds)
            raise RuntimeError(f"{name} must be {shape} {dtypes}, got {tuple(tensor.shape)} {tensor.dtype}")
    for name, tensor in (("x", x), ("lengths", lengths), ("resets", resets)):
        if tensor is not None and tensor.device != h0.device:
            raise RuntimeError(f"{name} is on {tensor.device}, h0 and the weights are on {h0.device}: move one of them")
    if not x.is_floating_point():
        _check_range("ids", x, I - 1)
    if lengths is not None:
        _check_range("lengths", lengths, T)


def _check_range(name: str, values: Tensor, largest: int) -> None:
    """Raise RuntimeError unless values on a CPU lie in 0..largest.

    Skips tensors without values (traced, transformed) and calls under a mode, which would record the check: there the
    operator checks when it runs, and torch's own operations do so too.
    """
    if torch.compiler.is_compiling() or type(values) is not Tensor or values.device.type != "cpu":
        return
    if watch.transformed() or watch.recorded() or torch._C._len_torch_dispatch_stack():
        return
    check_range(name, values, largest)
