"""Ids in files can be read like an array, and do not stay in memory."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.text import stored_ids as stored
from headgate.text.stored_ids import StoredIds


def store(folder, counts, dtype="<u2"):
    """Write one file per count with that many ids; return them as StoredIds and as one array."""
    whole = np.random.default_rng(3).integers(0, 200, sum(counts)).astype(dtype)
    files = [folder / f"{number}.bin" for number in range(len(counts))]
    for file, part in zip(files, np.split(whole, np.cumsum(counts)[:-1]), strict=True):
        file.write_bytes(part.tobytes())
    return StoredIds(files, counts, np.dtype(dtype)), whole


@settings(deadline=None, max_examples=60)
@given(data=st.data(), dtype=st.sampled_from(["<u1", "<u2", "<u4"]))
def test_read_as_an_array(data, dtype, tmp_path_factory):
    counts = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    ids, whole = store(tmp_path_factory.mktemp("ids"), counts, dtype)
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(whole))] * 2)))
    part = ids[start:stop]
    assert len(ids) == len(whole)
    assert len(part) == stop - start
    if not len(part):
        return
    places = np.array(data.draw(st.lists(st.integers(0, len(part) - 1), min_size=6, max_size=6))).reshape(3, 2)
    result = part[places]
    assert (result.dtype, result.shape) == (np.dtype(dtype), (3, 2))
    assert np.array_equal(result, whole[start:stop][places])
    again = part[1:][:2]
    assert np.array_equal(again[np.arange(len(again))], whole[start:stop][1:][:2])


def test_positions_outside_are_refused(tmp_path):
    ids, _ = store(tmp_path, [3, 4])
    for places, part in (([7], ids), ([-1], ids), ([2], ids[1:3])):
        with pytest.raises(IndexError, match="places must be from 0 to "):
            part[np.array(places)]
    with pytest.raises(IndexError, match="must have step 1, got"):
        ids[::2]


def test_pages_of_files_are_released(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "ROWS", 5)
    monkeypatch.setattr(stored, "MAPS", 2)
    ids, whole = store(tmp_path, [3, 4, 5])
    ids[np.array([[0, 4], [1, 5]])]  # two rows
    assert len(ids._maps) == 2
    ids[np.array([[8, 9, 10]])]
    assert len(ids._maps) == 0
    assert np.array_equal(ids[np.arange(12)], whole)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_ids_that_were_read_do_not_stay_resident(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "ROWS", 4)

    def resident() -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssFile"))

    ids, whole = store(tmp_path, [4 << 20] * 12)  # 96 MiB
    ids[np.arange(3)]
    before = resident()
    for start in range(0, len(ids) - 2, 100_003):
        assert np.array_equal(ids[np.array([[start], [start + 1]])][:, 0], whole[start : start + 2])
        assert resident() - before < 30
