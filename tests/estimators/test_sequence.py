"""GRURegressor and GRUClassifier: the scikit-learn contract, learning, exactness, and error messages."""

import copy
import pickle
import re
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning, NotFittedError
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

from headgate import GRUClassifier, GRURegressor, native
from headgate.errors import InputError
from headgate.models.sequence_model import POOLS
from headgate.training import fitting, optimization

n, T, F = 20, 6, 3
needs_library = pytest.mark.skipif(native.find() is None, reason="the compiled library is missing")


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


X, Y = draw(n, T, F), draw(n, seed=1)
LABELS = np.arange(n) % 3
LENGTHS = np.arange(n) % T + 1  # including 1
RAGGED = [x[:length] for x, length in zip(X, LENGTHS, strict=True)]


def regressor(**options: Any) -> GRURegressor:
    return GRURegressor(**{"hidden_size": 5, "epochs": 2, "random_state": 0, **options})


def classifier(**options: Any) -> GRUClassifier:
    return GRUClassifier(**{"hidden_size": 5, "epochs": 2, "random_state": 0, **options})


BOTH = [(regressor, Y), (classifier, LABELS)]
both = pytest.mark.parametrize(("make", "y"), BOTH, ids=["regressor", "classifier"])


def answers(estimator: Any, X: Any) -> np.ndarray:
    return estimator.predict_proba(X) if hasattr(estimator, "predict_proba") else estimator.predict(X)


# scikit-learn's contract

UNEQUAL = {
    "check_sample_weight_equivalence_on_dense_data": "repeated samples make other batches, and batches that round "
    "differently in float32; the check asks for the same to 1e-7 after a hundred epochs"
}
ABSENT = ("sparse", "multioutput", "multilabel")  # inputs that the estimators do not support
attempted, passed = Counter(), Counter()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # some data is noise
@parametrize_with_checks([GRURegressor(), GRUClassifier()], expected_failed_checks=lambda _: UNEQUAL)
def test_scikit_learn(estimator: Any, check: Callable[[Any], None]) -> None:
    """Checks that are expected to fail must fail: pyproject.toml sets xfail_strict."""
    kind = type(estimator).__name__
    attempted[kind] += 1
    check(estimator)
    passed[kind] += 1


@pytest.mark.parametrize(("ours", "theirs"), [(GRURegressor(), MLPRegressor()), (GRUClassifier(), MLPClassifier())])
def test_no_scikit_learn_check_is_left_out(ours: Any, theirs: Any) -> None:
    """All checks run that scikit-learn's perceptron passes, except for sparse input and several labels per sample.

    Without the tag for two-dimensional input, hardly any would run.
    """
    names = [
        {check.func.__name__ for _, check in estimator_checks_generator(estimator)} for estimator in (ours, theirs)
    ]
    missing = {name for name in names[1] - names[0] if not any(word in name for word in ABSENT)}
    assert not missing
    kind = type(ours).__name__
    total = sum(1 for _ in estimator_checks_generator(ours))
    assert total >= 50
    if attempted[kind] == total:  # unless only some tests were selected
        assert passed[kind] >= total - 2  # expected failures, and the array API unless SciPy uses it


def test_parameters() -> None:
    for kind in (GRURegressor, GRUClassifier):
        parameters = kind().get_params()
        assert clone(kind(**parameters)).get_params() == parameters
        assert kind(hidden_size=9).set_params(pool="max").get_params() == {
            **parameters,
            "hidden_size": 9,
            "pool": "max",
        }
        with pytest.raises(TypeError):
            kind(64)
    assert set(GRUClassifier().get_params()) - set(GRURegressor().get_params()) == {"class_weight"}


def test_clone_forgets() -> None:
    fitted = regressor(pool="mean").fit(X, Y)
    other = clone(fitted)
    assert vars(other) == fitted.get_params()
    with pytest.raises(NotFittedError):
        other.predict(X)
    assert np.array_equal(other.fit(X, Y).predict(X), fitted.predict(X))


def test_pipeline() -> None:
    pipeline = make_pipeline(StandardScaler(), regressor()).fit(X[:, :, 0], Y)
    assert pipeline.predict(X[:, :, 0]).shape == (n,)
    pipeline = make_pipeline(StandardScaler(), classifier()).fit(X[:, :, 0], LABELS)
    assert pipeline.predict_proba(X[:, :, 0]).shape == (n, 3)


@both
@pytest.mark.parametrize(
    "data", [X, RAGGED, X[:, :, 0], [x[:, 0] for x in RAGGED]], ids=["3-D", "ragged", "2-D", "1-D"]
)
def test_search_and_cross_validation(make: Callable[..., Any], y: np.ndarray, data: Any) -> None:
    scores = cross_val_score(make(), data, y, cv=3, error_score="raise")
    assert scores.shape == (3,)
    assert np.isfinite(scores).all()
    search = GridSearchCV(make(), {"hidden_size": [3, 7], "pool": ["last", "max"]}, cv=2, error_score="raise")
    search.fit(data, y)
    assert search.best_estimator_.model_.gru.hidden_size == search.best_params_["hidden_size"]
    assert len(search.predict(data)) == n


@both
def test_pickle_and_copy(make: Callable[..., Any], y: np.ndarray) -> None:
    estimator = make(dropout=0.5, num_layers=2, warm_start=True).fit(X, y)
    others = [copy.deepcopy(estimator), pickle.loads(pickle.dumps(estimator))]
    for other in others:
        assert np.array_equal(answers(other, X), answers(estimator, X))
    estimator.fit(X, y)
    for other in others:  # they contain all that further training needs
        assert not np.array_equal(answers(other, X), answers(estimator, X))
        assert np.array_equal(answers(other.fit(X, y), X), answers(estimator, X))


# Forms of input


@both
def test_forms_of_the_same_data_give_the_same_model(make: Callable[..., Any], y: np.ndarray) -> None:
    expected = answers(make().fit(X, y), X)
    for form in (list(X), X.tolist(), X.astype(object)):
        estimator = make().fit(form, list(y))
        for other in (form, X):
            assert np.array_equal(answers(estimator, other), expected)
    table = X[:, :, 0]
    expected = answers(make().fit(table, y), table)
    for form in (table[:, :, None], table.tolist(), list(table), pd.DataFrame(table), torch.from_numpy(table)):
        assert np.array_equal(answers(make().fit(form, pd.Series(y)), form), expected)


@both
def test_tensors(make: Callable[..., Any], y: np.ndarray) -> None:
    expected = answers(make().fit(X, y), X)
    assert np.array_equal(answers(make().fit(torch.from_numpy(X), torch.from_numpy(y)), torch.from_numpy(X)), expected)


@both
def test_sequences_of_one_step(make: Callable[..., Any], y: np.ndarray) -> None:
    assert len(answers(make().fit(X[:, :1], y), X[:3, :1])) == 3
    assert len(answers(make(bidirectional=True).fit(list(X[:, :1]), y), RAGGED)) == n


@pytest.mark.parametrize("columns", [1, 4])
def test_columns_of_targets(columns: int) -> None:
    y = draw(n, columns, seed=2) * [1, 10, 100, 0.1][:columns]
    estimator = regressor(epochs=150, learning_rate=0.02, hidden_size=16).fit(X, y)
    predicted = estimator.predict(X)
    assert predicted.shape == (n, columns)
    for column in range(columns):
        assert np.corrcoef(predicted[:, column], y[:, column])[0, 1] > 0.9  # each column is learned
    assert estimator.y_scale_.mean.shape == (columns,)
    assert regressor().fit(X, y.tolist()).predict(X[:1]).shape == (1, columns)


def separable(labels: Any, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Return 60 sequences whose label is the index of the large feature."""
    labels = np.asarray(labels)
    which = np.random.default_rng(seed).integers(0, len(labels), 60)
    data = draw(60, 4, len(labels), seed=seed)
    data[np.arange(60), :, which] += 3
    return data, labels[which]


@pytest.mark.parametrize(
    "labels",
    [
        ["yes", "no"], [5, 3, 9], [True, False], [2.0, -1.0, 0.0], np.array(["b", "c", "a"], object),
        np.array([7, 200, 3], np.uint8), ["short", "a much longer label"],
    ],
    ids=str,
)  # fmt: skip
def test_probability_columns_follow_classes(labels: Any) -> None:
    """With labels in unsorted order, the columns of the probabilities follow classes_, not y."""
    data, y = separable(labels)
    estimator = classifier(epochs=30, learning_rate=0.02).fit(data, y)
    assert estimator.classes_.tolist() == sorted(np.asarray(labels).tolist())
    predicted = estimator.predict(data)
    assert predicted.dtype == y.dtype
    assert (predicted == y).mean() == 1
    probabilities = estimator.predict_proba(data)
    assert probabilities.shape == (60, len(labels))
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-12)
    assert (probabilities > 0).all()
    assert np.array_equal(estimator.classes_[probabilities.argmax(1)], predicted)
    assert estimator.score(data, y) == 1


def test_column_of_labels_is_warned_of() -> None:
    with pytest.warns(DataConversionWarning):
        estimator = classifier().fit(X, LABELS[:, None])
    assert estimator.predict(X).shape == (n,)


# Exactness


@needs_library
@both
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("pool", POOLS)
def test_a_prediction_does_not_depend_on_other_sequences(
    make: Callable[..., Any], y: np.ndarray, pool: str, bidirectional: bool
) -> None:
    """Equal to the bit, for enough sequences to need several batches."""
    estimator = make(pool=pool, bidirectional=bidirectional, num_layers=2).fit(RAGGED, y)
    random = np.random.default_rng(4)
    many = [random.normal(size=(length, F)) for length in random.integers(1, 15, 300)]
    together = answers(estimator, many)
    for index in (0, 1, 17, 298, 299):
        assert (answers(estimator, many[index : index + 1])[0] == together[index]).all()
        assert (answers(estimator, many[index][None])[0] == together[index]).all()
    order = random.permutation(300)
    assert (answers(estimator, [many[i] for i in order]) == together[order]).all()
    assert (answers(estimator, many[:40]) == together[:40]).all()


# Learning


def first_step(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return noise of 30 steps whose first step is the target: a number (marked by the second feature) or a class."""
    random = np.random.default_rng(seed)
    noise, which = random.normal(size=(count, 30, 2)), random.integers(0, 3, count)
    numbers, marks = noise.copy(), 0.3 * noise
    numbers[:, :, 1] = np.arange(30) == 0
    marks[:, 0] = np.array([[2, 0], [0, 2], [-2, -2]])[which]
    return numbers, marks, which


@pytest.mark.slow
def test_remembers_the_first_of_thirty_steps() -> None:
    (numbers, marks, which), (other_numbers, other_marks, expected) = first_step(600, 5), first_step(200, 6)
    estimator = regressor(hidden_size=32, epochs=60, learning_rate=0.01).fit(numbers, numbers[:, 0, 0])
    assert estimator.score(other_numbers, other_numbers[:, 0, 0]) > 0.98
    estimator = classifier(hidden_size=32, epochs=80, learning_rate=0.01).fit(marks[:400], which[:400])
    assert estimator.score(other_marks, expected) > 0.98


def test_order_matters() -> None:
    """Every sequence has the same two marks, and their order is the class, which no sum can reveal."""
    random = np.random.default_rng(7)
    data, y = np.zeros((300, 12, 2)), random.integers(0, 2, 300)
    for sequence, label in zip(data, y, strict=True):
        first, second = np.sort(random.choice(12, 2, replace=False))
        sequence[first, label] = sequence[second, 1 - label] = 1
    estimator = classifier(hidden_size=16, epochs=40, learning_rate=0.02).fit(data[:200], y[:200])
    assert estimator.score(data[200:], y[200:]) > 0.95
    assert estimator.score(data[200:, ::-1], 1 - y[200:]) > 0.95


@pytest.mark.slow
def test_digits() -> None:
    """Eight steps of eight pixels; a third of the images is held out."""
    data, y = load_digits(return_X_y=True)
    data = data.reshape(-1, 8, 8)
    train, test, y_train, y_test = train_test_split(data, y, test_size=1 / 3, random_state=0, stratify=y)
    estimator = GRUClassifier(epochs=25, random_state=0).fit(train, y_train)
    assert estimator.score(test, y_test) >= 0.97


def test_lengths_count() -> None:
    """Padding is not part of a sequence: its number of steps can be learned."""
    random = np.random.default_rng(8)
    lengths = random.integers(1, 15, 300)
    data = [random.normal(size=(length, 1)) for length in lengths]
    for pool in POOLS:
        estimator = regressor(pool=pool, hidden_size=16, epochs=25, learning_rate=0.02).fit(data[:200], lengths[:200])
        assert estimator.score(data[200:], lengths[200:]) > 0.9, pool


# Standardizing


def test_scales() -> None:
    """Means and deviations are over all steps, column by column, not over sequences."""
    steps = np.concatenate(RAGGED)
    estimator = regressor().fit(RAGGED, Y * 5 + 2)
    np.testing.assert_allclose(estimator.x_scale_.mean, steps.mean(0), rtol=1e-12)
    np.testing.assert_allclose(estimator.x_scale_.deviation, steps.std(0), rtol=1e-12)
    np.testing.assert_allclose(estimator.y_scale_.mean, [(Y * 5 + 2).mean()], rtol=1e-12)
    np.testing.assert_allclose(estimator.y_scale_.deviation, [(Y * 5).std()], rtol=1e-12)
    plain = regressor(standardize=False).fit(RAGGED, Y)
    assert plain.x_scale_.mean.tolist() == [0] * F
    assert plain.y_scale_.deviation.tolist() == [1]


def test_units_do_not_matter() -> None:
    """Predictions are in the units of y, and the units of X do not matter."""
    expected = regressor(epochs=5).fit(X, Y).predict(X)
    assert np.ptp(expected) > 1e-3
    moved = regressor(epochs=5).fit(X, 3000 * Y - 10**5).predict(X)
    np.testing.assert_allclose((moved + 10**5) / 3000, expected, atol=1e-4)
    units = np.array([1e-3, 7, 1e5])
    other = regressor(epochs=5).fit(X * units + 1, Y).predict(X * units + 1)
    np.testing.assert_allclose(other, expected, atol=1e-4)
    assert not np.allclose(
        regressor(epochs=5, standardize=False).fit(X, 9 * Y + 5).predict(X), 9 * expected + 5, atol=0.1
    )


def test_constant_columns() -> None:
    data = X.copy()
    data[:, :, 1] = 0.1
    estimator = regressor().fit(data, np.full(n, 7.25))
    assert estimator.x_scale_.deviation[1] == 1
    assert np.isfinite(estimator.predict(data)).all()
    assert estimator.y_scale_.mean.tolist() == [7.25]


def split(y: np.ndarray, fraction: float, classes: bool, seed: int = 0) -> list[np.ndarray]:
    """Return the indices to train on and to hold out, drawn as scikit-learn draws them."""
    held = int(np.ceil(fraction * len(y)))
    stratify = y if classes else None
    return train_test_split(
        np.arange(len(y)), test_size=held, random_state=np.random.RandomState(seed), stratify=stratify
    )


def test_held_out_samples_do_not_affect_standardization() -> None:
    training, held = split(Y, 0.3, False)
    estimator = regressor(early_stopping=True, validation_fraction=0.3).fit(X, Y)
    np.testing.assert_allclose(estimator.x_scale_.mean, X[training].reshape(-1, F).mean(0), rtol=1e-12)
    np.testing.assert_allclose(estimator.y_scale_.deviation, [Y[training].std()], rtol=1e-12)
    other, y = X.copy(), Y.copy()
    other[held] += 1e3
    y[held] -= 1e3
    moved = regressor(early_stopping=True, validation_fraction=0.3).fit(other, y)
    for scale in ("x_scale_", "y_scale_"):
        for part in ("mean", "deviation"):
            assert np.array_equal(getattr(getattr(moved, scale), part), getattr(getattr(estimator, scale), part))


# Early stopping


@pytest.mark.parametrize("make", [regressor, classifier])
@pytest.mark.parametrize("fraction", [0.3, 0.45])
def test_the_best_weights_are_kept(make: Callable[..., Any], fraction: float) -> None:
    """The held-out loss, computed here from predictions, is the lowest of all epochs."""
    data = draw(40, T, F)
    y = data[:, -1, 0] + 0.5 * draw(40, seed=1)
    y = np.digitize(y, [-0.4, 0.4]) if make is classifier else y
    estimator = make(
        early_stopping=True, validation_fraction=fraction, epochs=60, learning_rate=0.02, patience=7,
        schedule="constant", hidden_size=24,
    ).fit(data, y)  # fmt: skip
    losses = [entry["held_out"] for entry in estimator.history_]
    best = int(np.argmin(losses))
    assert 0 < best < len(losses) - 1  # the loss rises when noise is memorized
    assert len(losses) == best + 1 + 7 < 60
    assert losses[-1] > 1.02 * losses[best]
    assert [entry["epoch"] for entry in estimator.history_] == list(range(1, len(losses) + 1))
    _, held = split(y, fraction, make is classifier)
    if make is classifier:
        result = log_loss(y[held], estimator.predict_proba(data[held]), labels=estimator.classes_)
    else:
        result = np.square((estimator.predict(data[held]) - y[held]) / estimator.y_scale_.deviation).mean()
    assert result == pytest.approx(losses[best], rel=1e-5)


def test_held_out_loss_is_weighted_and_without_dropout() -> None:
    weights = np.random.default_rng(9).uniform(0.1, 3, n)
    estimator = regressor(early_stopping=True, validation_fraction=0.3, epochs=8, dropout=0.5)
    estimator.fit(X, Y, sample_weight=weights)
    _, held = split(Y, 0.3, False)
    errors = np.square((estimator.predict(X[held]) - Y[held]) / estimator.y_scale_.deviation)
    result = (errors * weights[held] / weights.mean()).mean()
    assert result == pytest.approx(min(entry["held_out"] for entry in estimator.history_), rel=1e-5)


def test_without_early_stopping() -> None:
    """All samples are trained on and all epochs run, whatever the patience."""
    estimator = regressor(epochs=30, patience=1, learning_rate=0.1).fit(X, Y)
    assert len(estimator.history_) == 30
    assert all(set(entry) == {"epoch", "loss"} for entry in estimator.history_)
    np.testing.assert_allclose(estimator.y_scale_.mean, [Y.mean()], rtol=1e-12)


def test_every_class_is_on_both_sides() -> None:
    labels = np.repeat([0, 1, 2], [14, 3, 3])
    estimator = classifier(early_stopping=True, validation_fraction=0.3, epochs=3).fit(X, labels)
    training, held = split(labels, 0.3, True)
    assert set(labels[training]) == set(labels[held]) == {0, 1, 2}
    np.testing.assert_allclose(estimator.x_scale_.mean, X[training].reshape(-1, F).mean(0), rtol=1e-12)


# Output


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("verbose", [0, 1, 2])
@pytest.mark.parametrize("held_out", [False, True])
def test_printed_lines(verbose: int, held_out: bool, capsys: pytest.CaptureFixture[str]) -> None:
    estimator = regressor(epochs=25, verbose=verbose, early_stopping=held_out, validation_fraction=0.3, patience=99)
    estimator.fit(X, Y)
    expected = []
    for entry in estimator.history_:
        if verbose == 2 or (verbose == 1 and entry["epoch"] in (10, 20, 25)):
            line = f"epoch {entry['epoch']}/25  loss {entry['loss']:.4f}"
            expected.append(line + (f"  held-out {entry['held_out']:.4f}" if held_out else ""))
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert [line for line in lines if line.startswith("epoch")] == expected
    assert all(line.startswith(("epoch", "the weights are those of epoch")) for line in lines[:-1])
    if verbose:
        best = min(estimator.history_, key=lambda entry: entry.get("held_out", -entry["epoch"]))
        baseline = estimator.baseline_loss_
        assert lines[-1] == f"loss {best['loss']:.4f}; predicting the mean gives {baseline:.4f}"
    assert printed.err == ""


def test_format_of_a_printed_line(capsys: pytest.CaptureFixture[str]) -> None:
    regressor(epochs=10, verbose=1, early_stopping=True, validation_fraction=0.3).fit(X, Y)
    assert re.match(r"epoch 10/10  loss \d\.\d{4}  held-out \d\.\d{4}\n", capsys.readouterr().out)


def test_the_epoch_of_the_kept_weights_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    estimator = regressor(
        epochs=60, verbose=1, early_stopping=True, validation_fraction=0.3, learning_rate=0.05, patience=3,
        schedule="constant", hidden_size=24,
    ).fit(X, Y)  # fmt: skip
    losses = [entry["held_out"] for entry in estimator.history_]
    best, last = int(np.argmin(losses)), estimator.history_[-1]
    assert capsys.readouterr().out.splitlines()[-3:-1] == [
        f"epoch {last['epoch']}/60  loss {last['loss']:.4f}  held-out {last['held_out']:.4f}",
        f"the weights are those of epoch {best + 1}, whose held-out loss was lowest: {losses[best]:.4f}",
    ]


@both
def test_fitted_attributes(make: Callable[..., Any], y: np.ndarray) -> None:
    estimator = make(epochs=3)
    assert estimator.fit(X, y) is estimator
    assert estimator.n_iter_ == len(estimator.loss_curve_) == 3
    assert estimator.loss_curve_ == [entry["loss"] for entry in estimator.history_]
    assert estimator.n_features_in_ == F
    assert not hasattr(estimator, "feature_names_in_")
    assert not estimator.model_.training


def test_the_loss_is_that_of_the_samples() -> None:
    """For a single batch, the loss is that of the model before its update."""
    estimator = regressor(epochs=1, batch_size=n, learning_rate=1e-12).fit(X, Y)
    errors = (estimator.predict(X) - Y) / Y.std()
    assert estimator.loss_curve_[0] == pytest.approx(np.square(errors).mean(), rel=1e-5)
    estimator = classifier(epochs=1, batch_size=n, learning_rate=1e-12).fit(X, LABELS)
    assert estimator.loss_curve_[0] == pytest.approx(log_loss(LABELS, estimator.predict_proba(X)), rel=1e-5)
    estimator = regressor(epochs=1, batch_size=7, learning_rate=1e-12).fit(RAGGED, Y)  # batches of 7, 7 and 6
    errors = (estimator.predict(RAGGED) - Y) / Y.std()
    assert estimator.loss_curve_[0] == pytest.approx(np.square(errors).mean(), rel=1e-5)


# Weights of samples and classes


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@both
def test_weights_are_repetitions(make: Callable[..., Any], y: np.ndarray) -> None:
    times = np.random.default_rng(10).integers(0, 4, n)
    options = {"epochs": 20, "batch_size": 1000, "learning_rate": 0.02}
    weighted = answers(make(**options).fit(X, y, sample_weight=times), X)
    repeated = answers(make(**options).fit(np.repeat(X, times, axis=0), np.repeat(y, times)), X)
    np.testing.assert_allclose(weighted, repeated, atol=2e-3)
    assert np.abs(weighted - answers(make(**options).fit(X, y), X)).max() > 0.05


@both
def test_only_ratios_of_weights_count(make: Callable[..., Any], y: np.ndarray) -> None:
    expected = answers(make(epochs=4).fit(X, y), X)
    for weight in (2, 0.25, np.full(n, 4.0), [8] * n):
        np.testing.assert_allclose(answers(make(epochs=4).fit(X, y, sample_weight=weight), X), expected, atol=1e-6)


def test_weight_of_zero() -> None:
    """Samples of weight 0 affect neither the scales nor the loss."""
    out = np.arange(n) % 4 == 1
    data, y = X.copy(), Y.copy()
    data[out] += 1e4
    y[out] -= 1e4
    options = {"epochs": 10, "batch_size": n}
    estimator = regressor(**options).fit(data, y, sample_weight=~out)
    without = regressor(**options).fit(X[~out], Y[~out])
    for scale in ("x_scale_", "y_scale_"):
        for part in ("mean", "deviation"):
            actual, expected = (getattr(getattr(e, scale), part) for e in (estimator, without))
            np.testing.assert_allclose(actual, expected, rtol=1e-10)
    np.testing.assert_allclose(estimator.predict(X), without.predict(X), atol=1e-3)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_class_weight() -> None:
    """If X is uninformative, the predicted probabilities are the weighted shares of the classes."""
    data, y = draw(200, 2, 1, seed=11) * 1e-9, np.repeat(["rare", "usual"], [20, 180])
    options = {"epochs": 80, "learning_rate": 0.05, "batch_size": 200, "standardize": False}

    def shares(weights: Any, **more: Any) -> np.ndarray:
        return classifier(class_weight=weights, **options).fit(data, y, **more).predict_proba(data).mean(0)

    np.testing.assert_allclose(shares(None), [0.1, 0.9], atol=0.02)
    np.testing.assert_allclose(shares("balanced"), [0.5, 0.5], atol=0.02)
    np.testing.assert_allclose(shares({"rare": 27, "usual": 1}), [0.75, 0.25], atol=0.02)
    np.testing.assert_allclose(shares({"rare": 27}), [0.75, 0.25], atol=0.02)
    times = np.where(y == "rare", 3.0, 1.0)
    np.testing.assert_allclose(shares({"rare": 9, "usual": 1}, sample_weight=times), [0.75, 0.25], atol=0.02)


def test_class_weight_is_a_sample_weight() -> None:
    weights = {0: 1, 1: 5, 2: 0.5}
    by_class = classifier(class_weight=weights, epochs=5).fit(X, LABELS)
    by_sample = classifier(epochs=5).fit(X, LABELS, sample_weight=[weights[label] for label in LABELS])
    np.testing.assert_allclose(by_class.predict_proba(X), by_sample.predict_proba(X), atol=1e-5)


# Further training


@both
def test_warm_start(make: Callable[..., Any], y: np.ndarray) -> None:
    """Four fits of one epoch equal one fit of four: the optimizer keeps its state. One batch has no order."""
    options = {"schedule": "constant", "batch_size": n, "learning_rate": 0.05}
    expected = make(epochs=4, **options).fit(X, y)
    warm, partial = make(epochs=1, warm_start=True, **options), make(epochs=9, **options)
    for epoch in range(1, 5):
        warm.fit(X, y)
        partial.partial_fit(X, y)
        assert [entry["epoch"] for entry in warm.history_] == list(range(1, epoch + 1))
        assert warm.n_iter_ == partial.n_iter_ == epoch
    assert np.array_equal(answers(warm, X), answers(partial, X))
    np.testing.assert_allclose(answers(warm, X), answers(expected, X), atol=1e-4)
    np.testing.assert_allclose(warm.loss_curve_, expected.loss_curve_, rtol=1e-4)
    assert expected.loss_curve_[-1] < 0.98 * expected.loss_curve_[0]


@both
def test_without_warm_start_fit_starts_over(make: Callable[..., Any], y: np.ndarray) -> None:
    estimator = make().fit(X * 5 + 1, y[::-1])
    estimator.fit(X, y)
    assert estimator.n_iter_ == 2
    assert np.array_equal(answers(estimator, X), answers(make().fit(X, y), X))


def test_further_training_keeps_the_scales() -> None:
    estimator = regressor(warm_start=True).fit(X, Y)
    before = estimator.x_scale_, estimator.y_scale_
    estimator.fit(X * 9, Y * 9)
    estimator.partial_fit(X * 99, Y - 99)
    assert (estimator.x_scale_, estimator.y_scale_) == before


def test_learning_rate_falls_within_each_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = []
    original = fitting.learning_rate

    def record(*arguments: Any) -> float:
        rates.append(original(*arguments))
        return rates[-1]

    monkeypatch.setattr(fitting, "learning_rate", record)
    estimator = regressor(epochs=3, batch_size=7, warm_start=True).fit(X, Y).fit(X, Y)
    assert len(rates) == 2 * 3 * 3
    assert rates[:9] == rates[9:]
    assert rates[0] == 0.005
    assert rates[:9] == sorted(rates[:9], reverse=True)
    assert rates[8] < 0.001
    rates.clear()
    estimator.partial_fit(X, Y)
    assert rates == [0.005] * 3


def test_partial_fit_in_pieces() -> None:
    data, y = separable(["yes", "no"])
    estimator = classifier(learning_rate=0.05, batch_size=5)
    for _ in range(10):
        for part in range(0, 60, 20):
            estimator.partial_fit(data[part : part + 20], y[part : part + 20])
    assert estimator.n_iter_ == 30
    assert estimator.score(data, y) == 1


@pytest.mark.parametrize("first", [[0, 2], [2]])
def test_declared_classes_may_come_later(first: list[int]) -> None:
    """The first samples need not contain every class, nor even two classes."""
    data, y = separable([0, 1, 2])
    estimator = classifier(learning_rate=0.05, batch_size=5)
    some = np.isin(y, first)
    estimator.partial_fit(data[some], y[some], classes=[2, 0, 1])
    assert estimator.classes_.tolist() == [0, 1, 2]
    for _ in range(20):
        estimator.partial_fit(data, y)
    assert estimator.score(data, y) == 1


# Long sequences, and fits that learn nothing


def bumps(n: int, T: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return long series with a bump up or down among the first steps, followed by noise."""
    random = np.random.default_rng(seed)
    heights, data = random.uniform(0.5, 1.5, n) * random.choice([-1, 1], n), 0.3 * random.normal(size=(n, T))
    for sequence, height, start in zip(data, heights, random.integers(5, 15, n), strict=True):
        sequence[start : start + 8] += 1.5 * height
    return data, heights


def test_long_series_of_one_feature_are_learned_by_default() -> None:
    """With torch.nn.GRU's biases and 100 epochs of 36 samples, both estimators stay at chance."""
    (data, y), (other, expected) = bumps(36, 200, 1), bumps(100, 200, 2)
    assert GRUClassifier(random_state=0).fit(data, y > 0).score(other, expected > 0) > 0.95
    assert GRURegressor(hidden_size=32, random_state=0).fit(data, y).score(other, expected) > 0.5


def test_half_of_the_units_of_every_layer_remember() -> None:
    steps, H = 50, 6
    estimator = regressor(hidden_size=H, num_layers=2, bidirectional=True, learning_rate=1e-9).fit(
        draw(5, steps, 2), Y[:5]
    )
    other = regressor(hidden_size=H, num_layers=2, bidirectional=True, learning_rate=1e-9).fit(draw(5, 49, 2), Y[:5])
    gru, plain = (e.model_.gru.state_dict() for e in (estimator, other))
    drawn = []
    for name, value in gru.items():
        if name.startswith("weight"):
            assert torch.allclose(value, plain[name], atol=1e-6)  # all other values are drawn as by torch
            continue
        ours = slice(H, H + H // 2)  # the first half of z, in the order r, z, n
        rest = [i for i in range(3 * H) if not H <= i < H + H // 2]
        assert torch.allclose(value[rest], plain[name][rest], atol=1e-6)
        if name.startswith("bias_hh"):
            assert value[ours].abs().max() < 1e-6
        else:
            drawn += value[ours].tolist()
    assert len(set(drawn)) == 4 * H // 2
    assert min(drawn) >= 0
    assert 2 < max(drawn) <= np.log(steps - 1)


def test_epochs_adapt_to_the_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headgate.estimators.sequence.LEAST_EPOCHS", 3)
    monkeypatch.setattr("headgate.estimators.sequence.MOST_UPDATES", 100)
    rates = []
    original = fitting.learning_rate
    monkeypatch.setattr(fitting, "learning_rate", lambda *a: rates.append(original(*a)) or rates[-1])

    def trained(steps: int, **options: Any) -> GRURegressor:
        rates.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return regressor(epochs="auto", batch_size=5, **options).fit(draw(10, steps), Y[:10])  # 2 updates per epoch

    assert trained(1).n_iter_ == 5  # 10 updates
    assert trained(4).n_iter_ == 3 + 6 + 11  # 40 updates
    assert [rates.count(0.005), len(rates)] == [3, 40]  # each extension starts the schedule again
    assert trained(99).n_iter_ == 50
    fitted = trained(99, learning_rate=0.1, hidden_size=30)
    assert fitted.n_iter_ in (3, 3 + 6, 3 + 6 + 12, 3 + 6 + 12 + 24)
    ends = [fitted.history_[end - 1]["loss"] for end in (3, 9, 21, 45) if end <= fitted.n_iter_]
    assert [loss <= 0.1 * fitted.baseline_loss_ for loss in ends] == [*[False] * (len(ends) - 1), True]
    stopped = trained(99, early_stopping=True, validation_fraction=0.5, patience=1, learning_rate=0.1)
    best = int(np.argmin([entry["held_out"] for entry in stopped.history_]))
    assert stopped.n_iter_ == best + 2 < 50
    warm = trained(1, warm_start=True)
    assert warm.fit(draw(10, 1), Y[:10]).n_iter_ == 10
    assert warm.partial_fit(draw(10, 1), Y[:10]).n_iter_ == 11


@pytest.mark.parametrize("held_out", [False, True])
def test_a_fit_that_learned_little_warns(held_out: bool) -> None:
    data, y = draw(300, 3), np.repeat(["a", "b", "b"], 100)  # noise
    estimator = classifier(epochs=20, early_stopping=held_out, patience=20, batch_size=150)
    with pytest.warns(ConvergenceWarning) as caught:
        estimator.fit(data, y)
    entry = min(estimator.history_, key=lambda e: e.get("held_out", -e["epoch"]))
    frequencies = -(np.log(1 / 3) + 2 * np.log(2 / 3)) / 3
    assert [str(w.message) for w in caught] == [
        f"GRUClassifier has learned little: after 20 epochs the training loss is {entry['loss']:.4g}, and predicting "
        f"the class frequencies gives {frequencies:.4g}. There may be little to learn; otherwise try more "
        "epochs, another learning_rate or pool, smaller batches, or shorter sequences (every fourth step, for example)"
    ]
    assert caught[0].filename == __file__
    estimator.set_params(epochs=19).fit(data, y)  # too few epochs to warn
    with pytest.warns(ConvergenceWarning, match="^GRURegressor .* and predicting the mean gives 1"):
        regressor(epochs=20, batch_size=150).fit(data, draw(300, seed=3))
    regressor(epochs=20, batch_size=150).fit(data, np.ones(300))  # the trivial loss is 0


@both
def test_the_loss_of_the_trivial_prediction(make: Callable[..., Any], y: np.ndarray) -> None:
    weights = np.random.default_rng(9).uniform(0.1, 3, n)
    for w in (None, weights):
        fitted = make().fit(X, y, sample_weight=w)
        w = np.ones(n) if w is None else w / w.mean()
        if make is regressor:
            expected = np.average(np.square(y - np.average(y, weights=w)) / fitted.y_scale_.deviation**2, weights=w)
        else:
            shares = np.array([w[y == label].sum() for label in range(3)]) / n
            expected = log_loss(y, np.tile(shares, (n, 1)), sample_weight=w)
        assert fitted.baseline_loss_ == pytest.approx(expected, rel=1e-5)
    estimator = make(learning_rate=1e-12, weight_decay=0.0).fit(X, y)
    with torch.no_grad():
        estimator.model_.head.weight.zero_()
        estimator.model_.head.bias.copy_(torch.tensor(np.log(np.bincount(LABELS) / n) if make is classifier else [0.0]))
    actual = (
        log_loss(y, estimator.predict_proba(X)) if make is classifier else np.square(estimator.predict(X) - y).mean()
    )
    scale = 1 if make is classifier else estimator.y_scale_.deviation[0] ** 2
    assert actual / scale == pytest.approx(estimator.baseline_loss_, rel=1e-5)


@both
def test_estimators_saved_without_the_trivial_loss_are_read(make: Callable[..., Any], y: np.ndarray) -> None:
    fitted = make(epochs=4).fit(X, y)
    facts, arrays = fitted.to_state()
    assert type(fitted).from_state(fitted.get_params(), facts, arrays).baseline_loss_ == fitted.baseline_loss_
    del facts["baseline_loss_"]
    again = type(fitted).from_state(fitted.get_params(), facts, arrays)
    assert np.array_equal(answers(again, X), answers(fitted, X))


# Randomness


@both
def test_repeatable(make: Callable[..., Any], y: np.ndarray) -> None:
    options = {"dropout": 0.4, "num_layers": 2, "batch_size": 6, "early_stopping": True, "validation_fraction": 0.3}
    first = make(**options).fit(RAGGED, y)
    torch.manual_seed(77)
    np.random.seed(77)  # noqa: NPY002 - the global state must not count
    second = make(**options).fit(RAGGED, y)
    assert first.history_ == second.history_
    assert np.array_equal(answers(first, RAGGED), answers(second, RAGGED))
    for seed in (1, None, np.random.RandomState(5)):
        other = make(**{**options, "random_state": seed}).fit(RAGGED, y)
        assert not np.array_equal(answers(first, RAGGED), answers(other, RAGGED))
    generators = [make(random_state=np.random.RandomState(5)).fit(X, y) for _ in range(2)]
    assert np.array_equal(answers(generators[0], X), answers(generators[1], X))
    assert not np.array_equal(
        answers(generators[0].fit(X, y), X), answers(generators[1], X)
    )  # the second fit continues the generator


@both
def test_global_generators_are_left_alone(make: Callable[..., Any], y: np.ndarray) -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    estimator = make(dropout=0.4, warm_start=True, early_stopping=True, validation_fraction=0.3).fit(X, y)
    estimator.fit(X, y).partial_fit(X, y)
    answers(estimator, X)
    with pytest.raises(ValueError):
        estimator.fit(X, y[:-1])
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


# Refusals

SHAPES = "(samples, steps, features), (samples, steps) for one feature, or a list of (steps, features) arrays"
BAD_NUMBERS = X.copy()
BAD_NUMBERS[4, 2, 1] = np.nan
BAD_NUMBERS[5, 0, 0] = np.inf


@both
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            BAD_NUMBERS,
            "X has NaN at sample 4, step 2, feature 1 (2 in all): fill them in or leave those samples out",
        ),
        (
            [*X[:9], BAD_NUMBERS[5], *X[10:]],
            "X has infinity (inf) at sample 9, step 0, feature 0 (1 in all): fill them in or leave those "
            "samples out",
        ),
        (X[None], f"X must be {SHAPES}, got the shape (1, 20, 6, 3)"),
        ([*X[:9], X[9][:, :2], *X[10:]], "X must have the same features in every sample: X[0] has 3, X[9] has 2 (read "
         "as (steps, features))"),
        ([*X[:9], X[9][:0], *X[10:]], "X has a sequence without steps, sample 9: leave it out"),
    ],
)  # fmt: skip
def test_bad_x_is_refused(make: Callable[..., Any], y: np.ndarray, data: Any, message: str) -> None:
    estimator = make().fit(X, y)
    for call in (lambda: make().fit(data, y), lambda: estimator.predict(data), lambda: make().partial_fit(data, y)):
        with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
            call()


@both
@pytest.mark.parametrize(
    ("data", "numbers", "hint"),
    [
        (X[:7], "7 and 20", "give one y per sample"),
        (RAGGED[:7], "7 and 20", "give one y per sample"),
        (
            X.transpose(1, 0, 2), "6 and 20",
            "the axes of (6, 20, 3) look swapped, X.transpose(1, 0, 2) has 20 samples",
        ),
        (
            X.transpose(2, 1, 0), "3 and 20",
            "the axes of (3, 6, 20) look swapped, X.transpose(2, 0, 1) has 20 samples",
        ),
    ],
)  # fmt: skip
def test_unequal_numbers_of_samples_are_refused(
    make: Callable[..., Any], y: np.ndarray, data: Any, numbers: str, hint: str
) -> None:
    message = (
        f"X and y have inconsistent numbers of samples, {numbers} (X is read as (samples, steps, features)): {hint}"
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        make().fit(data, y)


@both
def test_other_features_are_refused(make: Callable[..., Any], y: np.ndarray) -> None:
    estimator = make().fit(X, y)
    kind = type(estimator).__name__
    begin = f" features, but {kind} is expecting 3 features as input (X is read as (samples, steps, features)): "
    swapped = "the last two axes of (20, 3, 6) look swapped, X.transpose(0, 2, 1) has 3"
    for data, message in (
        (X.transpose(0, 2, 1), f"X has 6{begin}{swapped}"),
        (X[:, :, :2], f"X has 2{begin}give the features of fit"),
        ([x[:, :2] for x in RAGGED], f"X has 2{begin}give the features of fit"),
        (X[:, :, 0], f"X has 1{begin}give the features of fit"),
    ):
        for call in (estimator.predict, lambda data: estimator.partial_fit(data, y)):
            with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
                call(data)


@both
def test_columns_of_a_table(make: Callable[..., Any], y: np.ndarray) -> None:
    table = pd.DataFrame(X[:, :, 0], columns=list("abcdef"))
    estimator = make().fit(table, y)
    assert estimator.feature_names_in_.tolist() == list("abcdef")
    for other in (table.rename(columns={"c": "z"}), table[list("fedcba")], table[list("abc")]):
        with pytest.raises(ValueError, match=r"^The feature names should match those that were passed during fit"):
            estimator.predict(other)
    array = make().fit(table.to_numpy(), y)
    with pytest.raises(ValueError, match=r"X has 4 features, but .* is expecting 6 features"):
        array.predict(X[:, :4, 0])
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        assert np.array_equal(answers(estimator, X[:, :, 0]), answers(array, X[:, :, 0]))
    assert not hasattr(estimator.fit(X, y), "feature_names_in_")  # from the previous fit


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "GRURegressor requires y to be passed, but the target y is None"),
        (draw(n, 2, 2), "y must have the shape (samples,) or (samples, targets), got (20, 2, 2)"),
        (np.where(np.arange(n) == 3, np.nan, Y), "Input y contains NaN."),
        (
            np.where(np.arange(n) == 3, np.inf, Y),
            "Input y contains infinity or a value too large for dtype('float64').",
        ),
        (["a"] * n, "could not convert string to float: 'a'"),
    ],
)
def test_bad_targets(y: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        regressor().fit(X, y)


def test_targets_of_another_shape() -> None:
    for before, after, shape in ((Y, draw(n, 2), "(samples,)"), (draw(n, 2), Y, "(samples, 2)")):
        estimator = regressor().fit(X, before)
        with pytest.raises(InputError, match=f"^{re.escape(f'y must have the shape {shape}, got {after.shape}')}$"):
            estimator.partial_fit(X, after)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "GRUClassifier requires y to be passed, but the target y is None"),
        (
            np.array(["only"] * n, object),
            "y must have at least two classes, got one class, 'only': add another",
        ),
        (np.where(LABELS == 1, np.nan, LABELS), "Input y contains NaN."),
        (
            np.where(LABELS == 1, -np.inf, LABELS),
            "Input y contains infinity or a value too large for dtype('float64').",
        ),
        (draw(n, 2), "y should be a 1d array, got an array of shape (20, 2) instead."),
        (
            Y,
            "Unknown label type: continuous. Maybe you are trying to fit a classifier, which expects discrete classes "
            "on a regression target with continuous values.",
        ),
    ],
)
def test_bad_labels(y: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        classifier().fit(X, y)


def test_an_unknown_label_is_refused() -> None:
    words = np.array(["no", "yes"], object)[np.arange(n) % 2]
    estimator = classifier(warm_start=True).fit(X, words)
    before = answers(estimator, X)
    for call in (estimator.partial_fit, estimator.fit):
        with pytest.raises(
            InputError, match=r"^y must have only the classes \['no', 'yes'\], got 'maybe': omit such samples$"
        ):
            call(X, np.where(np.arange(n) == 3, "maybe", words).astype(object))
    assert np.array_equal(answers(estimator, X), before)


def test_too_few_samples_to_hold_out_are_refused() -> None:
    message = (
        "early_stopping would hold out {} of {} samples (validation_fraction={}), but needs at least {}: give more "
        "samples, another validation_fraction, or early_stopping=False"
    )
    with pytest.raises(InputError, match=f"^{re.escape(message.format(1, 1, 0.1, '1 on each side'))}$"):
        regressor(early_stopping=True).fit(X[:1], Y[:1])
    with pytest.raises(InputError, match=f"^{re.escape(message.format(0, 20, 0, '1 on each side'))}$"):
        regressor(early_stopping=True, validation_fraction=0).fit(X, Y)
    need = "3 on each side, and two of every class"
    with pytest.raises(InputError, match=f"^{re.escape(message.format(2, 20, 0.1, need))}$"):
        classifier(early_stopping=True).fit(X, LABELS)
    with pytest.raises(InputError, match=f"^{re.escape(message.format(6, 20, 0.3, need))}$"):
        classifier(early_stopping=True, validation_fraction=0.3).fit(X, [0] * 10 + [1] * 9 + [2])


@both
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(n - 1), "sample_weight must have the shape (20,), one per sample, got (19,)"),
        (np.ones((n, 1)), "sample_weight must have the shape (20,), one per sample, got (20, 1)"),
        (
            np.where(np.arange(n) == 3, -0.5, 1),
            "sample_weight must be at least 0, and above 0 for some sample, got -0.5 at sample 3",
        ),
        (-1, "sample_weight must be at least 0, and above 0 for some sample, got -1 at sample 0"),
        (np.zeros(n), "sample_weight must be at least 0, and above 0 for some sample, got only zeros"),
        (0, "sample_weight must be at least 0, and above 0 for some sample, got only zeros"),
        (np.where(np.arange(n) == 3, np.nan, 1), "Input sample_weight contains NaN."),
    ],
)
def test_bad_weights(make: Callable[..., Any], y: np.ndarray, weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make().fit(X, y, sample_weight=weights)


KINDS = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}


def kind(name: str, what: type, value: Any) -> tuple[dict[str, Any], str]:
    return {name: value}, f"{name} must be {KINDS[what]}, got {value!r}"


@both
@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(
            kind(name, int, value)
            for name in ("hidden_size", "num_layers", "epochs", "batch_size", "patience")
            for value in (2.0, "3", None, True)
        ),
        *(
            kind(name, float, value)
            for name in ("learning_rate", "weight_decay", "clip", "dropout")
            for value in ("3", None, True)
        ),
        *(
            ({name: 0}, f"{name} must be at least 1 and finite, got 0")
            for name in ("hidden_size", "num_layers", "epochs", "batch_size", "patience")
        ),
        *(
            ({name: value}, f"{name} must be at least 0 and finite, got {float(value)}")
            for name in ("weight_decay", "clip", "dropout")
            for value in (-1, np.inf, np.nan)
        ),
        *(
            ({"learning_rate": value}, f"learning_rate must be above 0 and finite, got {float(value)}")
            for value in (0, -1, np.inf, np.nan)
        ),
        ({"hidden_size": 2**31}, "hidden_size must be at most 2147483647"),
        ({"dropout": 1}, "dropout must be below 1, got 1.0"),
        ({"validation_fraction": 1.0}, "validation_fraction must be below 1, got 1.0"),
        ({"pool": "first"}, "pool must be one of last, mean, max, got 'first'"),
        ({"schedule": "step"}, "schedule must be one of cosine, constant, got 'step'"),
        ({"backend": "fast"}, "backend must be one of auto, equations, torch, native, got 'fast'"),
        kind("reset", str, None),
        kind("bidirectional", bool, "no"),
        kind("device", str, 0),
        ({"device": "none"}, "device must be one that torch can use on this machine, got 'none': use \"cpu\""),
        (
            {"hidden_size": -1, "pool": "sum", "clip": -3, "epochs": 1.5},
            "hidden_size must be at least 1 and finite, got -1; epochs must be a whole number, got 1.5; "
            "pool must be one of last, mean, max, got 'sum'; clip must be at least 0 and finite, got -3.0",
        ),
    ],
    ids=str,
)  # fmt: skip
def test_bad_parameters(make: Callable[..., Any], y: np.ndarray, options: dict[str, Any], message: str) -> None:
    estimator = make(**options)
    before = dict(vars(estimator))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        estimator.fit(X, y)
    assert vars(estimator) == before


def test_numpy_numbers_are_parameters() -> None:
    options = {
        "hidden_size": np.int64(5),
        "learning_rate": np.float32(0.25),
        "epochs": np.uint8(2),
        "dropout": np.float64(0),
    }
    plain = {name: value.item() for name, value in options.items()}
    assert np.array_equal(regressor(**options).fit(X, Y).predict(X), regressor(**plain).fit(X, Y).predict(X))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@both
def test_an_unavailable_device_is_refused(make: Callable[..., Any], y: np.ndarray) -> None:
    with pytest.raises(
        InputError, match=r"^device must be one that torch can use on this machine, got 'cuda': use \"cpu\"$"
    ):
        make(device="cuda").fit(X, y)


@both
def test_not_fitted(make: Callable[..., Any], y: np.ndarray) -> None:
    with pytest.raises(NotFittedError):
        make().predict(X)


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    estimator = regressor(standardize=False)
    message = (
        "the loss or its gradient was not finite in 1 of 1 steps of an epoch: try a lower learning_rate (it was "
        "0.005), or standardize the data"
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        estimator.fit(X, Y * 1e30)
    assert vars(estimator) == estimator.get_params()


# A fit changes everything or nothing


def interrupt(monkeypatch: pytest.MonkeyPatch, at: int, error: BaseException) -> None:
    """Interrupt the next fit at this step, between the gradients and the update."""
    count = 0

    def clip(*arguments: Any) -> float:
        nonlocal count
        count += 1
        if count == at:
            raise error
        return original(*arguments)

    original = optimization.clip_gradients
    monkeypatch.setattr(optimization, "clip_gradients", clip)


@both
@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), RuntimeError("no memory")], ids=repr)
@pytest.mark.parametrize("state", ["new", "fitted", "warm_start", "partial_fit"])
def test_an_interrupted_fit_changes_nothing(
    make: Callable[..., Any], y: np.ndarray, state: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted in its second or only epoch, a fit changes nothing, and later training is unaffected."""
    estimator = make(batch_size=7, dropout=0.3, warm_start=state == "warm_start")
    if state != "new":
        estimator.fit(X, y)
    undisturbed = copy.deepcopy(estimator)
    before, history = dict(vars(estimator)), copy.deepcopy(getattr(estimator, "history_", None))
    with monkeypatch.context() as patch:
        interrupt(patch, 2 if state == "partial_fit" else 5, error)
        with pytest.raises(type(error)):
            estimator.partial_fit(X[::-1], y) if state == "partial_fit" else estimator.fit(X[::-1], y)
    assert list(vars(estimator)) == list(before)
    assert all(vars(estimator)[name] is value for name, value in before.items())
    assert getattr(estimator, "history_", None) == history
    if state == "new":
        assert vars(estimator) == estimator.get_params()
    else:
        assert np.array_equal(answers(estimator, X), answers(undisturbed, X))
    for other in (estimator, undisturbed):
        other.fit(X, y)
    assert np.array_equal(answers(estimator, X), answers(undisturbed, X))


@both
def test_a_refused_fit_changes_nothing(make: Callable[..., Any], y: np.ndarray) -> None:
    fitted = make(warm_start=True).fit(pd.DataFrame(X[:, :, 0], columns=list("abcdef")), y)
    for estimator in (make(), make().fit(X, y), fitted):
        before = dict(vars(estimator))
        for data, targets, weights in (
            (BAD_NUMBERS, y, None), (X, y[:-1], None), (X, None, None), (X[:, :4], ["a"] * n, None),
            (X, y, -np.ones(n)),
        ):  # fmt: skip
            for call in (estimator.fit, estimator.partial_fit):
                with pytest.raises(ValueError):
                    call(data, targets, sample_weight=weights)
                assert list(vars(estimator)) == list(before)
                assert all(vars(estimator)[name] is value for name, value in before.items())


def test_input_is_not_changed() -> None:
    data, y, weights = X.copy(), Y.copy(), np.arange(1.0, n + 1)
    for standardize in (False, True):
        regressor(standardize=standardize).fit(data, y, sample_weight=weights).predict(data)
    assert np.array_equal(data, X)
    assert np.array_equal(y, Y)
    assert np.array_equal(weights, np.arange(1.0, n + 1))
