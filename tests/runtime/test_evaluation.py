"""Every token predicted once, however the text is cut; the state carried; the mean over tokens, and what follows."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.errors import InputError
from headgate.runtime.evaluation import Evaluation, bits_per_character, evaluate, perplexity

thorough = settings(deadline=None, max_examples=150)


class Recorder:
    """Losses that say which pair was predicted, of a text whose ids are their own places; the state is the last y."""

    def __init__(self, N: int) -> None:
        self.nats = np.random.default_rng(N).normal(size=N)  # of the prediction behind each place
        self.pairs: Counter[tuple[int, int]] = Counter()
        self.shapes: list[tuple[int, int]] = []

    def __call__(self, x, y, state):
        assert x.shape == y.shape
        assert (state is None) == (not self.shapes)
        if state is not None:  # each row goes on, or it is at the text's end and padded
            assert ((x[0] == state) | (x[0] == len(self.nats) - 1)).all()
        self.pairs.update(zip(x.flatten().tolist(), y.flatten().tolist(), strict=True))
        self.shapes.append(x.shape)
        return self.nats[x], y[-1]


@thorough
@given(N=st.integers(1, 60), rows=st.integers(0, 9), steps=st.integers(1, 20))
def test_no_token_is_dropped_or_repeated(N, rows, steps):
    losses = Recorder(N)
    result = evaluate(losses, np.arange(N + 1), rows=rows, steps=steps)
    text = Counter((i, i + 1) for i in range(N))
    assert not text - losses.pairs
    assert set(losses.pairs - text) <= {(N - 1, N)}  # rows that end early are padded with the last pair
    assert result.tokens == N
    assert result.loss == pytest.approx(losses.nats.mean(), abs=1e-12)  # and the padding does not count
    assert {R for _, R in losses.shapes} == {rows or 1}
    assert max(T for T, _ in losses.shapes) <= steps
    assert sum(T for T, _ in losses.shapes) == -(-N // (rows or 1))


def test_rows_are_pieces_of_the_text_side_by_side():
    seen = []

    def losses(x, y, state):
        seen.append((x.T.tolist(), y.T.tolist()))
        return np.zeros(x.shape), 0

    evaluate(losses, np.array([7, 3, 9, 4, 8, 1, 6]), rows=2, steps=2)
    assert seen == [
        ([[7, 3], [4, 8]], [[3, 9], [8, 1]]),
        ([[9], [1]], [[4], [6]]),
    ]


@pytest.mark.parametrize(
    ("N", "rows"), [(1, 1), (511, 1), (1_023, 1), (1_024, 2), (5_000, 9), (16_383, 31), (16_384, 32), (60_000, 32)]
)
def test_a_row_for_every_512_tokens_at_most_32(N, rows):
    losses = Recorder(N)
    assert evaluate(losses, np.arange(N + 1)).loss == pytest.approx(losses.nats.mean(), abs=1e-12)
    assert {R for _, R in losses.shapes} == {rows}
    assert {T for T, _ in losses.shapes[:-1]} <= {128}


def test_the_mean_is_over_tokens_not_over_chunks_or_rows():
    nats = {1: 1.0, 2: 2.0, 3: 4.0, 4: 8.0, 5: 100.0}

    def losses(x, y, state):
        return np.vectorize(nats.get)(y), None

    text = np.array([0, 1, 2, 3, 4, 5])
    for rows, steps in ((1, 4), (1, 5), (2, 2), (3, 1), (5, 9)):
        result = evaluate(losses, text, rows=rows, steps=steps)
        assert result.loss == 23.0
        assert result.perplexity == pytest.approx(math.exp(23))  # of the mean, not a mean of exponentials


def counting(x, y, state):
    """Losses that are how many tokens of its row came before."""
    before = np.zeros(x.shape[1]) if state is None else state
    return before + np.arange(len(x))[:, None], before + len(x)


@pytest.mark.parametrize("steps", [1, 3, 7, 50, 51, 999])
def test_in_one_row_every_token_has_all_the_text_before_it(steps):
    assert evaluate(counting, np.zeros(52, int), rows=1, steps=steps).loss == 25.0  # 0, 1, ..., 50


@pytest.mark.parametrize("steps", [1, 3, 7, 50])
def test_the_state_starts_anew_in_each_row_and_is_carried_through_it(steps):
    # 51 predictions in 4 rows: three of 13, one of 12
    expected = (3 * sum(range(13)) + sum(range(12))) / 51
    assert evaluate(counting, np.zeros(52, int), rows=4, steps=steps).loss == pytest.approx(expected)


def test_what_is_computed_for_the_padding_is_not_looked_at():
    nan = math.nan

    def losses(x, y, state):
        assert x.shape == (2, 4)
        return np.array([[1.0, 2.0, 3.0, nan], [4.0, 5.0, nan, nan]]), None

    assert evaluate(losses, np.arange(6), rows=4).loss == 3.0


def test_float32_losses_are_added_in_float64():
    def losses(x, y, state):
        return np.array([[2.0**24], [1.0], [1.0], [1.0]], np.float32), None

    assert evaluate(losses, np.arange(5)).loss == (2.0**24 + 3) / 4


def test_a_loss_that_is_no_number_is_told():
    assert math.isnan(evaluate(lambda x, y, state: (np.full(x.shape, np.nan), None), np.arange(9)).perplexity)


@pytest.mark.parametrize("length", [0, 1])
def test_a_text_too_short(length):
    with pytest.raises(InputError, match=f"^evaluation needs a text of at least two tokens, got {length}$"):
        evaluate(counting, np.arange(length))


def test_perplexity():
    assert perplexity(0.0) == 1.0
    assert perplexity(math.log(7)) == pytest.approx(7)
    assert perplexity(709.0) < math.inf
    assert perplexity(1e9) == math.inf
    assert perplexity(math.inf) == math.inf
    assert math.isnan(perplexity(math.nan))


def test_bits_per_character():
    assert bits_per_character(3 * math.log(2)) == pytest.approx(3)
    assert bits_per_character(3 * math.log(2), 0.5) == pytest.approx(6)


def test_what_follows_from_the_loss():
    result = evaluate(lambda x, y, state: (np.full(x.shape, math.log(8)), None), np.arange(4), characters_per_token=2.0)
    assert result == Evaluation(pytest.approx(math.log(8)), 3, 2.0)
    assert result.perplexity == pytest.approx(8)
    assert result.bits_per_character == pytest.approx(1.5)
    assert Evaluation(1e9, 5).perplexity == math.inf
