"""``gru()`` and the heads' cross-entropies: check their arguments, pick a backend, call it. Nothing else dispatches.

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
LOGITS = 2**24  # so many at most, where torch's operations compute a cross-entropy, exist at a time


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
    """A GRU over a sequence, one layer, one direction: the function of :func:`headgate.equations.sequence`, faster.

    x (T, B, I) floating, or (T, B) int32/int64 ids that stand for one-hot vectors of size I; h0 (B, H);
    weight_ih (3H, I), weight_hh (3H, H), bias_ih (3H,), bias_hh (3H,), gates in the order r, z, n; lengths (B,)
    integers from 0 to T, resets (T, B) boolean, reset_state (H,): see there.
    Returns every state (T, B, H), the last one (B, H), and with ``return_gates`` also r, z and n (T, B, 3H).

    ``backend`` forces one of :data:`BACKENDS`. "auto" takes ``native``, the native library, for tensors on a CPU, and
    ``torch`` elsewhere, or where the library was not built. Function transforms (torch.func, forward-mode
    differentiation) go through ``equations``. Where anything else follows the call, "auto" takes what that can see:
    ``torch`` while torch.jit.trace or an ONNX exporter records it, ``equations`` for tensors of classes that compute
    torch's operators themselves, and otherwise the operator ``headgate::gru``, which is ``native`` as torch knows it.

    ``batch_invariant``: with True the backend ``native`` gives a row the same bits alone and in any batch. With False
    it may compute the rows of large batches (24 rows and 128 hidden units at least) on the matrix tiles of processors
    that have AMX: about as exact, and faster.
    Raises RuntimeError for shapes, dtypes and values that do not fit, or a backend that cannot run, and ValueError
    for an unknown variant or backend.
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
    """Cross-entropy of ``softmax(W h + b)`` in nats: states (N, H), weight (V, H), bias (V,), targets (N,) int64 ids.

    Returns the mean loss, or with reduction="none" that of every token (N,). The native library never holds the logits
    of all tokens, and computes the gradients along with the mean; where it does not run, and for gradients of single
    losses, torch's own operations do, some tokens at a time where there are more than :data:`LOGITS`; these are then
    computed again in backward. ``batch_invariant`` as in :func:`gru`, a token being a row.
    Raises RuntimeError for shapes that do not fit or targets out of range.
    """
    (N, H), V = states.shape, weight.shape[0]
    if weight.shape != (V, H) or targets.shape != (N,) or (bias is not None and bias.shape != (V,)):
        shapes = [tuple(v.shape) for v in (states, weight, targets) if v is not None]
        raise RuntimeError(f"states (N, H), weight (V, H) and targets (N,) do not fit each other: {shapes}")
    needed = torch.is_grad_enabled() and any(v is not None and v.requires_grad for v in (states, weight, bias))
    tensors = states, weight, bias, targets
    unwatched, device = watch.unwatched(tensors), states.device.type
    picked = _pick(backend, device) if unwatched else _pick_visible(backend, device, tensors)
    hidden = unwatched or not (torch.compiler.is_compiling() or watch.by_modes() or not watch.plain(tensors))
    if backend == "native" and not hidden and not torch.compiler.is_compiling():
        raise RuntimeError(_UNSEEN.format("this cross-entropy is followed by a mode, or by a tensor of another class"))
    _check_range("targets", targets, V - 1)
    if picked != "native" or not hidden or states.itemsize not in native.SUFFIXES or (needed and reduction == "none"):

        def losses(states: Tensor, targets: Tensor) -> Tensor:
            return nn.functional.cross_entropy(nn.functional.linear(states, weight, bias), targets, reduction="none")

        found = _some_at_a_time(losses, states, targets, V)
        return found if reduction == "none" else found.mean()
    if reduction == "none":
        return cross_entropy.losses(states, weight, bias, targets, batch_invariant)
    return cross_entropy.mean_loss(states, weight, bias, targets, batch_invariant)


def adaptive_cross_entropy(
    head: nn.AdaptiveLogSoftmaxWithLoss, states: Tensor, targets: Tensor, *, reduction: str = "mean"
) -> Tensor:
    """Cross-entropy of an adaptive softmax in nats: states (N, H), targets (N,) int64 ids.

    Returns the mean loss, or with reduction="none" that of every token (N,). A cluster that no target lies in has a
    gradient of zeros and not none, so that an optimizer does the same with it whether one process computes a batch or
    several, which bring together the gradients of all parameters.
    Raises RuntimeError for shapes that do not fit or targets out of range.
    """

    def losses(states: Tensor, targets: Tensor) -> Tensor:
        found: Tensor = -head(states, targets).output
        return found

    # Of most tokens only the shortlist is computed, of few a cluster: less than a quarter of all logits each.
    found = _some_at_a_time(losses, states, targets, head.n_classes // 4)
    if reduction == "none":
        return found
    return found.mean() + sum(parameter[:0].sum() for parameter in head.tail.parameters())


def _some_at_a_time(losses: Callable[[Tensor, Tensor], Tensor], states: Tensor, targets: Tensor, width: int) -> Tensor:
    """Losses (N,) of states (N, H), targets (N,), for as many tokens at once as have LOGITS logits, ``width`` each."""
    n = max(LOGITS // width, 1)
    if torch.compiler.is_compiling() or watch.transformed() or watch.recorded() or len(targets) <= n:
        return losses(states, targets)
    parts = zip(states.split(n), targets.split(n), strict=True)
    return torch.cat([checkpoint(losses, *part, use_reentrant=False, preserve_rng_state=False) for part in parts])


_UNSEEN = 'backend "native" cannot run: {}, which does not see what the native library does: take backend="auto"'


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
    """The backend where something follows the call. Only those that can be followed."""
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
        visible, follower = "equations", "a tensor is of a class that computes torch's operators itself"
    if visible and backend == "native":
        raise RuntimeError(_UNSEEN.format(follower))
    return visible if visible and backend == "auto" else picked


def _check_expanded(x: Tensor, weights: Weights, options: Options) -> None:
    """Raise unless torch has a way to the gradient of each sample."""
    one_bias = (weights.bias_ih is None) != (weights.bias_hh is None)
    unknown = options.lengths is not None or options.resets is not None or options.return_gates
    if options.reset == "before" or not x.is_floating_point() or one_bias or unknown:
        raise RuntimeError(
            'expanded weights take dense input and reset="after", with two biases or none and without lengths, resets '
            "and gates: for the gradients of each sample take torch.vmap(torch.func.grad(...)) here"
        )


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # compiled programs stay on their machine
def reason_against_native(device: str = "cpu") -> str:
    """Why the backend ``native`` cannot run on such a device; empty where it can."""
    if device != "cpu":
        return f"the tensors are on {device}"
    return "" if native.load() is not None else native.MISSING


@functools.cache
def _say_that_it_is_slow() -> None:
    warnings.warn(
        f"headgate computes with torch's own operations, several times slower: {native.MISSING}", stacklevel=4
    )


def _check(x: Tensor, h0: Tensor, weights: Weights, options: Options) -> None:
    """Raise RuntimeError for tensors that do not fit each other, and ValueError for an unknown variant."""
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
            wanted = " or ".join(str(kind) for kind in kinds)
            raise RuntimeError(f"{name} must be {shape} {wanted}, got {tuple(tensor.shape)} {tensor.dtype}")
    for name, tensor in (("x", x), ("lengths", lengths), ("resets", resets)):
        if tensor is not None and tensor.device != h0.device:
            raise RuntimeError(f"{name} is on {tensor.device}, h0 and the weights are on {h0.device}: move one of them")
    if not x.is_floating_point():
        _check_range("ids", x, I - 1)
    if lengths is not None:
        _check_range("lengths", lengths, T)


def _check_range(name: str, values: Tensor, largest: int) -> None:
    """Values on a CPU must lie in 0..largest. Tensors without values (traced, transformed) are not asked, nor is where
    asking would be recorded: there the operator asks when it runs, and torch's own operations do."""
    if torch.compiler.is_compiling() or type(values) is not Tensor or values.device.type != "cpu":
        return
    if watch.transformed() or watch.recorded() or torch._C._len_torch_dispatch_stack():
        return
    check_range(name, values, largest)
