"""Sampling: each filter against its definition, the draw, and beam search against enumeration."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.errors import InputError
from headgate.runtime.sampling import Sampling, beam_search, draw, log_softmax

thorough = settings(deadline=None, max_examples=150)
some_logits = st.lists(st.floats(-8, 8, width=32) | st.just(-math.inf), min_size=1, max_size=12).filter(
    lambda values: max(values) > -math.inf
)
temperatures = st.floats(0.05, 5)


def probabilities(logits, seen=(), **settings) -> np.ndarray:
    return Sampling(**settings).probabilities(np.array(logits, np.float64), seen)


def softmax(values) -> list[float]:
    top = max(values)
    weights = [math.exp(v - top) for v in values]
    return [w / sum(weights) for w in weights]


def by_probability(p) -> list[int]:
    """Return ids by descending probability, the lowest of equals first."""
    return sorted(range(len(p)), key=lambda i: (-p[i], i))


LOGITS = np.log([0.2, 0.4, 0.1, 0.3])


# Probabilities


def test_temperature_divides_the_logits():
    assert probabilities(LOGITS, temperature=1.0) == pytest.approx([0.2, 0.4, 0.1, 0.3])
    assert probabilities(LOGITS, temperature=0.5) == pytest.approx(np.array([4, 16, 1, 9]) / 30)
    assert probabilities(LOGITS, temperature=2.0) == pytest.approx(np.sqrt([2, 4, 1, 3]) / sum(np.sqrt([2, 4, 1, 3])))


def test_top_k_keeps_the_k_most_probable():
    assert probabilities(LOGITS, temperature=1.0, top_k=2) == pytest.approx([0, 4 / 7, 0, 3 / 7])
    assert probabilities(LOGITS, temperature=1.0, top_k=4) == pytest.approx([0.2, 0.4, 0.1, 0.3])
    assert probabilities(LOGITS, temperature=1.0, top_k=9) == pytest.approx([0.2, 0.4, 0.1, 0.3])
    assert probabilities([1.0, 2.0, 2.0, 2.0, 0.0], temperature=1.0, top_k=2).tolist() == [0, 0.5, 0.5, 0, 0]


def test_top_p_keeps_the_fewest_that_sum_to_p():
    assert probabilities(LOGITS, temperature=1.0, top_p=0.39) == pytest.approx([0, 1, 0, 0])
    assert probabilities(LOGITS, temperature=1.0, top_p=0.41) == pytest.approx([0, 4 / 7, 0, 3 / 7])
    assert probabilities(LOGITS, temperature=1.0, top_p=0.69) == pytest.approx([0, 4 / 7, 0, 3 / 7])
    assert probabilities(LOGITS, temperature=1.0, top_p=0.71) == pytest.approx([2 / 9, 4 / 9, 0, 3 / 9])
    assert probabilities(LOGITS, temperature=1.0, top_p=1e-9) == pytest.approx([0, 1, 0, 0])
    assert probabilities([0.0, 0.0, 0.0, 0.0], temperature=1.0, top_p=0.5).tolist() == [0.5, 0.5, 0, 0]


def test_min_p_is_relative_to_the_most_probable():
    assert probabilities(LOGITS, temperature=1.0, min_p=0.3) == pytest.approx([2 / 9, 4 / 9, 0, 3 / 9])
    assert probabilities(LOGITS, temperature=1.0, min_p=0.74) == pytest.approx([0, 4 / 7, 0, 3 / 7])
    assert probabilities([3.0, 3.0, 2.9], temperature=1.0, min_p=1.0).tolist() == [0.5, 0.5, 0]


def test_the_filters_apply_in_a_fixed_order():
    # top_k leaves 0.4 and 0.3; of these, 4/7 alone reaches 0.5, but 0.4 of the whole would not
    assert probabilities(LOGITS, temperature=1.0, top_k=2, top_p=0.5) == pytest.approx([0, 1, 0, 0])
    # temperature first: 16/30 alone reaches 0.5
    assert probabilities(LOGITS, temperature=0.5, top_p=0.5) == pytest.approx([0, 1, 0, 0])
    # temperature first: 9/16 of the best is below 0.6, 0.3/0.4 would not be
    assert probabilities(LOGITS, temperature=0.5, min_p=0.6) == pytest.approx([0, 1, 0, 0])
    # the penalty first: it ranks id 1 below id 3 before only one is kept
    assert probabilities(np.log([2, 4, 1, 3]), [1, 1], repetition_penalty=2, temperature=1.0, top_k=1) == pytest.approx(
        [0, 0, 0, 1]
    )


def test_the_repetition_penalty_divides_positive_and_multiplies_negative_logits():
    expected = softmax([2.0 / 1.6, -1.0 * 1.6, 0.0, 0.5, -3.0])
    actual = probabilities([2.0, -1.0, 0.0, 0.5, -3.0], [1, 0, 0, 2, 1], repetition_penalty=1.6, temperature=1.0)
    assert actual == pytest.approx(expected)  # applied once, however often an id occurred
    rewarded = softmax([2.0 / 0.5, -1.0 * 0.5, 0.0, 0.5, -3.0])
    assert probabilities([2.0, -1.0, 0.0, 0.5, -3.0], [1, 0], repetition_penalty=0.5, temperature=1.0) == pytest.approx(
        rewarded
    )


def test_the_repetition_penalty_has_no_effect_at_one_or_without_a_text():
    plain = probabilities([2.0, -1.0, 0.5], temperature=0.8)
    assert probabilities([2.0, -1.0, 0.5], [0, 1], repetition_penalty=1.0, temperature=0.8).tolist() == plain.tolist()
    assert probabilities([2.0, -1.0, 0.5], [], repetition_penalty=3.0, temperature=0.8).tolist() == plain.tolist()


def test_the_repetition_penalty_applies_to_greedy_too():
    assert probabilities([2.0, 1.5, -4.0], [0], repetition_penalty=2.0).tolist() == [0, 1, 0]


def test_a_forbidden_id_stays_forbidden_under_every_filter():
    logits = [1.0, -math.inf, 0.5, -math.inf]
    for chosen in ({}, {"temperature": 1.0}, {"temperature": 3.0, "top_k": 4, "top_p": 0.99, "min_p": 0.01}):
        p = probabilities(logits, [1, 3], repetition_penalty=1.5, **chosen)
        assert p[[1, 3]].tolist() == [0, 0]
        assert p.sum() == pytest.approx(1)


def test_the_logits_passed_are_not_changed():
    logits = np.array([2.0, -1.0, 0.5])
    Sampling(repetition_penalty=2.0, temperature=0.7, top_k=2).probabilities(logits, [0, 1])
    assert logits.tolist() == [2.0, -1.0, 0.5]


def test_float32_logits_give_float64_probabilities():
    p = Sampling(temperature=1.0).probabilities(np.array([0.0, 1.0, -2.0], np.float32))
    assert p.dtype == np.float64
    assert p == pytest.approx(softmax([0.0, 1.0, -2.0]))


def test_large_logits_do_not_overflow():
    assert probabilities([3000.0, 2999.0, -3000.0], temperature=0.5) == pytest.approx(softmax([2.0, 0.0, -9e3]))


@thorough
@given(
    logits=some_logits,
    temperature=temperatures,
    penalty=st.floats(0.5, 2),
    top_k=st.integers(0, 14),
    top_p=st.floats(0.01, 1),
    min_p=st.floats(0, 1),
    data=st.data(),
)
def test_any_settings_give_a_distribution(logits, temperature, penalty, top_k, top_p, min_p, data):
    seen = data.draw(st.lists(st.integers(0, len(logits) - 1), max_size=6))
    sampling = Sampling(penalty, temperature, top_k, top_p, min_p)
    p = sampling.probabilities(np.array(logits), seen)
    assert p.shape == (len(logits),)
    assert (p >= 0).all()
    assert p.sum() == pytest.approx(1)
    assert all(p[i] == 0 for i, value in enumerate(logits) if value == -math.inf)
    assert 1 <= np.count_nonzero(p) <= (top_k or len(logits))


@thorough
@given(logits=some_logits, temperature=temperatures, top_k=st.integers(1, 12))
def test_support_of_top_k(logits, temperature, top_k):
    whole = probabilities(logits, temperature=temperature)
    p = probabilities(logits, temperature=temperature, top_k=top_k)
    kept = by_probability(whole)[:top_k]
    assert p.nonzero()[0].tolist() == sorted(i for i in kept if whole[i] > 0)
    assert p[kept] == pytest.approx(whole[kept] / whole[kept].sum())


@thorough
@given(logits=some_logits, temperature=temperatures, top_p=st.floats(0.01, 0.99))
def test_support_of_top_p(logits, temperature, top_p):
    whole = probabilities(logits, temperature=temperature)
    p = probabilities(logits, temperature=temperature, top_p=top_p)
    count = np.count_nonzero(p)
    kept = by_probability(whole)[:count]
    assert p.nonzero()[0].tolist() == sorted(kept)
    assert whole[kept].sum() >= top_p - 1e-12  # they reach top_p
    assert whole[kept[:-1]].sum() < top_p + 1e-12  # one id less does not
    assert p[kept] == pytest.approx(whole[kept] / whole[kept].sum())


@thorough
@given(logits=some_logits, temperature=temperatures, min_p=st.floats(0.01, 1))
def test_support_of_min_p(logits, temperature, min_p):
    whole = probabilities(logits, temperature=temperature)
    p = probabilities(logits, temperature=temperature, min_p=min_p)
    bound = min_p * whole.max()
    assert all(p[i] > 0 for i in range(len(p)) if whole[i] > bound * (1 + 1e-12))
    assert all(p[i] == 0 for i in range(len(p)) if whole[i] < bound * (1 - 1e-12))
    assert p[p > 0] == pytest.approx(whole[p > 0] / whole[p > 0].sum())


@thorough
@given(logits=some_logits, number=st.floats(0, 1, exclude_max=True))
def test_greedy_is_the_first_most_probable_id(logits, number):
    best = logits.index(max(logits))
    p = probabilities(logits)
    assert p.tolist() == [float(i == best) for i in range(len(logits))]
    assert Sampling().choose(np.array(logits), number) == best


# The draw


def test_the_same_seed_draws_the_same():
    sampling = Sampling(temperature=1.0)
    draws = [[sampling.choose(LOGITS, u) for u in np.random.default_rng(seed).random(50)] for seed in (3, 3, 4)]
    assert draws[0] == draws[1] != draws[2]


def test_drawing_updates_what_was_seen_the_logits_and_the_state():
    """Three ids of a model whose next logits are those of the id just drawn; 2 is forbidden."""
    following = np.array([[0.0, 3, 9, 1], [5, 0, 9, 4], [0, 0, 0, 0], [1, 0, 9, 2]], np.float32)
    seen, forbidden = np.zeros(4, bool), np.arange(4) == 2
    logits, state = np.array([0.0, 1, 9, 0], np.float32), np.zeros((1, 1, 3), np.float32)

    def step(ids, state):
        return following[ids], state + 1

    ids = draw(step, Sampling(repetition_penalty=10.0), np.full(3, 0.5), forbidden, seen, logits, state)
    assert ids.tolist() == [1, 0, 3]  # without the penalty, 1 would follow 0 again
    assert seen.tolist() == [True, True, False, True]
    assert logits.tolist() == following[3].tolist()
    assert state.tolist() == [[[3, 3, 3]]]


def test_frequencies_of_draws_match_the_probabilities():
    sampling = Sampling(temperature=0.7, top_k=3)
    expected = sampling.probabilities(LOGITS)
    N = 4000
    counts = np.bincount([sampling.choose(LOGITS, u) for u in np.random.default_rng(0).random(N)], minlength=4)
    assert counts[expected == 0].tolist() == [0]
    assert np.abs(counts - N * expected).max() < 4 * math.sqrt(N / 4)  # at most four standard deviations


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0.0, 1), (0.24, 1), (0.26, 2), (0.74, 2), (0.76, 4), (math.nextafter(1, 0), 4), (1.0, 4)],
)
def test_a_draw_inverts_the_cumulative_sum_and_never_leaves_the_support(number, expected):
    logits = np.array([-math.inf, 0.0, math.log(2), -math.inf, 0.0, -math.inf])  # 0, 1/4, 1/2, 0, 1/4, 0
    assert Sampling(temperature=1.0).choose(logits, number) == expected


@thorough
@given(logits=some_logits, temperature=temperatures, top_p=st.floats(0.1, 1), number=st.floats(0, 1, exclude_max=True))
def test_drawn_ids_have_positive_probability(logits, temperature, top_p, number):
    sampling = Sampling(temperature=temperature, top_p=top_p)
    assert sampling.probabilities(np.array(logits))[sampling.choose(np.array(logits), number)] > 0


# Bad parameters


def test_all_bad_parameters_are_named_at_once():
    with pytest.raises(InputError) as caught:
        Sampling(repetition_penalty=0, temperature=-0.5, top_k=-1, top_p=1.5, min_p=-0.1)
    assert str(caught.value) == (
        "repetition_penalty must be above 0, got 0; temperature must be at least 0 and finite, got -0.5; "
        "top_k must be at least 0, got -1; top_p must be above 0 and at most 1, got 1.5; "
        "min_p must be from 0 to 1, got -0.1"
    )


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"repetition_penalty": math.nan}, "^repetition_penalty must be above 0, got nan$"),
        ({"repetition_penalty": math.inf}, "^repetition_penalty must be above 0, got inf$"),
        ({"temperature": math.nan}, "^temperature must be at least 0 and finite, got nan$"),
        ({"temperature": math.inf}, "^temperature must be at least 0 and finite, got inf$"),
        ({"top_p": 0.0}, "^top_p must be above 0 and at most 1, got 0.0$"),
        ({"top_p": math.nan}, "^top_p must be above 0 and at most 1, got nan$"),
        ({"min_p": 1.01}, "^min_p must be from 0 to 1, got 1.01$"),
        ({"min_p": math.nan}, "^min_p must be from 0 to 1, got nan$"),
    ],
)
def test_a_single_bad_parameter_is_named(bad, message):
    with pytest.raises(InputError, match=message):
        Sampling(**bad)


# Log-softmax


def test_log_softmax_over_the_last_axis():
    logits = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
    result = log_softmax(logits)
    assert result.dtype == np.float64
    for t, b in itertools.product(range(2), range(3)):
        assert result[t, b] == pytest.approx(np.log(softmax(logits[t, b].tolist())))


def test_log_softmax_of_extremes():
    assert log_softmax(np.array([[1000.0, 999.0, -math.inf]]))[0] == pytest.approx(
        [-math.log1p(math.exp(-1)), -1 - math.log1p(math.exp(-1)), -math.inf]
    )


# Beam search: a Markov model of the second order; its state (2, W, 1) is the last two ids


class Markov:
    def __init__(self, V: int, seed: int, forbidden: tuple[int, ...] = ()) -> None:
        self.V = V
        self.table = np.random.default_rng(seed).normal(scale=2.0, size=(V, V, V))  # before last, last -> logits
        self.table[..., forbidden] = -np.inf
        self.state = np.array([[[1.0]], [[0.0]]])  # after the prefix 1, 0
        self.logits = self.table[1, 0][None]

    def step(self, ids: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        assert ids.ndim == 1
        assert state.shape == (2, len(ids), 1)
        last = state[1, :, 0].astype(int)
        return self.table[last, ids], np.stack([state[1], ids[:, None].astype(float)])

    def score(self, ids) -> float:
        text, total = [1, 0, *ids], 0.0
        for before, last, following in zip(text, text[1:], text[2:], strict=False):
            total += math.log(softmax(self.table[before, last])[following])
        return total

    def search(self, width: int, length: int) -> list[tuple[list[int], float]]:
        return beam_search(self.step, self.logits, self.state, width=width, length=length)


@pytest.mark.parametrize("seed", range(5))
def test_a_wide_beam_enumerates(seed):
    model = Markov(3, seed)
    exact = sorted(itertools.product(range(3), repeat=5), key=model.score, reverse=True)
    result = model.search(width=3**4, length=5)  # as many beams as prefixes of length 4
    assert tuple(result[0][0]) == exact[0]
    assert len({tuple(ids) for ids, _ in result}) == 3**4
    assert [score for _, score in result] == pytest.approx([model.score(ids) for ids, _ in result])
    assert [score for _, score in result] == pytest.approx([model.score(ids) for ids in exact[: 3**4]])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("width", [1, 2, 5])
def test_a_narrow_beam_scores_what_it_returns(seed, width):
    model = Markov(4, seed)
    result = model.search(width, length=6)
    assert len(result) == width
    assert len({tuple(ids) for ids, _ in result}) == width
    scores = [score for _, score in result]
    assert scores == sorted(scores, reverse=True)
    assert scores == pytest.approx([model.score(ids) for ids, _ in result])


@pytest.mark.parametrize("seed", range(8))
def test_a_beam_of_one_is_greedy(seed):
    model = Markov(5, seed)
    logits, state, greedy = model.logits, model.state, []
    for _ in range(7):
        i = Sampling().choose(logits[0], 0.5)
        greedy.append(i)
        logits, state = model.step(np.array([i]), state)
    [(ids, score)] = model.search(width=1, length=7)
    assert ids == greedy
    assert score == pytest.approx(model.score(greedy))


def test_a_beam_finds_what_greedy_misses():
    model = Markov(2, 0)
    model.table[1, 0] = np.log([0.6, 0.4])
    model.table[0, 0] = np.log([0.5, 0.5])
    model.table[0, 1] = np.log([0.1, 0.9])
    model.logits = model.table[1, 0][None]
    assert model.search(width=1, length=2)[0] == ([0, 0], pytest.approx(math.log(0.3)))
    assert model.search(width=2, length=2)[0] == ([1, 1], pytest.approx(math.log(0.36)))


def test_a_beam_wider_than_the_choices_returns_them_all():
    result = Markov(3, 1).search(width=50, length=2)
    assert sorted(ids for ids, _ in result) == [[a, b] for a in range(3) for b in range(3)]
    assert sum(math.exp(score) for _, score in result) == pytest.approx(1)


def test_forbidden_ids_are_in_no_beam():
    result = Markov(4, 2, forbidden=(0, 2)).search(width=50, length=3)
    assert sorted(ids for ids, _ in result) == [list(ids) for ids in itertools.product((1, 3), repeat=3)]


def test_a_beam_of_no_length_is_the_empty_continuation():
    assert Markov(3, 0).search(width=4, length=0) == [([], 0.0)]


@pytest.mark.parametrize(("width", "length"), [(0, 3), (2, -1)])
def test_invalid_beams_are_refused(width, length):
    with pytest.raises(
        InputError,
        match=f"^beam search needs a width of at least 1 and a length of at least 0, got {width}, {length}$",
    ):
        Markov(3, 0).search(width, length)
