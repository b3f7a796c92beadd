"""Batches: the book's layout, the tokens of an epoch, seeds and offsets, and the shares of several processes."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.errors import InputError
from headgate.settings.run import TrainingSettings
from headgate.text.batches import Batches
from headgate.text.permutation import permuted

thorough = settings(deadline=None, max_examples=150)


def make(N: int, B: int, T: int, partition="sequential", *, random_offset=False, seed=0, **shares) -> Batches:
    """Make batches of the text 0, 1, 2, ...: every id is its own position."""
    return Batches(np.arange(N, dtype=np.int32), B, T, partition, random_offset, seed, **shares)


def epoch_of(batches: Batches, epoch: int) -> list[np.ndarray]:
    return [batches.at(epoch, step).x for step in range(batches.per_epoch)]


def book_sequential(ids, B, T, offset):
    """Return the book's sequential partition: B rows, cut into columns of T steps."""
    length = (len(ids) - offset - 1) // B
    X = ids[offset : offset + B * length].reshape(B, length)
    Y = ids[offset + 1 : offset + 1 + B * length].reshape(B, length)
    for i in range(0, length // T * T, T):
        yield X[:, i : i + T], Y[:, i : i + T]


def offsets_of(partition: str, random_offset: bool, T: int) -> int:
    """Return the number of possible offsets of an epoch, including 0."""
    if partition == "random":
        return T
    return T + 1 if random_offset else 1


def largest_offset(batches: Batches) -> int:
    return offsets_of(batches.partition, batches.random_offset, batches.T) - 1


@st.composite
def some_batches(draw, **fixed):
    """Draw batches of any shape and partition, for a text whose end may not fill a batch."""
    B, T = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    partition = fixed.get("partition") or draw(st.sampled_from(["sequential", "random"]))
    random_offset = fixed["random_offset"] if "random_offset" in fixed else draw(st.booleans())
    N = draw(st.integers(1, 4)) * B * T + offsets_of(partition, random_offset, T) + draw(st.integers(0, 2 * B * T - 1))
    return make(N, B, T, partition, random_offset=random_offset, seed=draw(st.integers(0, 99)))


# The layout


def test_the_sequential_layout_by_hand():
    ids = np.array([9, 3, 5, 0, 7, 2, 8, 1, 6, 4, 11, 10, 15, 13, 12, 14, 17, 16])
    batches = Batches(ids, B=3, T=2, partition="sequential", random_offset=False, seed=4)
    assert (batches.per_epoch, batches.tokens) == (2, 6)
    first, second = batches.at(0, 0), batches.at(0, 1)  # rows of (18 - 1) // 3 = 5 tokens
    assert first.x.T.tolist() == [[9, 3], [2, 8], [11, 10]]
    assert first.y.T.tolist() == [[3, 5], [8, 1], [10, 15]]
    assert second.x.T.tolist() == [[5, 0], [1, 6], [15, 13]]
    assert second.y.T.tolist() == [[0, 7], [6, 4], [13, 12]]
    assert (first.carry, second.carry) == (False, True)
    assert first.x.dtype == first.y.dtype == np.int64
    assert batches.at(7, 1).x.tolist() == second.x.tolist()  # the same in every epoch


def test_the_random_layout_by_hand():
    batches = make(3 * 2 * 4 + 4, B=3, T=4, partition="random", seed=1)
    starts = [x[0].tolist() for x in epoch_of(batches, 5)]
    drawn = [start for row in starts for start in row]
    assert 0 <= min(drawn) < 4
    assert sorted(drawn) == [min(drawn) + 4 * piece for piece in range(6)]  # every piece once
    assert drawn != sorted(drawn)
    assert [x.T.tolist() for x in epoch_of(batches, 5)] == [
        [[start, start + 1, start + 2, start + 3] for start in row] for row in starts
    ]


@thorough
@given(batches=some_batches(partition="sequential"), epoch=st.integers(0, 30))
def test_sequential_batches_are_the_books(batches, epoch):
    offset = int(batches.at(epoch, 0).x[0, 0])
    assert 0 <= offset <= largest_offset(batches)
    book = list(book_sequential(batches.ids, batches.B, batches.T, offset))
    assert len(book) - batches.per_epoch in ((0, 1) if batches.random_offset else (0,))
    for step, (X, Y) in zip(range(batches.per_epoch), book, strict=False):
        batch = batches.at(epoch, step)
        np.testing.assert_array_equal(batch.x.T, X)
        np.testing.assert_array_equal(batch.y.T, Y)


@thorough
@given(batches=some_batches(), epoch=st.integers(0, 30))
def test_an_epoch_predicts_every_token_at_most_once(batches, epoch):
    used = []
    for step in range(batches.per_epoch):
        batch = batches.at(epoch, step)
        assert batch.x.shape == batch.y.shape == (batches.T, batches.B)
        np.testing.assert_array_equal(batch.y, batch.x + 1)
        np.testing.assert_array_equal(batch.x, batch.x[0] + np.arange(batches.T)[:, None])
        assert batch.carry == (batches.partition == "sequential" and step > 0)
        used += batch.x.flatten().tolist()
    assert len(set(used)) == len(used) == batches.per_epoch * batches.tokens
    assert max(used) + 1 < len(batches.ids)
    predictable = len(batches.ids) - 1 - largest_offset(batches)  # for every offset
    assert 0 <= predictable - len(used) < batches.tokens  # the rest would not fill a batch


@thorough
@given(batches=some_batches(partition="sequential"), epoch=st.integers(0, 30))
def test_a_carried_row_continues_where_it_stopped(batches, epoch):
    for step in range(1, batches.per_epoch):
        np.testing.assert_array_equal(batches.at(epoch, step).x[0], batches.at(epoch, step - 1).y[-1])


@thorough
@given(batches=some_batches(partition="random"), epoch=st.integers(0, 30))
def test_random_batches_are_pieces_of_one_cut(batches, epoch):
    starts = np.concatenate([x[0] for x in epoch_of(batches, epoch)])
    assert len(set((starts % batches.T).tolist())) == 1
    assert len(set(starts.tolist())) == len(starts)


# Seeds, epochs, offsets


@thorough
@given(batches=some_batches(), data=st.data())
def test_seed_epoch_and_step_alone_determine_a_batch(batches, data):
    places = st.tuples(st.integers(0, 5), st.integers(0, batches.per_epoch - 1))
    asked = data.draw(st.lists(places, min_size=1, max_size=6))
    for epoch, step in asked:  # in any order, repeatedly
        fresh = dataclasses.replace(batches)
        np.testing.assert_array_equal(batches.at(epoch, step).x, fresh.at(epoch, step).x)
        np.testing.assert_array_equal(batches.at(epoch, step).y, fresh.at(epoch, step).y)


def order_of(batches: Batches, epoch: int) -> list[int]:
    """Return the order of the pieces of a random partition, for any offset. Fails if a piece is missing."""
    starts = np.concatenate([x[0] for x in epoch_of(batches, epoch)])
    order = ((starts - starts.min()) // batches.T).tolist()
    assert sorted(order) == list(range(len(order)))
    return order


def test_random_epochs_and_seeds_differ():
    batches = make(4 * 5 * 10 + 5, B=4, T=5, partition="random", seed=3)
    orders = [order_of(batches, epoch) for epoch in range(12)]  # every offset occurs twice
    orders += [order_of(dataclasses.replace(batches, seed=4), epoch) for epoch in range(12)]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])
    assert order_of(dataclasses.replace(batches), 2) == orders[2]


@pytest.mark.parametrize(("partition", "random_offset"), [("sequential", True), ("random", True), ("random", False)])
def test_every_offset_is_used_once_in_random_order_before_any_is_used_again(partition, random_offset):
    n = offsets_of(partition, random_offset, T=7)
    batches = make(2 * 3 * 7 + n, B=3, T=7, partition=partition, random_offset=random_offset, seed=6)
    assert batches.per_epoch == 2
    offsets = [min(int(x.min()) for x in epoch_of(batches, epoch)) for epoch in range(60 * n)]
    rounds = [offsets[i : i + n] for i in range(0, 60 * n, n)]
    assert all(sorted(order) == list(range(n)) for order in rounds)
    assert len({tuple(order) for order in rounds}) > 55  # of 60, nearly all distinct
    counts = np.bincount([order[0] for order in rounds], minlength=n)
    assert counts.max() < 60 / n + 4 * np.sqrt(60 / n)


def test_without_a_random_offset_every_epoch_starts_at_the_first_token():
    batches = make(50, B=3, T=7)
    assert {int(batches.at(epoch, 0).x[0, 0]) for epoch in range(20)} == {0}


# Several processes


@pytest.mark.parametrize("partition", ["sequential", "random"])
@pytest.mark.parametrize("world_size", [2, 3])
def test_the_rows_of_all_processes_make_the_batch(partition, world_size):
    whole = make(200, B=6, T=5, partition=partition, random_offset=True, seed=8)
    shares = [dataclasses.replace(whole, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert {share.per_epoch for share in shares} == {whole.per_epoch}
    assert {share.tokens for share in shares} == {30}
    for epoch in range(3):
        for step in range(whole.per_epoch):
            batch, parts = whole.at(epoch, step), [share.at(epoch, step) for share in shares]
            for rank, part in enumerate(parts):
                assert part.x.shape == (5, 6 // world_size)
                np.testing.assert_array_equal(part.x, batch.x[:, rank::world_size])
                np.testing.assert_array_equal(part.y, batch.y[:, rank::world_size])
                assert part.carry == batch.carry


def test_a_batch_that_cannot_be_shared_evenly():
    with pytest.raises(InputError, match=r"^a batch of 7 cannot be shared evenly by 2 processes$"):
        make(100, B=7, T=3, world_size=2)


# Errors


@pytest.mark.parametrize("partition", ["sequential", "random"])
@pytest.mark.parametrize("random_offset", [False, True])
@pytest.mark.parametrize(("B", "T"), [(1, 1), (4, 1), (1, 5), (3, 7)])
def test_a_text_that_is_too_short_reports_the_tokens_needed(partition, random_offset, B, T):
    needed = B * T + offsets_of(partition, random_offset, T)
    for length in (0, 1, needed - 1):
        with pytest.raises(InputError) as caught:
            make(length, B, T, partition, random_offset=random_offset)
        assert str(caught.value) == (
            f"the training text has {length} tokens, but one batch of {B} sequences of {T} steps needs {needed}: "
            "give more text, or lower --batch-size or --sequence-length"
        )
    enough = make(needed, B, T, partition, random_offset=random_offset)
    assert enough.per_epoch == 1
    for epoch in range(30):  # with every offset
        assert enough.at(epoch, 0).y.max() < needed


@pytest.mark.parametrize("step", [-1, 2])
def test_a_step_that_is_not_in_the_epoch(step):
    with pytest.raises(IndexError, match=f"^step must be from 0 to 1, got {step}$"):
        make(18, B=3, T=2).at(0, step)


def test_the_settings_of_a_run():
    chosen = TrainingSettings(batch_size=6, sequence_length=4, partition="random", random_offset=False, seed=5)
    result = Batches.of(np.arange(80), chosen, rank=1, world_size=2)
    expected = make(80, B=6, T=4, partition="random", seed=5, rank=1, world_size=2)
    np.testing.assert_array_equal(result.at(3, 1).x, expected.at(3, 1).x)
    assert (result.B, result.T, result.partition, result.random_offset, result.seed) == (6, 4, "random", False, 5)
    assert Batches.of(np.arange(80), chosen).world_size == 1


@pytest.mark.parametrize("n", [40_000, 100_003, 3_000_017])
def test_long_shuffles_are_shuffles(n: int) -> None:
    """Each position occurs once; another key gives another order; neighbours and halves are uncorrelated."""
    places = np.arange(min(n, 200_000))
    first, second = (permuted(places, n, (key, 1)) for key in (5, 6))
    assert len(np.unique(first)) == len(places)
    assert first.min() >= 0
    assert first.max() < n
    assert np.mean(first == second) < 1e-3
    assert np.array_equal(first[7:9], permuted(places[7:9], n, (5, 1)))
    for lag in (1, 2, 64):
        assert abs(np.corrcoef(first[:-lag], first[lag:])[0, 1]) < 0.02
    assert abs(np.corrcoef(places, first)[0, 1]) < 0.02
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02
    low_bits = np.bincount(first & 7, minlength=8) / len(first)
    assert abs(low_bits - 1 / 8).max() < 0.01
