"""Token ids in files: indexed like an array, of which little is in memory at a time."""

from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np


class StoredIds:
    """The ids of several files, one after the other, or a part of them: ``ids[5:9]`` is a part, ``ids[places]`` arrays.

    Files are memory-mapped when something of them is read, and let go of again after a while: what has been read
    stays resident as long as it is mapped, and over an epoch that would be the whole corpus.
    """

    def __init__(self, files: Sequence[Path], counts: Sequence[int], dtype: np.dtype) -> None:
        """``counts``: the ids in each file."""
        self._files = files
        self._ends = np.cumsum(np.asarray(counts, np.int64))
        self._dtype = dtype
        self._start, self._stop = 0, int(self._ends[-1]) if len(counts) else 0
        self._maps: dict[int, np.ndarray] = {}
        self._read = 0  # rows since the maps were let go of

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
                raise IndexError("a part of stored ids must be without gaps")
            part = StoredIds.__new__(StoredIds)
            part.__dict__ = {**self.__dict__, "_maps": {}, "_start": self._start + start}
            part._stop = max(part._start, self._start + stop)
            return part
        places = np.asarray(index, np.int64)
        if places.size and not 0 <= places.min() <= places.max() < len(self):
            raise IndexError(f"places must be from 0 to {len(self) - 1}, got {places.min()} to {places.max()}")
        places = places + self._start
        shards = np.searchsorted(self._ends, places, side="right")
        found = np.empty(places.shape, self._dtype)
        for shard in np.unique(shards):
            here = shards == shard
            begin = self._ends[shard - 1] if shard else 0
            found[here] = self._map(int(shard))[places[here] - begin]
        self._read += places.size // max(len(places), 1)
        if self._read >= ROWS:
            self._maps.clear()
            self._read = 0
        return found

    def _map(self, shard: int) -> np.ndarray:
        if shard not in self._maps:
            self._maps[shard] = np.memmap(self._files[shard], self._dtype, "r")
        return self._maps[shard]


Ids = np.ndarray | StoredIds
ROWS = 1024  # each makes at most some 64 KiB resident before the maps go
