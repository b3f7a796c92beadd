"""linear_cross_entropy(): the native head against torch's own operations in float64, values and all gradients."""

import pytest
import torch
from torch import Tensor, nn

from headgate.functional import linear_cross_entropy
from headgate.kernels import native
from tests.levels import levels

SHAPES = [
    (5, 4, 7),
    (1, 1, 1),
    (3, 2, 40),
    (70, 33, 130),
    (2100, 6, 28),
    (65, 64, 257),
]  # N, H, V; more tokens than a chunk


def arguments(N: int, H: int, V: int) -> tuple[list[Tensor], Tensor]:
    return [torch.randn(s, dtype=torch.float64) for s in ((N, H), (V, H), (V,))], torch.randint(V, (N,))


def mean_and_gradients(values: list[Tensor], targets: Tensor, **options: str) -> list[Tensor]:
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
        given = [v.to(dtype) for v in values]
        found = mean_and_gradients(given, targets, backend="cpu")
        for name, value, other in zip(("loss", "d_states", "d_weight", "d_bias"), found, expected, strict=False):
            assert value.dtype == dtype
            assert_close(f"{name} ({dtype})", value, other, tolerance * max(float(other.abs().max()), 1.0))
        each = linear_cross_entropy(*given, *[None] * (3 - len(given)), targets, reduction="none", backend="cpu")
        assert_close(f"losses ({dtype})", each, losses, tolerance * max(float(losses.max()), 1.0))


def test_same_bits_for_any_number_of_threads() -> None:
    values, targets = arguments(1500, 20, 101)
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(mean_and_gradients([v.float() for v in values], targets, backend="cpu"))
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


@pytest.mark.skipif(len(levels()) < 3, reason="needs AVX2 and AVX-512")
def test_same_bits_with_vectors_of_any_width() -> None:
    values, targets = arguments(300, 20, 101)
    library, best = native.load(), native.load().headgate_level()
    found = []
    for name in ("AVX2", "AVX-512"):
        assert library.headgate_use_level(native.LEVELS.index(name)) == 0
        found.append(mean_and_gradients([v.float() for v in values], targets, backend="cpu"))
    library.headgate_use_level(best)
    assert all(map(torch.equal, *found))


def test_same_losses_without_gradients() -> None:
    """Then no thread waits for another; the last chunk of tokens is shorter, a call long enough for threads to part."""
    values, targets = arguments(2950, 4, 4000)
    expected = linear_cross_entropy(*values, targets, reduction="none", backend="cpu")
    for threads in (2, 3, 4, 5) * 8:
        torch.set_num_threads(threads)
        assert torch.equal(linear_cross_entropy(*values, targets, reduction="none", backend="cpu"), expected)


def test_only_the_gradients_that_are_needed() -> None:
    (states, weight, bias), targets = arguments(7, 5, 9)
    weight.requires_grad_()
    linear_cross_entropy(states, weight, bias, targets).backward()
    expected = torch.autograd.functional.jacobian(
        lambda w: linear_cross_entropy(states, w, bias, targets, backend="equations"), weight.detach()
    )
    assert (weight.grad - expected).abs().max() < 1e-14


def test_extreme_logits() -> None:
    """Far apart, equal, infinite and not a number, as torch has them."""
    for logits in (
        [1e4, -1e4, 0.0],
        [5.0, 5.0, 5.0],
        [torch.inf, 0.0, 1.0],
        [torch.nan, 0.0, 1.0],
        [-torch.inf, 0.0, 1.0],
    ):
        bias = torch.tensor(logits)
        for target in range(3):
            given = torch.zeros(1, 2), torch.zeros(3, 2), bias, torch.tensor([target])
            ours, theirs = (linear_cross_entropy(*given, backend=backend) for backend in ("cpu", "equations"))
            assert torch.allclose(ours, theirs, rtol=1e-6, equal_nan=True), (logits, target)


def test_what_the_library_does_not_do_torch_does() -> None:
    values, targets = arguments(6, 3, 4)
    leaves = [v.requires_grad_() for v in values]
    assert torch.autograd.gradcheck(lambda *v: linear_cross_entropy(*v, targets), leaves)
    assert torch.autograd.gradgradcheck(lambda *v: linear_cross_entropy(*v, targets), leaves)
    each = linear_cross_entropy(*leaves, targets, reduction="none")
    assert torch.autograd.grad(each[2], leaves)[0][2].any()


def test_wrong_arguments() -> None:
    (states, weight, bias), targets = arguments(6, 3, 4)
    with pytest.raises(RuntimeError, match="targets must be from 0 to 3, got 0 to 4"):
        linear_cross_entropy(states, weight, bias, torch.tensor([0, 1, 2, 3, 4, 0]))
    for wrong in (
        (states[:, :2], weight, bias, targets),
        (states, weight, bias[:3], targets),
        (states, weight, bias, targets[:5]),
    ):
        with pytest.raises(RuntimeError, match=r"states \(N, H\), weight \(V, H\) and targets \(N,\) do not fit"):
            linear_cross_entropy(*wrong)


def test_the_library_is_there() -> None:
    assert native.load() is not None  # or the tests above compare torch with torch
