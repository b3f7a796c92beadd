"""Evaluation: each token is predicted once, the state is carried on, and the mean is over tokens."""

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
    """A loss function that records the predicted pairs of a text with ids 0, 1, 2, ...; its state is the last y."""

    def __init__(self, N: int) -> None:
        self.nats = np.random.default_rng(N).normal(size=N)  # the loss of the prediction after each id
        self.pairs: Counter[tuple[int, int]] = Counter()
        self.shapes: list[tuple[int, int]] = []

    def __call__(self, x, y, state):
        assert x.shape == y.shape
        assert (state is None) == (not self.shapes)
        if state is not None:  # each row continues, or is padded with the end of the text
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
    assert result.loss == pytest.approx(losses.nats.mean(), abs=1e-12)  # without the padding
    assert {R for _, R in losses.shapes} == {rows or 1}
    assert max(T for T, _ in losses.shapes) <= steps
    assert sum(T for T, _ in losses.shapes) == -(-N // (rows or 1))


def test_rows_are_consecutive_pieces_of_the_text():
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
def test_one_row_per_512_tokens_at_most_32(N, rows):
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
        assert result.perplexity == pytest.approx(math.exp(23))  # exp of the mean, not the mean of exp


def counting(x, y, state):
    """Return as losses the number of earlier tokens in the row."""
    before = np.zeros(x.shape[1]) if state is None else state
    return before + np.arange(len(x))[:, None], before + len(x)


@pytest.mark.parametrize("steps", [1, 3, 7, 50, 51, 999])
def test_a_single_row_carries_the_state_through_the_text(steps):
    assert evaluate(counting, np.zeros(52, int), rows=1, steps=steps).loss == 25.0  # 0, 1, ..., 50


@pytest.mark.parametrize("steps", [1, 3, 7, 50])
def test_each_row_starts_from_no_state_and_carries_it(steps):
    # 51 predictions in 4 rows: three of 13, one of 12
    expected = (3 * sum(range(13)) + sum(range(12))) / 51
    assert evaluate(counting, np.zeros(52, int), rows=4, steps=steps).loss == pytest.approx(expected)


def test_losses_of_the_padding_are_ignored():
    nan = math.nan

    def losses(x, y, state):
        assert x.shape == (2, 4)
        return np.array([[1.0, 2.0, 3.0, nan], [4.0, 5.0, nan, nan]]), None

    assert evaluate(losses, np.arange(6), rows=4).loss == 3.0


def test_float32_losses_are_added_in_float64():
    def losses(x, y, state):
        return np.array([[2.0**24], [1.0], [1.0], [1.0]], np.float32), None

    assert evaluate(losses, np.arange(5)).loss == (2.0**24 + 3) / 4


def test_a_nan_loss_gives_a_nan_perplexity():
    assert math.isnan(evaluate(lambda x, y, state: (np.full(x.shape, np.nan), None), np.arange(9)).perplexity)


@pytest.mark.parametrize("length", [0, 1])
def test_a_text_too_short_is_refused(length):
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


def test_perplexity_and_bits_follow_from_the_loss():
    result = evaluate(lambda x, y, state: (np.full(x.shape, math.log(8)), None), np.arange(4), characters_per_token=2.0)
    assert result == Evaluation(pytest.approx(math.log(8)), 3, 2.0)
    assert result.perplexity == pytest.approx(8)
    assert result.bits_per_character == pytest.approx(1.5)
    assert Evaluation(1e9, 5).perplexity == math.inf
