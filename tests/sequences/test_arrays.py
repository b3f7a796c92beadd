"""Sequences: the forms that are read, all errors, take and padded against loops, scales and batches."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.errors import InputError
from headgate.sequences.arrays import Scale, Sequences, batches_by_length

n, T, F = 4, 5, 3
SHAPES = "(samples, steps, features), (samples, steps) for one feature, or a list of (steps, features) arrays"


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).integers(-9, 9, shape).astype(np.float64)


def ragged(lengths: list[int], features: int = F) -> list[np.ndarray]:
    """Make arrays in which all numbers differ, so that any mix-up shows."""
    starts = np.cumsum([0, *lengths[:-1]])
    return [
        np.arange(start * features, (start + length) * features, dtype=np.float64).reshape(length, features)
        for start, length in zip(starts, lengths, strict=True)
    ]


def objects(parts: list[Any]) -> np.ndarray:
    array = np.empty(len(parts), object)
    for index, part in enumerate(parts):
        array[index] = part
    return array


def assert_holds(read: Sequences, parts: list[np.ndarray]) -> None:
    """Assert that the sequences are exactly these (T_i, F), concatenated."""
    assert read.values.dtype == np.float64
    assert read.values.tolist() == [row.tolist() for part in parts for row in part]
    assert read.lengths.tolist() == [len(part) for part in parts]
    assert (len(read), read.features) == (len(parts), parts[0].shape[1])


@pytest.mark.parametrize(
    "form",
    [
        np.asarray, np.ndarray.tolist, list, tuple, objects, torch.from_numpy,
        np.asfortranarray, lambda X: X.astype(object), lambda X: [part.tolist() for part in X],
        lambda X: [torch.from_numpy(part) for part in X], lambda X: X.astype(int), lambda X: X.astype(np.float32),
    ],
)  # fmt: skip
def test_equal_lengths(form: Callable[[np.ndarray], Any]) -> None:
    X = numbers(n, T, F)
    assert_holds(Sequences.read(form(X)), list(X))
    X = numbers(n, T)
    assert_holds(Sequences.read(form(X)), [part[:, None] for part in X])


@pytest.mark.parametrize("form", [list, tuple, objects, lambda X: [part.tolist() for part in X]])
def test_ragged(form: Callable[[list[np.ndarray]], Any]) -> None:
    parts = ragged([2, 5, 1, 3])
    assert_holds(Sequences.read(form(parts)), parts)
    assert_holds(Sequences.read(form([part[:, 0] for part in parts])), [part[:, :1] for part in parts])


def test_parts_of_different_types() -> None:
    parts = [np.ones((1, 2), bool), [[2, 3]], torch.tensor([[4.5, 5.0]]), np.array([[6, 7]], np.uint8)]
    assert Sequences.read(parts).values.tolist() == [[1, 1], [2, 3], [4.5, 5], [6, 7]]


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int64", "float16", "float32", "float64"])
def test_dtypes(dtype: str) -> None:
    X = np.array([[[0, 1], [1, 1]], [[1, 0], [0, 1]]], dtype)
    assert_holds(Sequences.read(X), list(X.astype(np.float64)))


def test_one_of_everything() -> None:
    assert_holds(Sequences.read([[7]]), [np.array([[7.0]])])


def test_what_is_read_is_not_changed() -> None:
    X = numbers(n, T, F)
    before = X.copy()
    read = Sequences.read(X)
    Scale.of(read.values).apply(read.values)
    read.take(np.array([2, 1])).padded()[:] = 0
    assert np.array_equal(X, before)


BAD = [
    (np.zeros(3), f"X must be {SHAPES}, got the shape (3,)"),
    (np.zeros((2, 3, 4, 5)), f"X must be {SHAPES}, got the shape (2, 3, 4, 5)"),
    (np.float64(1), f"X must be {SHAPES}, got the shape ()"),
    ([1.0, 2.0], f"X must be {SHAPES}, but X[0] has the shape ()"),
    ([np.zeros((2, 3, 4))], f"X must be {SHAPES}, but X[0] has the shape (2, 3, 4)"),
    ([np.zeros((2, 1)), np.zeros((3, 1)), np.zeros(4)], f"X must be {SHAPES}, but X[2] has the shape (4,)"),
    ([np.zeros(2), np.zeros((3, 1))], f"X must be {SHAPES}, but X[1] has the shape (3, 1)"),
    (
        [np.zeros((2, 3)), np.zeros((4, 3)), np.zeros((2, 5))],
        "X must have the same features in every sample: X[0] has 3, X[2] has 5 (read as (steps, features))",
    ),
    ([], "X has no samples: at least one is needed"),
    (objects([]), "X has no samples: at least one is needed"),
    (np.zeros((0, T, F)), "X has no samples: at least one is needed"),
    (np.zeros((0, T)), "X has no samples: at least one is needed"),
    (np.zeros((n, T, 0)), "X has 0 features: at least one is needed"),
    ([np.zeros((2, 0))], "X has 0 features: at least one is needed"),
    (np.zeros((n, 0, F)), "X has a sequence without steps, sample 0: leave it out"),
    ([[1.0], [2.0, 3.0], []], "X has a sequence without steps, sample 2: leave it out"),
    ([np.ones((2, 3)), np.ones((0, 3))], "X has a sequence without steps, sample 1: leave it out"),
    (
        np.ones((2, 3), complex),
        "X has complex numbers: give real ones, for instance their two parts as features",
    ),
    ([[1.0], [2j]], "X[1] has complex numbers: give real ones, for instance their two parts as features"),
]


@pytest.mark.parametrize(("X", "message"), BAD, ids=[message[:60] for _, message in BAD])
def test_refused(X: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        Sequences.read(X)


@pytest.mark.parametrize(
    ("X", "beginning"),
    [
        ("abc", "X must hold numbers, got <U3: convert it first"),
        ([["a", "b"], ["c"]], "X[0] must hold numbers, got <U1: convert it first"),
        ([[1.0], ["c"]], "X[1] must hold numbers, got <U1: convert it first"),
        ({"a": 1}, "X must hold numbers: float() argument must be"),
        ([[[1.0, 2.0], [3.0]]], "X[0] must hold numbers: setting an array element with a sequence"),
    ],
)
def test_values_that_are_not_numbers_are_refused(X: Any, beginning: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(beginning)}"):
        Sequences.read(X)


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinity (inf)"), (-np.inf, "infinity (inf)")])
@pytest.mark.parametrize("form", [np.asarray, list, lambda X: [*X[:2], X[2][:4], X[3]]])
def test_the_position_of_a_value_that_is_not_finite_is_named(
    value: float, word: str, form: Callable[[np.ndarray], Any]
) -> None:
    X = numbers(n, T, F)
    X[3, 4, 0] = np.nan
    X[2, 1, 2] = value
    message = f"X has {word} at sample 2, step 1, feature 2 (2 in all): fill them in or leave those samples out"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        Sequences.read(form(X))


def test_the_position_of_a_value_that_is_not_finite_at_a_border() -> None:
    """The first and the last number of a sequence belong to it, not to its neighbours."""
    for sample, step, feature in ((1, 0, 0), (1, 4, 1), (0, 1, 0), (2, 0, 1)):
        parts = [np.zeros((length, 2)) for length in (2, 5, 1)]
        parts[sample][step, feature] = np.nan
        with pytest.raises(InputError, match=f"sample {sample}, step {step}, feature {feature} "):
            Sequences.read(parts)


def test_errors_use_the_given_name() -> None:
    with pytest.raises(InputError, match=r"^Z\[1\] has complex"):
        Sequences.read([[1.0], [2j]], "Z")
    with pytest.raises(InputError, match=r"^Z has NaN"):
        Sequences.read([[np.nan]], "Z")


lengths_of = st.lists(st.integers(1, 9), min_size=1, max_size=12)


@given(lengths_of)
def test_starts(lengths: list[int]) -> None:
    position, starts = 0, []
    for length in lengths:
        starts.append(position)
        position += length
    assert Sequences.read(ragged(lengths)).starts.tolist() == starts


@given(lengths_of, st.data())
def test_take(lengths: list[int], data: st.DataObject) -> None:
    parts = ragged(lengths)
    indices = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=20))  # repeated, any order
    assert_holds(Sequences.read(parts).take(np.array(indices)), [parts[i] for i in indices])


@given(lengths_of, st.sampled_from([np.float32, np.float64]))
def test_padded(lengths: list[int], dtype: type) -> None:
    parts = ragged(lengths)
    sequences = Sequences.read(parts)
    padded = Sequences(sequences.values.astype(dtype), sequences.lengths).padded()
    expected = np.zeros((len(parts), max(lengths), F), dtype)
    for i, part in enumerate(parts):
        for t, row in enumerate(part):
            expected[i, t] = row
    assert padded.dtype == dtype
    assert padded.tolist() == expected.tolist()
    assert padded.shape == expected.shape


def test_scale_is_that_of_the_columns() -> None:
    values = np.random.default_rng(0).normal([3, -400, 0.01], [2, 50, 1e-5], (71, F))
    scale = Scale.of(values)
    for column in range(F):
        numbers = values[:, column].tolist()
        mean = sum(numbers) / len(numbers)
        variance = sum((v - mean) ** 2 for v in numbers) / len(numbers)
        assert scale.mean[column] == pytest.approx(mean, rel=1e-12)
        assert scale.deviation[column] == pytest.approx(variance**0.5, rel=1e-9)


def test_weights_are_repetitions() -> None:
    random = np.random.default_rng(1)
    values, weights = random.normal(5, 3, (13, 2)), random.integers(0, 4, 13)
    weighted, repeated = Scale.of(values, weights.astype(float)), Scale.of(np.repeat(values, weights, axis=0))
    np.testing.assert_allclose(weighted.mean, repeated.mean, rtol=1e-13)
    np.testing.assert_allclose(weighted.deviation, repeated.deviation, rtol=1e-13)
    assert not np.allclose(weighted.mean, values.mean(0), rtol=1e-3)
    scaled = Scale.of(values, weights * 0.125)
    np.testing.assert_allclose(scaled.deviation, repeated.deviation, rtol=1e-13)


@pytest.mark.parametrize("constant", [0.0, 5.0, 0.1, -1e9, 1e-300, 1e100, 1 / 3])
def test_constant_column_becomes_zeros(constant: float) -> None:
    values = np.full((1001, 2), constant)
    values[:, 1] = np.arange(1001)
    weights = np.random.default_rng(2).uniform(0.1, 2, 1001)
    for w in (None, weights):
        scale = Scale.of(values, w)
        assert scale.deviation[0] == 1
        assert np.abs(scale.apply(values)[:, 0]).max() <= 1e-13 * abs(constant)
        assert scale.deviation[1] > 200


def test_small_variation_is_not_constant() -> None:
    values = np.array([[1e6], [1e6 + 1e-3]])
    assert Scale.of(values).deviation[0] == pytest.approx(5e-4, rel=1e-5)


def test_column_that_varies_only_where_the_weight_is_zero() -> None:
    scale = Scale.of(np.array([[2.0], [2.0], [9.0]]), np.array([1.0, 3.0, 0.0]))
    assert (scale.mean[0], scale.deviation[0]) == (2, 1)


def test_large_values() -> None:
    values = np.random.default_rng(3).normal(1e150, 1e149, (50, 2))
    standard = Scale.of(values).apply(values)
    np.testing.assert_allclose(standard.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(standard.std(0), 1, rtol=1e-12)


@given(st.lists(st.lists(st.floats(-1e9, 1e9), min_size=F, max_size=F), min_size=1, max_size=9))
def test_undo_undoes(rows: list[list[float]]) -> None:
    values = np.array(rows)
    scale = Scale.of(values)
    back = scale.undo(scale.apply(values))
    np.testing.assert_allclose(back, values, rtol=1e-12, atol=1e-12 * np.abs(values).max())


def test_no_scale_changes_nothing() -> None:
    values = np.random.default_rng(4).normal(size=(7, F))
    scale = Scale.none(F)
    assert np.array_equal(scale.apply(values), values)
    assert np.array_equal(scale.undo(values), values)
    assert scale.mean.shape == scale.deviation.shape == (F,)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=230), st.integers(1, 5), st.sampled_from([None, 0, 1]))
@settings(max_examples=60)
def test_batches_are_a_permutation(lengths: list[int], B: int, seed: int | None) -> None:
    random = None if seed is None else np.random.default_rng(seed)
    batches = list(batches_by_length(np.array(lengths), B, random))
    assert sorted(i for batch in batches for i in batch.tolist()) == list(range(len(lengths)))
    sizes = sorted(len(batch) for batch in batches)
    assert set(sizes[1:]) <= {B}
    assert sizes[0] == (len(lengths) % B or B)


def padding(lengths: np.ndarray, batches: list[np.ndarray]) -> int:
    return sum(int(lengths[b].max() * len(b) - lengths[b].sum()) for b in batches)


@pytest.mark.parametrize("seed", range(3))
def test_little_is_padded(seed: int) -> None:
    """Lengths rise within 50 batches, so their padding is at most B times the rise."""
    B, most = 4, 30
    lengths = np.random.default_rng(100 + seed).integers(1, most + 1, 1000)
    batches = list(batches_by_length(lengths, B, np.random.default_rng(seed)))
    assert padding(lengths, batches) <= 1000 / (50 * B) * B * (most - 1)
    assert padding(lengths, list(batches_by_length(lengths, B))) <= B * (most - 1)
    shuffled = np.random.default_rng(seed).permutation(1000)
    assert padding(lengths, [shuffled[i : i + B] for i in range(0, 1000, B)]) > 5000  # without sorting


@pytest.mark.parametrize("same", [False, True])
def test_random_order(same: bool) -> None:
    """The same generator state gives the same batches; the next state gives others, in another order."""
    lengths = np.full(90, 7) if same else np.random.default_rng(5).integers(1, 20, 90)

    def draw(random: np.random.Generator) -> list[list[int]]:
        return [batch.tolist() for batch in batches_by_length(lengths, 6, random)]

    random = np.random.default_rng(6)
    first, second = draw(random), draw(random)
    assert first == draw(np.random.default_rng(6))
    assert first != second
    assert {frozenset(b) for b in first} != {frozenset(b) for b in second}  # not only the order of the batches
    longest = [lengths[b].max() for b in first]
    assert same or longest != sorted(longest)
    assert [lengths[b].max() for b in second] != longest or same


def test_order_without_random() -> None:
    lengths = np.array([5, 1, 4, 2, 1])
    assert [b.tolist() for b in batches_by_length(lengths, 2)] == [[1, 4], [3, 2], [0]]  # equal lengths stay in order
    assert [b.tolist() for b in batches_by_length(np.full(5, 3), 2)] == [[0, 1], [2, 3], [4]]
    assert [b.tolist() for b in batches_by_length(lengths, 99)] == [[1, 4, 3, 2, 0]]
