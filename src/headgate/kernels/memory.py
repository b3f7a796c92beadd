"""A store of memory blocks for the large tensors that every training step allocates and frees.

The operating system maps and clears fresh pages one by one, which takes several times as long as writing the values
does, and a training step that allocates its outputs pays for that on every call. Here a block returns to the store when
its tensor is deleted, and the next tensor of about that size reuses it, already mapped.
"""

import contextlib
import math
import mmap
import weakref
from collections.abc import Sequence

import torch
from torch import Tensor

SMALLEST = 1 << 16  # bytes; the system's allocator reuses smaller blocks itself
HUGE = 1 << 21  # bytes of a huge page
IDLE = 256  # a size not requested within this many requests is released

_PRIVATE = getattr(mmap, "MAP_PRIVATE", 0) | getattr(mmap, "MAP_ANONYMOUS", 0)  # 0 on Windows


class _Size:
    """The unused blocks of one size."""

    def __init__(self) -> None:
        self.free: list[mmap.mmap] = []
        self.asked = 0


_sizes: dict[int, _Size] = {}
_lent: dict[int, tuple[weakref.ref[memoryview], _Size, mmap.mmap]] = {}  # by the identity of the reference
_asked = 0


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Allocate an uninitialized CPU tensor, like ``torch.empty``; a large one borrows its memory from the store."""
    count = math.prod(shape)
    if count * dtype.itemsize < SMALLEST or not _PRIVATE:
        return torch.empty(shape, dtype=dtype, device="cpu")  # explicit, in case another device is the default
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
    """Round up to a multiple of an eighth of the power of two below, and to whole pages."""
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
