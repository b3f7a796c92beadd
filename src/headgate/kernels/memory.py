"""Memory for large tensors that come and go with every step, kept for the next one.

The system gives a process fresh pages one by one, each cleared, at several times the cost of writing the numbers: a
training step that allocates its outputs anew pays for that at every call. Here a block goes back to a store when its
tensor is gone, and the next tensor of about that size finds it mapped.
"""

import contextlib
import math
import mmap
import weakref
from collections.abc import Sequence

import torch
from torch import Tensor

SMALLEST = 1 << 16  # bytes; below, the allocator of the system keeps what it has
HUGE = 1 << 21  # bytes of a huge page
IDLE = 256  # a size that was not asked for this often is given up

_PRIVATE = getattr(mmap, "MAP_PRIVATE", 0) | getattr(mmap, "MAP_ANONYMOUS", 0)  # 0 on Windows


class _Size:
    """The blocks of one size that no tensor uses."""

    def __init__(self) -> None:
        self.free: list[mmap.mmap] = []
        self.asked = 0


_sizes: dict[int, _Size] = {}
_lent: dict[int, tuple[weakref.ref[memoryview], _Size, mmap.mmap]] = {}  # by the identity of the reference
_asked = 0


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """As ``torch.empty`` on the CPU. The memory of a large tensor is lent from the store, for as long as it lives."""
    count = math.prod(shape)
    if count * dtype.itemsize < SMALLEST or not _PRIVATE:
        return torch.empty(shape, dtype=dtype, device="cpu")  # also where another device is the default
    size = _rounded(count * dtype.itemsize)
    kept = _sizes.setdefault(size, _Size())
    _give_up_idle(kept)
    try:
        block = kept.free.pop()
    except IndexError:
        block = mmap.mmap(-1, size, flags=_PRIVATE)
        if size >= HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel without huge pages
                block.madvise(mmap.MADV_HUGEPAGE)
    lease = memoryview(block)  # the tensor's storage holds it
    gone = weakref.ref(lease, _take_back)
    _lent[id(gone)] = gone, kept, block
    return torch.frombuffer(lease, dtype=dtype, count=count).view(shape)


def _take_back(gone: weakref.ref[memoryview]) -> None:
    _, kept, block = _lent.pop(id(gone))
    kept.free.append(block)


def _rounded(size: int) -> int:
    """To an eighth of the power of two below, and to whole pages."""
    step = max(mmap.PAGESIZE, 1 << (size.bit_length() - 4))
    return -(-size // step) * step


def _give_up_idle(kept: _Size) -> None:
    global _asked
    _asked += 1
    kept.asked = _asked
    if _asked % IDLE == 0:
        for other in list(_sizes.values()):
            if _asked - other.asked >= IDLE:
                other.free.clear()
