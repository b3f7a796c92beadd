"""Saved estimators: exact round trips, no overwriting of anything else, and an InputError for damage."""

import json
import os
import pickle
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from sklearn.exceptions import NotFittedError

from headgate import GRUClassifier, GRURegressor
from headgate.errors import InputError
from headgate.runs import estimator_directory
from headgate.runs.run_directory import RunDirectory
from headgate.sequences.arrays import Scale
from headgate.settings.run import Settings
from headgate.text.characters import CharacterTokenizer

n, T, F = 12, 5, 3
X = np.random.default_rng(0).normal(size=(n, T, F))
SMALL = {"hidden_size": 4, "epochs": 2, "random_state": 0}


def regressor(y: np.ndarray | None = None, **options: Any) -> GRURegressor:
    return GRURegressor(**{**SMALL, **options}).fit(X, X[:, 0, 0] if y is None else y)


def classifier(labels: Any = (0, 1), **options: Any) -> GRUClassifier:
    return GRUClassifier(**{**SMALL, **options}).fit(X, np.array(labels)[np.arange(n) % len(labels)])


def same(one: Any, other: Any) -> bool:
    """Return True if types and values are equal to the bit; NaN equals NaN."""
    if isinstance(one, dict):
        return type(other) is dict and list(one) == list(other) and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return type(other) is list and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Scale):
        return same(one.mean, other.mean) and same(one.deviation, other.deviation)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and same(one.tolist(), other.tolist())
    return type(one) is type(other) and (one == other or (one != one and other != other))


def check_round_trip(estimator: Any, path: Path) -> Any:
    estimator.save(path)
    assert sorted(p.name for p in path.iterdir()) == ["config.json", "model.safetensors"]
    loaded = type(estimator).load(path)
    assert np.array_equal(loaded.predict(X), estimator.predict(X))
    assert loaded.predict(X).dtype == estimator.predict(X).dtype
    if hasattr(estimator, "predict_proba"):
        assert np.array_equal(loaded.predict_proba(X), estimator.predict_proba(X))
    expected = {name: value for name, value in vars(estimator).items() if name not in ("_fit", "model_")}
    actual = {name: value for name, value in vars(loaded).items() if name not in ("_fit", "model_")}
    for name, value in expected.items():
        if name == "_model_parameters":  # stored as passed; NumPy numbers are loaded as Python numbers
            assert value == actual[name]
        elif not isinstance(value, np.random.RandomState):
            assert same(value, actual[name]), name
    assert set(actual) == set(expected)
    return loaded


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 2, "bidirectional": True, "pool": "mean", "reset": "before", "dropout": 0.2},
        {"pool": "max", "standardize": False, "schedule": "constant", "clip": 0, "weight_decay": 0.1},
        {"early_stopping": True, "validation_fraction": 0.25, "patience": 1, "epochs": 3, "random_state": None},
        {"hidden_size": np.int64(5), "learning_rate": np.float32(0.25)},
    ],
)
def test_regressor_round_trip(options: dict[str, Any], tmp_path: Path) -> None:
    estimator = regressor(**options)
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in options.items()}
    estimator.set_params(**plain)
    loaded = check_round_trip(estimator, tmp_path / "new" / "model")
    assert loaded.get_params() == {**GRURegressor().get_params(), **SMALL, **plain}


@pytest.mark.parametrize("columns", [1, 4])
def test_regressor_with_several_targets(columns: int, tmp_path: Path) -> None:
    loaded = check_round_trip(regressor(np.random.default_rng(1).normal(size=(n, columns))), tmp_path / "model")
    assert loaded.predict(X).shape == (n, columns)


LABELS = [
    (0, 1), (-7, 5, 3), (np.uint8(3), np.uint8(200)), (False, True), (1.0, 2.0), ("no", "yes"),
    ("雨", "ß", "a longer label"), np.array(["b", "a"], object),
]  # fmt: skip


@pytest.mark.parametrize("labels", LABELS, ids=str)
def test_classifier_round_trip(labels: Any, tmp_path: Path) -> None:
    estimator = classifier(labels)
    loaded = check_round_trip(estimator, tmp_path / "model")
    assert loaded.predict(X).dtype == np.array(labels).dtype


@pytest.mark.parametrize("weights", ["balanced", {0: 1.5, 1: 4}, {0: 1, 1: 0.1}, None])
def test_class_weight_round_trip(weights: Any, tmp_path: Path) -> None:
    loaded = check_round_trip(classifier(class_weight=weights), tmp_path / "model")
    assert same(loaded.class_weight, weights)
    assert np.array_equal(
        loaded.fit(X, np.arange(n) % 2).predict_proba(X), classifier(class_weight=weights).predict_proba(X)
    )


def test_generator_is_not_saved(tmp_path: Path) -> None:
    assert check_round_trip(regressor(random_state=np.random.RandomState(3)), tmp_path / "model").random_state is None


@pytest.mark.parametrize("table", [pd.DataFrame, np.asarray])
def test_column_names_are_saved(table: Any, tmp_path: Path) -> None:
    steps = pd.DataFrame(X[:, :, 0], columns=[f"day {t}" for t in range(T)])
    estimator = GRURegressor(**SMALL).fit(table(steps), X[:, 0, 0])
    estimator.save(tmp_path / "model")
    loaded = GRURegressor.load(tmp_path / "model")
    assert hasattr(loaded, "feature_names_in_") == (table is pd.DataFrame)
    assert loaded.n_features_in_ == T
    assert np.array_equal(loaded.predict(table(steps)), estimator.predict(table(steps)))
    with pytest.raises(ValueError, match=r"expecting 5 features|[Ff]eature names"):
        loaded.predict(table(steps.iloc[:, :4]))
    if table is pd.DataFrame:
        assert same(loaded.feature_names_in_, estimator.feature_names_in_)
        with pytest.raises(ValueError, match="feature names"):
            loaded.predict(steps.rename(columns={"day 0": "day 9"}))


def test_a_history_that_is_not_finite_is_saved(tmp_path: Path) -> None:
    """JSON cannot represent such numbers."""
    estimator = regressor()
    estimator.history_[:] = [{"epoch": 1, "loss": np.inf}, {"epoch": 2, "loss": -np.inf}, {"epoch": 3, "loss": np.nan}]
    estimator._publish()
    loaded = check_round_trip(estimator, tmp_path / "model")
    assert loaded.loss_curve_[:2] == [np.inf, -np.inf]
    assert loaded.n_iter_ == 3
    json.loads((tmp_path / "model" / "config.json").read_text(), parse_constant=pytest.fail)


def test_loaded_estimators_can_train_further(tmp_path: Path) -> None:
    estimator = regressor(warm_start=True)
    estimator.save(tmp_path / "model")
    loaded = GRURegressor.load(tmp_path / "model")
    before = loaded.predict(X)
    loaded.fit(X, X[:, 0, 0])
    assert [entry["epoch"] for entry in loaded.history_] == [1, 2, 3, 4]
    assert not np.array_equal(loaded.predict(X), before)
    loaded.partial_fit(X, X[:, 0, 0])
    assert loaded.n_iter_ == 5
    estimator.save(tmp_path / "again")
    assert np.array_equal(GRURegressor.load(tmp_path / "again").predict(X), before)


def test_no_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("pickle is used")

    estimator = classifier(("no", "yes"))
    for name in ("dump", "dumps", "load", "loads", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    estimator.save(tmp_path / "model")
    assert np.array_equal(GRUClassifier.load(tmp_path / "model").predict(X), estimator.predict(X))


def test_not_fitted(tmp_path: Path) -> None:
    with pytest.raises(NotFittedError):
        GRURegressor().save(tmp_path / "model")
    assert not any(tmp_path.iterdir())


def test_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    regressor().save(path)  # an empty directory is treated as a new one
    first = {p.name: p.read_bytes() for p in path.iterdir()}
    other = classifier(random_state=5)
    with pytest.raises(
        InputError, match=r"already holds a fitted estimator: replace it with overwrite=True \(--overwrite\)$"
    ):
        other.save(path)
    assert {p.name: p.read_bytes() for p in path.iterdir()} == first
    other.save(path, overwrite=True)
    assert np.array_equal(GRUClassifier.load(path).predict_proba(X), other.predict_proba(X))
    other.save(str(tmp_path / "text"))
    assert np.array_equal(GRUClassifier.load(str(tmp_path / "text")).predict_proba(X), other.predict_proba(X))


@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_else_is_replaced(overwrite: bool, tmp_path: Path) -> None:
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("mine")
    folder.mkdir()
    with pytest.raises(InputError, match=r"is a file: name a directory$"):
        regressor().save(file, overwrite=overwrite)
    assert file.read_text() == "mine"
    for content in ("mine", "{}", "[1]", '{"estimator": 3}', '{"settings": {}}', "{" * 99999):
        (folder / "config.json").write_text(content)
        with pytest.raises(InputError, match=r"is not empty and holds no fitted estimator: name a new directory$"):
            regressor().save(folder, overwrite=overwrite)
        assert [(p.name, p.read_text()) for p in folder.iterdir()] == [("config.json", content)]


class Odd:
    """A value that JSON cannot represent."""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes_": np.array(["2020-01-01", "2021-01-01"], "M8[D]")}, "classes_ holds datetime64"),
        ({"classes_": np.array([1j, 2j])}, "classes_ holds complex128"),
        ({"classes_": np.array([Odd(), Odd()], object)}, "classes_ holds a Odd"),
        ({"classes_": np.array([b"a", b"b"])}, r"classes_ holds \|S1"),
        ({"class_weight": {(1, Odd()): 2}}, "class_weight holds a Odd"),
        ({"random_state": Odd()}, "random_state holds a Odd"),
    ],
)
def test_unsupported_values_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Nothing is written, and the previous estimator remains."""
    estimator = classifier()
    estimator.save(tmp_path / "old")
    before = {p.name: p.read_bytes() for p in (tmp_path / "old").iterdir()}
    vars(estimator).update(change)
    for path in (tmp_path / "new", tmp_path / "old"):
        with pytest.raises(
            InputError, match=f"^{message}.*, which cannot be saved: use numbers or strings, or pickle$"
        ):
            estimator.save(path, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["old"]
    assert {p.name: p.read_bytes() for p in (tmp_path / "old").iterdir()} == before


def test_dates_as_labels(tmp_path: Path) -> None:
    """If dates can be fitted as labels, saving them is refused and never writes a broken estimator."""
    dates = np.array(["2020-01-01", "2021-01-01"], "M8[D]")[np.arange(n) % 2]
    try:
        estimator = GRUClassifier(**SMALL).fit(X, dates)
    except ValueError:
        return
    with pytest.raises(InputError, match="cannot be saved"):
        estimator.save(tmp_path / "model")
    assert not any(tmp_path.iterdir())


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(InputError, match=r"holds no fitted estimator \(there is no config.json\)"):
            GRURegressor.load(path)
    regressor().save(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model\.safetensors is missing: restore it, or fit again$"):
        GRURegressor.load(tmp_path / "model")


def test_another_kind_of_estimator_is_refused(tmp_path: Path) -> None:
    regressor().save(tmp_path / "model")
    with pytest.raises(InputError, match=r"holds a GRURegressor, not a GRUClassifier: use GRURegressor\.load$"):
        GRUClassifier.load(tmp_path / "model")


def test_a_language_model_is_refused(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path / "run", Settings(), CharacterTokenizer.from_text("abc"), {})
    with pytest.raises(InputError, match=r"holds a language model, not a fitted estimator: use headgate generate$"):
        GRURegressor.load(tmp_path / "run")
    with pytest.raises(InputError, match="is not empty and holds no fitted estimator"):
        regressor().save(tmp_path / "run", overwrite=True)


def edit(path: Path, change: Any) -> None:
    config = json.loads((path / "config.json").read_text())
    change(config)
    (path / "config.json").write_text(json.dumps(config))


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model"
    regressor().save(path)
    for version in (estimator_directory.FORMAT + 1, "1", None):
        edit(path, lambda config, version=version: config.update(format=version))
        with pytest.raises(
            InputError, match=f"has format {version!r}, but this headgate reads {estimator_directory.FORMAT}: "
        ):
            GRURegressor.load(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config["parameters"].update(hidden_size=9),
        lambda config: config["parameters"].update(hidden_size=0),
        lambda config: config["parameters"].update(hidden_size="4"),
        lambda config: config["parameters"].update(pool="first"),
        lambda config: config["parameters"].update(bidirectional=True),
        lambda config: config["parameters"].update(more=1),
        lambda config: config["facts"].pop("history_"),
        lambda config: config["facts"].update(classes_={"dtype": "nonsense", "values": [0, 1]}),
        lambda config: config["facts"].update(history_=5),
        lambda config: config["facts"].update(history_=[{"epoch": 1}]),
        lambda config: config.pop("facts"),
        lambda config: config.update(parameters=[]),
        lambda config: config.update(parameters=None),
        lambda config: config["parameters"].update(backend="none"),
        lambda config: config["facts"].pop("n_features_in_"),
        lambda config: config["facts"].pop("classes_"),
        lambda config: config["facts"].pop("_table"),
        lambda config: config["facts"].update(classes_={"dtype": "<i8", "values": [0, 1, 2]}),
        lambda config: config["facts"].update(classes_=[0, 1]),
        lambda config: config["facts"].update(n_features_in_=8),
    ],
)
def test_inconsistent_parts_are_refused(change: Any, tmp_path: Path) -> None:
    path = tmp_path / "model"
    classifier().save(path)
    edit(path, change)
    with pytest.raises(InputError, match=re_of(path) + DAMAGED):
        GRUClassifier.load(path)


DAMAGED = r"/config\.json or model\.safetensors is damaged or from a different save: restore both, or fit again$"


def re_of(path: Path) -> str:
    """Return a pattern for the message that names the directory."""
    return ".*" + str(path).replace("\\", r"\\").replace(".", r"\.")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model.head.weight", None),
        ("model.head.bias", np.zeros(7, np.float32)),
        ("model.gru.weight_hh_l0", np.zeros((12, 5), np.float32)),
        ("model.more", np.zeros(1, np.float32)),
        ("x_scale_.mean", None),
        ("x_scale_.mean", np.zeros(F + 1)),
        ("x_scale_.deviation", np.ones(F + 1)),
        ("y_scale_.deviation", np.ones(2)),
    ],
)
def test_inconsistent_arrays_are_refused(name: str, value: np.ndarray | None, tmp_path: Path) -> None:
    path = tmp_path / "model"
    regressor().save(path)
    arrays = load_file(path / "model.safetensors")
    assert (name in arrays) or value is not None
    if value is None:
        del arrays[name]
    else:
        arrays[name] = value
    save_file(arrays, path / "model.safetensors")
    with pytest.raises(InputError, match=re_of(path) + DAMAGED):
        GRURegressor.load(path)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kept") / "model"
    classifier(("no", "yes"), class_weight={"no": 1, "yes": 2}).save(path)
    return path


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_truncated_files_are_refused(name: str, kept: Path, tmp_path: Path) -> None:
    path = tmp_path / "model"
    shutil.copytree(kept, path)
    content = (kept / name).read_bytes()
    for length in (*range(0, len(content) - 1, max(len(content) // 40, 1)), len(content) - 1):
        (path / name).write_bytes(content[:length])
        with pytest.raises(InputError, match=re_of(path)):
            GRUClassifier.load(path)


def load_or_refuse(path: Path) -> None:
    """Load an estimator or get an InputError that names the path; any other exception is a failure."""
    try:
        GRUClassifier.load(path)
    except InputError as error:
        assert str(path) in str(error)  # noqa: PT017


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numbers may become huge
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mutated_files_load_or_are_refused(name: str, kept: Path, tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "model"
    if not path.exists():
        shutil.copytree(kept, path)
    content = bytearray((kept / name).read_bytes())
    header = 8 + struct.unpack("<Q", content[:8])[0] if name == "model.safetensors" else len(content)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, header - 1))
        kind = data.draw(st.sampled_from(["replace", "delete", "insert"]))
        byte = data.draw(st.integers(0, 255) | st.sampled_from(list(b'0123456789"{}[],:-e')))
        content[place : place + (kind != "insert")] = b"" if kind == "delete" else bytes([byte])
    (path / name).write_bytes(content)
    load_or_refuse(path)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["dtype", "values", "pairs", "float", "x"]), inner, max_size=2)
    ),
    max_leaves=6,
)


@pytest.mark.filterwarnings("ignore")  # strange parameters may warn when used
@given(data=st.data(), value=values)
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_anywhere_in_the_configuration(kept: Path, tmp_path: Path, data: st.DataObject, value: Any) -> None:
    path = tmp_path / "model"
    if not path.exists():
        shutil.copytree(kept, path)
    config = json.loads((kept / "config.json").read_text())
    section = data.draw(st.sampled_from([config, config["parameters"], config["facts"]]))
    section[data.draw(st.sampled_from(sorted(section)))] = value
    (path / "config.json").write_text(json.dumps(config))
    load_or_refuse(path)


def test_a_failed_write_leaves_the_previous_estimator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model"
    first = regressor()
    first.save(path)
    content = {p.name: p.read_bytes() for p in path.iterdir()}

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        regressor(hidden_size=9).save(path, overwrite=True)
    assert {p.name: p.read_bytes() for p in path.iterdir()} == content
