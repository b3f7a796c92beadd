"""GRURegressor and GRUClassifier: sequences to numbers or classes, as scikit-learn's users expect it.

Letters: n samples, T steps, F features, O targets or classes.
"""

import contextlib
import copy
import dataclasses
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import assert_all_finite, check_array, check_random_state, column_or_1d
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from headgate.errors import InputError
from headgate.estimators.validation import as_input_error, is_table, rollback_on_error, unequal
from headgate.models.sequence_model import SequenceModel, spread_memory
from headgate.runs import estimator_directory
from headgate.sequences.arrays import Scale, Sequences
from headgate.settings.estimators import ClassifierParameters, SequenceParameters, check_parameters
from headgate.settings.run import TrainingSettings
from headgate.training.fitting import Examples, FitState, cross_entropy, fit, predict, squared_error, trivial_loss

# epochs="auto": so many, and further ones until the loss is this share of the trivial one, or until there were so many
# updates for each step of the longest sequence, and so many at most.
LEAST_EPOCHS, LEARNED, UPDATES_PER_STEP, MOST_UPDATES = 100, 0.1, 10, 1000
LONG = 50  # steps of sequences for which half of the units are made to remember from the start
TRIAL, UNTRAINED = (
    20,
    0.9,
)  # a fit of fewer epochs is a trial; one that ends above this share of the trivial loss is none


@dataclass(kw_only=True, repr=False, eq=False)
class _SequenceEstimator(SequenceParameters, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """What both estimators share."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learn from X and y; with ``warm_start``, go on from what was learned before.

        X              (n, T, F), (n, T) for one feature, or a list of (T_i, F) or (T_i,) arrays
        y              one value for each sample; for the regressor also (n, O)
        sample_weight  (n,), at least 0: how much each sample counts in the loss and in standardizing

        Raises ValueError for what cannot be learned from, and then leaves the estimator as it was. Warns
        (ConvergenceWarning) where twenty epochs or more have come to no more than ``baseline_loss_`` does.
        """
        with rollback_on_error(self):
            go_on = self.warm_start and hasattr(self, "model_")
            before = self.n_iter_ if go_on else 0
            self._learn(X, y, sample_weight, go_on=go_on)
        if said := self._untrained(before):
            warnings.warn(said, ConvergenceWarning, stacklevel=2)
        return self

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write what was learned, and the parameters, into a directory, without pickle. Not saved: the optimizer's
        state (fitting on after :meth:`load` starts it anew) and a ``random_state`` that is a generator.

        Raises InputError where the directory holds something else, or a fitted estimator and not ``overwrite``.
        """
        estimator_directory.write(path, type(self).__name__, self.get_params(), *self.to_state(), overwrite=overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what :meth:`save` wrote. Raises InputError for what is damaged, or another kind of estimator."""
        found = estimator_directory.read(path, cls.__name__)
        with found.damage():
            return cls.from_state(found.parameters, found.facts, found.arrays)

    def to_state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What was learned, as facts and arrays, from which :meth:`restore` makes the estimator again."""
        check_is_fitted(self, "model_")
        arrays = {f"model.{name}": value.cpu().numpy() for name, value in self.model_.state_dict().items()}
        for name in ("x_scale_", "y_scale_"):
            scale = getattr(self, name)
            arrays |= {f"{name}.mean": scale.mean, f"{name}.deviation": scale.deviation}
        return {name: getattr(self, name) for name in self._FACTS if hasattr(self, name)}, arrays

    @classmethod
    def from_state(
        cls, parameters: Mapping[str, Any], facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
    ) -> Self:
        """The estimator that :meth:`to_state` described."""
        self = cls(**parameters)
        for name in cls._FACTS:
            if name in facts:
                setattr(self, name, facts[name])
        for name in ("x_scale_", "y_scale_"):
            setattr(self, name, Scale(arrays[f"{name}.mean"], arrays[f"{name}.deviation"]))
        weights = {k.removeprefix("model."): torch.from_numpy(v) for k, v in arrays.items() if k.startswith("model.")}
        D, H = 2 if self.bidirectional else 1, self.hidden_size
        expected = {"gru.weight_hh_l0": (3 * H, H), "gru.weight_ih_l0": (3 * H, len(self.x_scale_.mean))}
        found = {name: tuple(weights[name].shape) for name in expected}
        if found != expected or sum("weight_hh" in name for name in weights) != D * self.num_layers:
            raise ValueError(f"weights of the sizes {found} are not those of hidden_size={H}")  # before any is made
        outputs, features = len(weights["head.weight"]), len(self.x_scale_.mean)
        if any(len(scale.mean) != len(scale.deviation) for scale in (self.x_scale_, self.y_scale_)) or not outputs:
            raise ValueError("means and deviations, or outputs, are missing")
        if type(self._table) is not bool or (1 if self._table else self.n_features_in_) != features:  # type: ignore[redundant-expr]
            raise ValueError(f"numbers of {features} features, not of n_features_in_")
        self._fit = self._begin(features, outputs, self._settings(self._least_epochs()), 0)
        self._fit.model.load_state_dict(weights)
        self._fit.history = facts["history_"]
        self._publish()
        return self

    _MODEL = ("hidden_size", "num_layers", "bidirectional", "pool", "reset")  # what a model cannot change later
    _FACTS = ("n_features_in_", "feature_names_in_", "classes_", "history_", "baseline_loss_", "_table", "_columns")

    def _learn(
        self, X: Any, y: Any, sample_weight: Any, *, go_on: bool, one_epoch: bool = False, classes: Any = None
    ) -> None:
        check_parameters(self)
        settings = self._settings(1 if one_epoch else self._least_epochs())
        if go_on and (changed := [name for name in self._MODEL if getattr(self, name) != self._model_parameters[name]]):
            raise InputError(
                f"fitting goes on with the model that there is, whose {changed[0]} was "
                f"{self._model_parameters[changed[0]]!r} and not {getattr(self, changed[0])!r}: set it back, or fit "
                "with warm_start=False"
            )
        sequences = self._read(X, fitting=not go_on)
        if y is None:
            raise InputError(f"{type(self).__name__} requires y to be passed, but the target y is None")
        targets = self._read_targets(y, fitting=not go_on, classes=classes)
        n = len(sequences)
        if len(targets) != n:
            raise InputError(unequal(n, len(targets), X))
        weights = self._weights(sample_weight, targets)
        random = check_random_state(self.random_state)
        training, held_out = np.arange(n), None
        if self.early_stopping and not one_epoch:
            training, held_out = self._split(targets, random)
        if go_on:
            self._fit: FitState = copy.deepcopy(self._fit)  # an epoch that fails leaves nothing behind
            self._fit.settings = settings
        else:
            self._standardize(
                sequences.take(training), targets[training], None if weights is None else weights[training]
            )
            outputs = targets.shape[1] if targets.ndim == 2 else len(self.classes_)
            self._fit = self._begin(sequences.features, outputs, settings, int(random.randint(2**31 - 1)))
            if sequences.lengths.max() >= LONG:
                with self._own_random(int(self._fit.random.integers(2**63))):
                    spread_memory(self._fit.model.gru, int(sequences.lengths.max()))
        if targets.ndim == 2:
            targets = self.y_scale_.apply(targets).astype(np.float32)
        if weights is not None:
            weights = weights.astype(np.float32)
        examples = Examples(self._scaled(sequences), targets, weights)
        known, unknown = examples.take(training), None if held_out is None else examples.take(held_out)
        self.baseline_loss_ = trivial_loss(known)
        with self._own_random(int(self._fit.random.integers(2**63))):
            before = len(self._fit.history)
            fit(self._fit, known, unknown, verbose=self.verbose)
            if not one_epoch and self._automatic:
                self._train_longer(known, unknown, before)
        self._publish()
        if self.verbose and not one_epoch:
            print(f"loss {self._reached(before):.4f}; {self._TRIVIAL} alone would have {self.baseline_loss_:.4f}")

    def _publish(self) -> None:
        self._model_parameters = {name: getattr(self, name) for name in self._MODEL}
        self.model_ = self._fit.model.eval()
        self.history_ = self._fit.history
        self.loss_curve_ = [entry["loss"] for entry in self.history_]
        self.n_iter_ = len(self.history_)

    @property
    def _automatic(self) -> bool:
        epochs: Any = self.epochs
        return isinstance(epochs, str) and epochs == "auto"

    def _least_epochs(self) -> int:
        return LEAST_EPOCHS if self._automatic else int(self.epochs)

    def _train_longer(self, known: Examples, held_out: Examples | None, before: int) -> None:
        """Train in further cycles of the learning rate, each up to twice as long as the one before, while little has
        been learned and there were few updates for sequences of such a length; early stopping stops this too."""
        per_epoch = -(-len(known.sequences) // self._fit.settings.batch_size)
        enough = min(UPDATES_PER_STEP * int(known.sequences.lengths.max()), MOST_UPDATES)
        planned = epochs = LEAST_EPOCHS
        while len(self._fit.history) - before == planned and planned * per_epoch < enough:
            if not self._fit.history[-1]["loss"] > LEARNED * self.baseline_loss_:
                return
            epochs = min(2 * epochs, -(-(enough - planned * per_epoch) // per_epoch))
            planned += epochs
            self._fit.settings = dataclasses.replace(self._fit.settings, epochs=epochs)
            fit(self._fit, known, held_out, verbose=self.verbose)

    def _reached(self, before: int) -> float:
        """The training loss of the last epoch, or of that whose weights early stopping has kept."""
        entries = self.history_[before:]
        return min(entries, key=lambda entry: entry.get("held_out", -entry["epoch"]))["loss"]

    def _untrained(self, before: int) -> str | None:
        """What to warn of where the epochs after ``before`` ended with next to nothing learned."""
        epochs, reached = self.n_iter_ - before, self._reached(before)
        if epochs < TRIAL or not reached > UNTRAINED * self.baseline_loss_ > 0:
            return None
        return (
            f"{type(self).__name__} has learned little: after {epochs} epochs the training loss is "
            f"{reached:.4g}, and {self._TRIVIAL} alone would have {self.baseline_loss_:.4g}. There may be little to "
            "learn; otherwise try more epochs, another learning_rate or pool, smaller batches, or shorter sequences "
            "(every fourth step, say)"
        )

    def _settings(self, epochs: int) -> TrainingSettings:
        """What training needs to know of the parameters."""
        try:
            device = torch.device(self.device)
            missing = device.type == "cuda" and not torch.cuda.is_available()
            missing |= device.type == "mps" and not torch.backends.mps.is_available()
        except RuntimeError:
            missing = True
        if missing:
            raise InputError(f'device must be one that torch can use here, got {self.device!r}; "cpu" always is')
        return TrainingSettings(
            epochs=epochs, batch_size=int(self.batch_size), optimizer="adamw", learning_rate=float(self.learning_rate),
            weight_decay=float(self.weight_decay), schedule=self.schedule if epochs > 1 else "constant",
            clip=float(self.clip), patience=int(self.patience),
        )  # fmt: skip

    def _read(self, X: Any, *, fitting: bool) -> Sequences:
        """X checked; when ``fitting``, what it looks like is noted, otherwise compared with that."""
        if is_table(X) and (fitting or self._table):
            with as_input_error():
                X = validate_data(self, X, reset=fitting, dtype=np.float64, ensure_all_finite=False)
            self._table: bool = True
            return Sequences.read(X)
        sequences = Sequences.read(X)
        F = sequences.features
        if fitting:
            self._table, self.n_features_in_ = False, F
            self.__dict__.pop("feature_names_in_", None)
        expected = 1 if self._table else self.n_features_in_
        if expected != F:
            shape: tuple[int, ...] = X.shape if isinstance(X, np.ndarray) else ()
            hint = "give the features that it was fitted with"
            if len(shape) == 3 and shape[1] == expected:
                hint = f"the last two axes of {shape} look swapped, X.transpose(0, 2, 1) has {expected}"
            raise InputError(
                f"X has {F} features, but {type(self).__name__} is expecting {expected} features as input "
                f"(X is read as (samples, steps, features)): {hint}"
            )
        return sequences

    def _read_targets(self, y: Any, *, fitting: bool, classes: Any) -> np.ndarray:
        """y checked, as what the loss takes: numbers (n, O), or classes (n,) that index ``classes_``."""
        raise NotImplementedError

    def _weights(self, sample_weight: Any, targets: np.ndarray) -> np.ndarray | None:
        """The weight of each sample, with a mean of 1 (n,); None where all are the same."""
        if sample_weight is None:
            return None
        n = len(targets)
        weights = np.full(n, sample_weight) if isinstance(sample_weight, int | float) else sample_weight
        with as_input_error():
            weights = check_array(
                weights, ensure_2d=False, dtype=np.float64, input_name="sample_weight", estimator=self
            )
        if weights.shape != (n,):
            raise InputError(f"sample_weight must have the shape ({n},), one for each sample, got {weights.shape}")
        if weights.min() < 0 or not weights.any():
            found = f"{weights.min():g} at sample {int(weights.argmin())}" if weights.any() else "only zeros"
            raise InputError(f"sample_weight must be at least 0, and above it somewhere, got {found}")
        with np.errstate(over="ignore"):
            mean = weights.mean()
        if not np.isfinite(mean):  # the sum of numbers near 1e308
            weights = weights / weights.max()
            mean = weights.mean()
        return np.asarray(weights / mean)

    def _split(self, targets: np.ndarray, random: Any) -> tuple[np.ndarray, np.ndarray]:
        """Indices to train on and to hold out; of every class in both."""
        n, classes = len(targets), targets if targets.ndim == 1 else None
        held_out = int(np.ceil(self.validation_fraction * n))
        least = 1 if classes is None else len(np.unique(classes))
        fewest = 2 if classes is None else np.unique(classes, return_counts=True)[1].min()
        if not least <= held_out <= n - least or fewest < 2:
            need = f"{least} on each side" + ("" if classes is None else ", and two of every class")
            raise InputError(
                f"early_stopping would hold out {held_out} of {n} samples (validation_fraction="
                f"{self.validation_fraction}), and needs at least {need}: give more samples, another "
                "validation_fraction, or early_stopping=False"
            )
        training, held = train_test_split(np.arange(n), test_size=held_out, random_state=random, stratify=classes)
        return training, held

    def _standardize(self, sequences: Sequences, targets: np.ndarray, weights: np.ndarray | None) -> None:
        columns = targets.shape[1] if targets.ndim == 2 else 0
        self.x_scale_, self.y_scale_ = Scale.none(sequences.features), Scale.none(columns)
        if self.standardize:
            steps = None if weights is None else np.repeat(weights, sequences.lengths)
            self.x_scale_ = Scale.of(sequences.values, steps)
            if columns:
                self.y_scale_ = Scale.of(targets, weights)

    def _begin(self, features: int, outputs: int, settings: TrainingSettings, seed: int) -> FitState:
        with self._own_random(seed):
            model = SequenceModel(
                features, int(self.hidden_size), outputs, int(self.num_layers), bidirectional=bool(self.bidirectional),
                pool=self.pool, dropout=float(self.dropout), reset=self.reset, backend=self.backend, device=self.device,
            )  # fmt: skip
        loss = cross_entropy if isinstance(self, ClassifierMixin) else squared_error
        return FitState(model, settings, loss, np.random.default_rng(seed))

    def _scaled(self, sequences: Sequences) -> Sequences:
        with np.errstate(over="ignore"):
            values = self.x_scale_.apply(sequences.values).astype(np.float32)
        if not np.isfinite(values).all():
            raise InputError("X has numbers that are too large for float32 even when standardized: scale them down")
        return Sequences(values, sequences.lengths)

    def _predicted(self, X: Any) -> np.ndarray:
        """What the model gives, (n, O) float64, still standardized."""
        check_is_fitted(self, "model_")
        return predict(self.model_, self._scaled(self._read(X, fitting=False))).astype(np.float64)

    @contextlib.contextmanager
    def _own_random(self, seed: int) -> Iterator[None]:
        """torch draws from this seed, and goes on afterwards as if nothing had been drawn."""
        device = torch.device(self.device)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield


@dataclass(kw_only=True, repr=False, eq=False)
class GRURegressor(RegressorMixin, _SequenceEstimator):  # type: ignore[misc]
    """Sequences to numbers: a :class:`headgate.SequenceModel` fitted to least squares by AdamW, as an estimator of
    scikit-learn. A sequence's prediction does not depend on those beside it. Where sequences have fifty steps or more,
    half of the units begin with a long memory (:func:`headgate.models.sequence_model.spread_memory`).

    hidden_size, num_layers, bidirectional, pool, dropout, reset, backend: the model's, see there
    epochs               passes over the samples; "auto": 100, and more while the loss is above a tenth of
                         ``baseline_loss_``, until there were ten updates for each step of the longest sequence, 1,000
                         at most; the learning rate then begins again, for up to twice as long each time
    batch_size           samples of a step, of much the same length
    learning_rate        of AdamW; schedule "cosine" lets it fall to a hundredth of it over the epochs, "constant" not
    weight_decay         of AdamW
    clip                 the largest norm of a gradient; 0: not clipped
    standardize          True: X and y have their mean taken away and are divided by their standard deviation, column by
                         column, as found in the samples that are trained on; predictions are in the units of y
    early_stopping       True: hold out ``validation_fraction`` of the samples, stop after ``patience`` epochs without a
                         lower loss on them, and use the weights for which that was lowest
    warm_start           True: ``fit`` goes on from the last fit (its standardizing too)
    random_state         a whole number makes fits the same to the bit, on one machine with as many threads
    verbose              1: print every tenth epoch, 2: every one; both show a bar on a terminal
    device               "cpu", "cuda", ...

    After ``fit``: ``model_``, ``history_`` (a dict for each epoch: loss, and held_out where there is one),
    ``loss_curve_``, ``baseline_loss_`` (of predicting the mean, or the frequencies of the classes, whatever the
    sequence), ``n_iter_``, ``x_scale_``, ``y_scale_``, ``n_features_in_``. Losses are of standardized targets.

    >>> X, y = np.random.default_rng(0).normal(size=(40, 7, 3)), np.arange(40.0)  # (n, T, F), (n,)
    >>> GRURegressor(hidden_size=8, epochs=2, random_state=0).fit(X, y).predict(X[:5]).shape
    (5,)
    """

    _TRIVIAL = "the mean"

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """One more epoch, over these samples; arguments as of :meth:`fit`. The first call standardizes for all."""
        with rollback_on_error(self):
            self._learn(X, y, sample_weight, go_on=hasattr(self, "model_"), one_epoch=True)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The number expected for each sequence of X: (n,), or (n, O) where y had columns."""
        predicted = self._predicted(X)
        numbers = self.y_scale_.undo(predicted)
        return numbers if self._columns else numbers[:, 0]

    def _read_targets(self, y: Any, *, fitting: bool, classes: Any) -> np.ndarray:
        with as_input_error():
            targets = check_array(y, ensure_2d=False, allow_nd=True, dtype=np.float64, input_name="y", estimator=self)
        columns = targets.shape[1] if targets.ndim == 2 else 0
        if targets.ndim > 2 or (not fitting and columns != self._columns):
            expected = "(samples,) or (samples, targets)"
            if not fitting:
                expected = f"(samples, {self._columns})" if self._columns else "(samples,)"
            raise InputError(f"y must have the shape {expected}, got {targets.shape}")
        self._columns: int = columns
        return np.asarray(targets.reshape(len(targets), -1))


@dataclass(kw_only=True, repr=False, eq=False)
class GRUClassifier(ClassifierMixin, ClassifierParameters, _SequenceEstimator):  # type: ignore[misc]
    """Sequences to classes: a :class:`headgate.SequenceModel` fitted to cross-entropy by AdamW, as an estimator of
    scikit-learn. Labels may be numbers or strings.

    Parameters and what ``fit`` leaves are those of :class:`GRURegressor`, and

    class_weight         None, "balanced" (all classes count the same), or a dict from label to weight
    classes_             the labels, sorted: the order of the columns of ``predict_proba``

    >>> X, y = np.random.default_rng(0).normal(size=(40, 7, 3)), np.repeat(["no", "yes"], 20)
    >>> classifier = GRUClassifier(hidden_size=8, epochs=2, random_state=0).fit(X, y)
    >>> classifier.classes_.tolist(), classifier.predict_proba(X[:5]).shape
    (['no', 'yes'], (5, 2))
    """

    _TRIVIAL = "the class frequencies"

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """One more epoch, over these samples; arguments as of :meth:`fit`. The first call standardizes for all, and
        takes in ``classes`` every label that will ever come (None: those of its y)."""
        with rollback_on_error(self):
            self._learn(X, y, sample_weight, go_on=hasattr(self, "model_"), one_epoch=True, classes=classes)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each sequence: (n,)."""
        best = self._predicted(X).argmax(1)
        return np.asarray(self.classes_[best])

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each class, in the order of ``classes_``, for each sequence: (n, O)."""
        return np.asarray(softmax(self._predicted(X), axis=1))

    def _read_targets(self, y: Any, *, fitting: bool, classes: Any) -> np.ndarray:
        with as_input_error():
            labels = column_or_1d(y, warn=True)
            assert_all_finite(labels, input_name="y")
            check_classification_targets(labels)
            given = None if classes is None else np.unique(column_or_1d(classes))
        found = np.unique(labels)
        if fitting:
            self.classes_ = found if given is None else given
        elif given is not None and not np.array_equal(given, self.classes_):
            raise InputError(f"classes were {self.classes_.tolist()} at first, now {given.tolist()}: omit them")
        if len(self.classes_) < 2:
            raise InputError(
                f"y has one class only, {self.classes_.tolist()[0]!r}: at least two are needed to tell them apart"
            )
        unknown = np.setdiff1d(found, self.classes_)
        if len(unknown):
            raise InputError(
                f"y has a class that was not there before, {unknown.tolist()[0]!r}: known are {self.classes_.tolist()}"
            )
        return np.asarray(np.searchsorted(self.classes_, labels))

    def _weights(self, sample_weight: Any, targets: np.ndarray) -> np.ndarray | None:
        weights = super()._weights(sample_weight, targets)
        if self.class_weight is None:
            return weights
        if self.class_weight != "balanced" and not isinstance(self.class_weight, Mapping):
            raise InputError(f'class_weight must be None, "balanced" or a dict, got {self.class_weight!r}')
        of_class = compute_sample_weight(self.class_weight, self.classes_[targets])
        weights = of_class if weights is None else weights * of_class
        if not (np.isfinite(weights).all() and weights.min() >= 0 and weights.any()):
            raise InputError("class_weight must be finite and at least 0, and leave samples of some weight")
        return np.asarray(weights / weights.mean())
