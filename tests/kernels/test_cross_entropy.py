"""Cross-entropies of heads, native and in parts, against torch's operations in float64: values and all gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from headgate import native
from headgate.layers import functional
from headgate.layers.functional import adaptive_cross_entropy, linear_cross_entropy
from tests.helpers.levels import levels

SHAPES = [
    (5, 4, 7),
    (1, 1, 1),
    (3, 2, 40),
    (70, 33, 130),
    (2100, 6, 28),
    (65, 64, 257),
    (300, 130, 35),
]  # N, H, V; some with more tokens than a chunk, some large enough for tiles


def arguments(N: int, H: int, V: int) -> tuple[list[Tensor], Tensor]:
    return [torch.randn(s, dtype=torch.float64) for s in ((N, H), (V, H), (V,))], torch.randint(V, (N,))


def mean_and_gradients(values: list[Tensor], targets: Tensor, **options: Any) -> list[Tensor]:
    leaves = [v.detach().requires_grad_() for v in values]
    loss = linear_cross_entropy(*leaves, *[None] * (2 - len(leaves) + 1), targets, **options)
    return [loss.detach(), *torch.autograd.grad(3 * loss, leaves)]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_parity(assert_close, bias: bool, shape: tuple[int, int, int], threads: int) -> None:
    values, targets = arguments(*shape)
    values = values if bias else values[:2]
    expected = mean_and_gradients(values, targets, backend="equations")
    logits = nn.functional.linear(*values)
    losses = nn.functional.cross_entropy(logits, targets, reduction="none")
    torch.set_num_threads(threads)
    for dtype, tolerance in ((torch.float64, 1e-13), (torch.float32, 3e-6)):
        inputs = [v.to(dtype) for v in values]
        for invariant in (True, False):
            actual = mean_and_gradients(inputs, targets, backend="native", batch_invariant=invariant)
            for name, value, other in zip(("loss", "d_states", "d_weight", "d_bias"), actual, expected, strict=False):
                assert value.dtype == dtype
                assert_close(f"{name} ({dtype})", value, other, tolerance * max(float(other.abs().max()), 1.0))
        each = linear_cross_entropy(*inputs, *[None] * (3 - len(inputs)), targets, reduction="none", backend="native")
        assert_close(f"losses ({dtype})", each, losses, tolerance * max(float(losses.max()), 1.0))


def test_same_bits_for_any_number_of_threads() -> None:
    for H in (20, 140):
        values, targets = arguments(1500, H, 101)
        result = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            inputs = [v.float() for v in values]
            result.append(mean_and_gradients(inputs, targets, backend="native", batch_invariant=False))
        for other in result[1:]:
            assert all(map(torch.equal, result[0], other))


@pytest.mark.skipif(len(levels()) < 3, reason="needs AVX2 and AVX-512")
def test_same_bits_with_vectors_of_any_width() -> None:
    values, targets = arguments(300, 20, 101)
    library, best = native.load(), native.load().headgate_level()
    result = []
    for name in ("AVX2", "AVX-512"):
        assert library.headgate_use_level(native.LEVELS.index(name)) == 0
        result.append(mean_and_gradients([v.float() for v in values], targets, backend="native"))
    library.headgate_use_level(best)
    assert all(map(torch.equal, *result))


def test_same_losses_without_gradients() -> None:
    """Without gradients no thread waits for another; the last chunk is shorter, the call long enough to diverge."""
    values, targets = arguments(2950, 4, 4000)
    expected = linear_cross_entropy(*values, targets, reduction="none", backend="native")
    for threads in (2, 3, 4, 5) * 8:
        torch.set_num_threads(threads)
        assert torch.equal(linear_cross_entropy(*values, targets, reduction="none", backend="native"), expected)


def test_only_the_gradients_that_are_needed() -> None:
    (states, weight, bias), targets = arguments(7, 5, 9)
    weight.requires_grad_()
    linear_cross_entropy(states, weight, bias, targets).backward()
    expected = torch.autograd.functional.jacobian(
        lambda w: linear_cross_entropy(states, w, bias, targets, backend="equations"), weight.detach()
    )
    assert (weight.grad - expected).abs().max() < 1e-14


def test_extreme_logits() -> None:
    """Logits that are far apart, equal, infinite or NaN give the losses of torch."""
    for logits in (
        [1e4, -1e4, 0.0],
        [5.0, 5.0, 5.0],
        [torch.inf, 0.0, 1.0],
        [torch.nan, 0.0, 1.0],
        [-torch.inf, 0.0, 1.0],
    ):
        bias = torch.tensor(logits)
        for target in range(3):
            inputs = torch.zeros(1, 2), torch.zeros(3, 2), bias, torch.tensor([target])
            ours, theirs = (linear_cross_entropy(*inputs, backend=backend) for backend in ("native", "equations"))
            assert torch.allclose(ours, theirs, rtol=1e-6, equal_nan=True), (logits, target)


def test_torch_computes_what_the_library_cannot() -> None:
    values, targets = arguments(6, 3, 4)
    leaves = [v.requires_grad_() for v in values]
    assert torch.autograd.gradcheck(lambda *v: linear_cross_entropy(*v, targets), leaves)
    assert torch.autograd.gradgradcheck(lambda *v: linear_cross_entropy(*v, targets), leaves)
    each = linear_cross_entropy(*leaves, targets, reduction="none")
    assert torch.autograd.grad(each[2], leaves)[0][2].any()


class Largest(TorchDispatchMode):
    """Context manager: record the number of elements of the largest tensor that an operation creates."""

    size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = result if isinstance(result, tuple | list) else (result,)
        self.size = max([self.size, *(v.numel() for v in made if isinstance(v, Tensor))])
        return result


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_number_of_logits_in_memory_is_bounded(
    assert_close, monkeypatch: pytest.MonkeyPatch, reduction: str
) -> None:
    """Torch's operations never hold more than LOGITS logits, backward included; the last part is shorter."""
    N, H, V = 37, 3, 50
    values, targets = arguments(N, H, V)
    scale = torch.randn(N, dtype=torch.float64) if reduction == "none" else torch.tensor(3.0, dtype=torch.float64)

    def run(*, most: int) -> list[Tensor]:
        monkeypatch.setattr(functional, "LOGITS", most)
        leaves = [v.detach().requires_grad_() for v in values]
        with Largest() as largest:
            losses = linear_cross_entropy(*leaves, targets, reduction=reduction, backend="torch")
            actual = [losses.detach(), *torch.autograd.grad((losses * scale).sum(), leaves)]
        assert largest.size == most // V * V
        return actual

    whole = run(most=N * V)
    expected = nn.functional.cross_entropy(nn.functional.linear(*values), targets, reduction=reduction)
    assert_close("losses", whole[0], expected, 1e-14)
    for name, value, other in zip(
        ("losses", "d_states", "d_weight", "d_bias"), run(most=5 * V + 1), whole, strict=True
    ):
        assert_close(name, value, other, 1e-14)


def test_parts_can_be_differentiated_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functional, "LOGITS", 9)
    values, targets = arguments(5, 2, 4)
    leaves = [v.requires_grad_() for v in values]
    assert torch.autograd.gradgradcheck(lambda *v: linear_cross_entropy(*v, targets, backend="torch"), leaves)


def test_parts_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recomputation in backward uses the same precision."""
    values, targets = arguments(20, 6, 9)
    result = []
    for most in (10**6, 30):
        monkeypatch.setattr(functional, "LOGITS", most)
        leaves = [v.float().requires_grad_() for v in values]
        with torch.autocast("cpu", torch.bfloat16):
            loss = linear_cross_entropy(*leaves, targets, backend="torch")
        loss.backward()
        result.append([loss.detach(), leaves[0].grad])
    exact = mean_and_gradients(values, targets, backend="equations")
    assert torch.allclose(result[0][0], result[1][0], rtol=1e-6)
    assert torch.equal(result[0][1], result[1][1])
    assert not torch.allclose(result[0][1].double(), exact[1] / 3, rtol=1e-4)


def adaptive_loss(head: nn.AdaptiveLogSoftmaxWithLoss, states: Tensor, targets: Tensor) -> Tensor:
    """The definition, token by token: the first softmax, then that of the target's cluster."""
    losses, starts = [], [0, *head.cutoffs]
    for h, target in zip(states, targets.tolist(), strict=True):
        first = (head.head.weight @ h).log_softmax(0)
        cluster = sum(target >= start for start in starts[1:])
        if cluster == 0:
            losses.append(-first[target])
        else:
            down, up = head.tail[cluster - 1]
            inside = (up.weight @ (down.weight @ h)).log_softmax(0)
            losses.append(-first[starts[1] + cluster - 1] - inside[target - starts[cluster]])
    return torch.stack(losses)


@pytest.mark.parametrize(("N", "most"), [(23, 10**6), (23, 40), (1, 10**6)])
def test_adaptive(assert_close, monkeypatch: pytest.MonkeyPatch, N: int, most: int) -> None:
    """Values and gradients, computed at once and in parts, some of which have one token."""
    monkeypatch.setattr(functional, "LOGITS", most)
    head = nn.AdaptiveLogSoftmaxWithLoss(17, 40, [4, 11]).double()
    states, targets = torch.randn(N, 17, dtype=torch.float64, requires_grad=True), torch.randint(40, (N,))
    leaves = [states, *head.parameters()]
    expected = adaptive_loss(head, states, targets)
    actual = adaptive_cross_entropy(head, states, targets, reduction="none")
    assert_close("losses", actual.detach(), expected.detach(), 1e-13)
    mean = adaptive_cross_entropy(head, states, targets)
    gradients = torch.autograd.grad(expected.mean(), leaves, allow_unused=True)
    for value, other in zip(torch.autograd.grad(mean, leaves), gradients, strict=True):
        assert_close("gradient", value, torch.zeros_like(value) if other is None else other, 1e-13)
    with pytest.raises(RuntimeError, match=r"Target values should be in \[0, 39\]"):
        adaptive_cross_entropy(head, states, targets + 40)


def test_an_adaptive_cluster_without_targets_has_gradients() -> None:
    """They are zero whatever the weights are, and a second run gives the same bits."""
    head = nn.AdaptiveLogSoftmaxWithLoss(17, 40, [4, 11])
    nn.init.constant_(head.tail[1][1].weight, torch.inf)
    states, targets = torch.randn(23, 17), torch.randint(11, (23,))
    result = []
    for _ in range(2):
        head.zero_grad()
        loss = adaptive_cross_entropy(head, states, targets)
        loss.backward()
        result.append([loss.detach(), *(p.grad for p in head.parameters())])
    assert result[0][0].isfinite()
    assert head.tail[0][1].weight.grad.any()
    assert not any(p.grad.any() for p in head.tail[1].parameters())
    assert all(map(torch.equal, *result))


def test_wrong_arguments_are_refused() -> None:
    (states, weight, bias), targets = arguments(6, 3, 4)
    for backend in ("native", "torch"):
        with pytest.raises(RuntimeError, match="targets must be from 0 to 3, got 0 to 4"):
            linear_cross_entropy(states, weight, bias, torch.tensor([0, 1, 2, 3, 4, 0]), backend=backend)
    for wrong in (
        (states[:, :2], weight, bias, targets),
        (states, weight, bias[:3], targets),
        (states, weight, bias, targets[:5]),
    ):
        with pytest.raises(RuntimeError, match=r"states \(N, H\), weight \(V, H\) and targets \(N,\) do not fit"):
            linear_cross_entropy(*wrong)


def test_the_library_is_available() -> None:
    assert native.load() is not None  # otherwise the tests above compare torch with torch
