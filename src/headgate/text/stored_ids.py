"""Token ids in files, indexed like an array, with little of them in memory at a time."""

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np


class StoredIds:
    """The concatenated ids of several files, or a part of them.

    ``ids[5:9]`` is a part, again StoredIds; ``ids[places]`` is an array. Files are memory-mapped when they are first
    read. Their pages are released every few rows: pages that were read stay resident as long as they are mapped, and
    over an epoch that would be the whole corpus.
    """

    def __init__(self, files: Sequence[Path], counts: Sequence[int], dtype: np.dtype) -> None:
        """``counts``: the number of ids in each file."""
        self._files = files
        self._ends = np.cumsum(np.asarray(counts, np.int64))
        self._dtype = dtype
        self._start, self._stop = 0, int(self._ends[-1]) if len(counts) else 0
        self._maps: dict[int, mmap.mmap] = {}
        self._read = 0  # rows read since the pages were released

    def __len__(self) -> int:
        return self._stop - self._start

    @overload
    def __getitem__(self, index: slice) -> "StoredIds": ...
    @overload
    def __getitem__(self, index: np.ndarray) -> np.ndarray: ...
    def __getitem__(self, index: slice | np.ndarray) -> "StoredIds | np.ndarray":
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                raise IndexError(f"a slice of stored ids must have step 1, got {step}")
            part = StoredIds.__new__(StoredIds)
            part.__dict__ = {**self.__dict__, "_maps": {}, "_start": self._start + start}
            part._stop = max(part._start, self._start + stop)
            return part
        places = np.asarray(index, np.int64)
        if places.size and not 0 <= places.min() <= places.max() < len(self):
            raise IndexError(f"places must be from 0 to {len(self) - 1}, got {places.min()} to {places.max()}")
        places = places + self._start
        shards = np.searchsorted(self._ends, places, side="right")
        ids = np.empty(places.shape, self._dtype)
        for shard in np.unique(shards):
            here = shards == shard
            begin = self._ends[shard - 1] if shard else 0
            ids[here] = self._map(int(shard))[places[here] - begin]
        self._read += places.size // max(len(places), 1)
        if self._read >= ROWS:
            self._let_go()
        return ids

    def _map(self, shard: int) -> np.ndarray:
        if shard not in self._maps:
            with self._files[shard].open("rb") as file:
                self._maps[shard] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.frombuffer(self._maps[shard], self._dtype)

    def _let_go(self) -> None:
        """Release the pages that were read; the system may keep them in its cache while memory is free."""
        self._read = 0
        if len(self._maps) > MAPS or not hasattr(mmap, "MADV_DONTNEED"):
            self._maps.clear()
        for pages in self._maps.values():
            pages.madvise(mmap.MADV_DONTNEED)


Ids = np.ndarray | StoredIds
ROWS = 64  # with large pages in the system's cache, each row makes up to two megabytes resident, whatever its length
MAPS = 256  # systems limit the mappings of a process, to about 65,000 on Linux
