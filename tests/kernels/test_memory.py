"""The store of memory for tensors: it is lent and taken back."""

import gc
import os

import pytest
import torch

from headgate import GRU
from headgate.kernels import memory

LARGE = memory.SMALLEST // 4  # elements, float32

pytestmark = pytest.mark.skipif(not memory._PRIVATE, reason="the system has no private anonymous mappings")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_empty_tensor_is_usable(dtype: torch.dtype) -> None:
    result = memory.empty((3, LARGE), dtype)
    assert result.shape == (3, LARGE)
    assert result.dtype == dtype
    assert result.is_contiguous()
    assert result.data_ptr() % 64 == 0
    result.copy_(torch.arange(3 * LARGE).view(3, LARGE))
    assert torch.equal(result.clone().flatten(), torch.arange(3 * LARGE).to(dtype))


def test_only_unused_memory_is_lent_again() -> None:
    first = memory.empty((LARGE + 1,), torch.float32)
    place = first.data_ptr()
    part = first[5:]  # a view keeps the memory in use
    del first
    gc.collect()
    other = memory.empty((LARGE + 1,), torch.float32)
    assert other.data_ptr() != place
    del part
    assert memory.empty((LARGE + 2,), torch.float32).data_ptr() == place  # a similar size


def test_small_and_empty_tensors_come_from_torch() -> None:
    before = len(memory._lent)
    tensors = [memory.empty(shape, torch.float32) for shape in ((0,), (5, 0), (LARGE - 1,))]
    assert len(memory._lent) == before
    assert [tuple(v.shape) for v in tensors] == [(0,), (5, 0), (LARGE - 1,)]


def test_memory_unused_for_long_is_released() -> None:
    size = memory._rounded(7 * LARGE * 4)
    tensor = memory.empty((7 * LARGE,), torch.float32)
    del tensor
    assert memory._sizes[size].free
    for _ in range(2 * memory.IDLE):
        memory.empty((LARGE,), torch.float32)
    assert not memory._sizes[size].free


@pytest.mark.parametrize("size", [memory.SMALLEST, 100_000, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_sizes_are_rounded_up_by_at_most_an_eighth(size: int) -> None:
    result = memory._rounded(size)
    assert size <= result <= size * 1.125 + memory.mmap.PAGESIZE
    assert result % memory.mmap.PAGESIZE == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
def test_a_fork_has_separate_memory() -> None:
    tensor = memory.empty((LARGE,), torch.float32).fill_(1)
    if not (child := os.fork()):
        tensor.fill_(2)
        os._exit(0)
    os.waitpid(child, 0)
    assert bool((tensor == 1).all())


def test_kept_outputs_and_gradients_do_not_change() -> None:
    """Each call uses separate memory while results of earlier calls are alive."""
    torch.manual_seed(0)
    layer, inputs = GRU(9, 130), [torch.randn(40, 8, 9) for _ in range(4)]
    expected = [layer(x)[0].detach().clone() for x in inputs]
    kept = [layer(x)[0] for x in inputs]
    gradients = [torch.autograd.grad(states.square().sum(), layer.weight_hh_l0)[0] for states in kept]
    copies = [g.clone() for g in gradients]
    for x in inputs:
        layer(x)[0].sum().backward()
    for pairs in (zip(kept, expected, strict=True), zip(gradients, copies, strict=True)):
        assert all(torch.equal(actual.detach(), other) for actual, other in pairs)
