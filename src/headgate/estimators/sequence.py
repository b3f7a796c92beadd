"""GRURegressor and GRUClassifier: scikit-learn estimators that map sequences to numbers or classes.

Letters: n samples, T steps, F features, O targets or classes.
"""

import contextlib
import copy
import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from scipy.special import softmax
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import assert_all_finite, check_array, check_random_state, column_or_1d
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from headgate.errors import InputError
from headgate.estimators.saving import SavedEstimator
from headgate.estimators.validation import as_input_error, is_table, rollback_on_error, unequal
from headgate.models.sequence_model import SequenceModel, spread_memory
from headgate.sequences.arrays import Scale, Sequences
from headgate.settings.estimators import ClassifierParameters, SequenceParameters, check_parameters
from headgate.settings.run import TrainingSettings
from headgate.training.fitting import Examples, FitState, cross_entropy, fit, predict, squared_error, trivial_loss

# epochs="auto": LEAST_EPOCHS, and more until the loss is below LEARNED times the trivial loss, or until there were
# UPDATES_PER_STEP updates per step of the longest sequence, at most MOST_UPDATES.
LEAST_EPOCHS, LEARNED, UPDATES_PER_STEP, MOST_UPDATES = 100, 0.1, 10, 1000
LONG = 50  # steps from which half of the units are initialized to remember for long
TRIAL, UNTRAINED = 20, 0.9  # warn if at least TRIAL epochs end above UNTRAINED times the trivial loss


@dataclass(kw_only=True, repr=False, eq=False)
class _SequenceEstimator(SequenceParameters, SavedEstimator):
    """The base class of both estimators."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the model to X and y; with ``warm_start``, continue from the previous fit.

        Parameters
        ----------
        X : array (n, T, F) or (n, T), or list of arrays (T_i, F) or (T_i,)
            The sequences; without the last axis they have one feature.
        y : array (n,), or for the regressor also (n, O)
            The targets.
        sample_weight : array (n,) or number, optional
            The non-negative weight of each sample in the loss and in standardizing.

        Returns
        -------
        self

        Raises
        ------
        InputError
            If the parameters or the data are invalid.

        Warns
        -----
        ConvergenceWarning
            If the training loss is still above 0.9 ``baseline_loss_`` after 20 epochs or more.

        Notes
        -----
        If fitting fails or is interrupted, the estimator keeps its previous state.
        """
        with rollback_on_error(self):
            go_on = self.warm_start and hasattr(self, "model_")
            before = self.n_iter_ if go_on else 0
            self._learn(X, y, sample_weight, go_on=go_on)
        if message := self._untrained(before):
            warnings.warn(message, ConvergenceWarning, stacklevel=2)
        return self

    def to_state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the fitted state as JSON values and arrays, for :meth:`from_state`."""
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
        """Return a fitted estimator with these parameters and the state that :meth:`to_state` returned."""
        self = cls(**parameters)
        for name in cls._FACTS:
            if name in facts:
                setattr(self, name, facts[name])
        for name in ("x_scale_", "y_scale_"):
            setattr(self, name, Scale(arrays[f"{name}.mean"], arrays[f"{name}.deviation"]))
        weights = {k.removeprefix("model."): torch.from_numpy(v) for k, v in arrays.items() if k.startswith("model.")}
        D, H = 2 if self.bidirectional else 1, self.hidden_size
        expected = {"gru.weight_hh_l0": (3 * H, H), "gru.weight_ih_l0": (3 * H, len(self.x_scale_.mean))}
        shapes = {name: tuple(weights[name].shape) for name in expected}
        if shapes != expected or sum("weight_hh" in name for name in weights) != D * self.num_layers:
            # checked first, because a damaged hidden_size could allocate a huge model
            raise ValueError(f"weights of the sizes {shapes} do not fit hidden_size={H}")
        outputs, features = len(weights["head.weight"]), len(self.x_scale_.mean)
        if any(len(scale.mean) != len(scale.deviation) for scale in (self.x_scale_, self.y_scale_)) or not outputs:
            raise ValueError("means, deviations or outputs are missing")
        if type(self._table) is not bool or (1 if self._table else self.n_features_in_) != features:  # type: ignore[redundant-expr]
            raise ValueError(f"the scales have {features} features, which is not n_features_in_")
        self._fit = self._begin(features, outputs, self._settings(self._least_epochs()), 0)
        self._fit.model.load_state_dict(weights)
        self._fit.history = facts["history_"]
        self._publish()
        return self

    _MODEL = ("hidden_size", "num_layers", "bidirectional", "pool", "reset")  # fixed once a model exists
    _FACTS = ("n_features_in_", "feature_names_in_", "classes_", "history_", "baseline_loss_", "_table", "_columns")

    def _learn(
        self, X: Any, y: Any, sample_weight: Any, *, go_on: bool, one_epoch: bool = False, classes: Any = None
    ) -> None:
        check_parameters(self)
        settings = self._settings(1 if one_epoch else self._least_epochs())
        if go_on and (changed := [name for name in self._MODEL if getattr(self, name) != self._model_parameters[name]]):
            raise InputError(
                f"the fitted model has {changed[0]}={self._model_parameters[changed[0]]!r} and training it further "
                f"cannot change that, got {getattr(self, changed[0])!r}: set it back, or fit with warm_start=False"
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
            self._fit: FitState = copy.deepcopy(self._fit)  # so that a failed epoch changes nothing
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
            print(f"loss {self._reached(before):.4f}; predicting {self._TRIVIAL} gives {self.baseline_loss_:.4f}")

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
        """Add cycles of the learning rate, each up to twice as long as the last, for long sequences that learn slowly.

        Stop when the loss is below LEARNED times the trivial loss, after enough updates, or when early stopping stops.
        """
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
        """Return the training loss of the last epoch, or of the epoch whose weights early stopping kept."""
        entries = self.history_[before:]
        return min(entries, key=lambda entry: entry.get("held_out", -entry["epoch"]))["loss"]

    def _untrained(self, before: int) -> str | None:
        """Return a warning if the epochs after ``before`` learned next to nothing, else None."""
        epochs, reached = self.n_iter_ - before, self._reached(before)
        if epochs < TRIAL or not reached > UNTRAINED * self.baseline_loss_ > 0:
            return None
        return (
            f"{type(self).__name__} has learned little: after {epochs} epochs the training loss is "
            f"{reached:.4g}, and predicting {self._TRIVIAL} gives {self.baseline_loss_:.4g}. There may be little to "
            "learn; otherwise try more epochs, another learning_rate or pool, smaller batches, or shorter sequences "
            "(every fourth step, for example)"
        )

    def _settings(self, epochs: int) -> TrainingSettings:
        """Return the parameters as training settings, and check the device."""
        try:
            device = torch.device(self.device)
            missing = device.type == "cuda" and not torch.cuda.is_available()
            missing |= device.type == "mps" and not torch.backends.mps.is_available()
        except RuntimeError:
            missing = True
        if missing:
            raise InputError(f'device must be one that torch can use on this machine, got {self.device!r}: use "cpu"')
        return TrainingSettings(
            epochs=epochs,
            batch_size=int(self.batch_size),
            optimizer="adamw",
            learning_rate=float(self.learning_rate),
            weight_decay=float(self.weight_decay),
            schedule=self.schedule if epochs > 1 else "constant",
            clip=float(self.clip),
            patience=int(self.patience),
        )

    def _read(self, X: Any, *, fitting: bool) -> Sequences:
        """Check X and read it; store its form if ``fitting``, otherwise require the stored one."""
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
            hint = "give the features of fit"
            if len(shape) == 3 and shape[1] == expected:
                hint = f"the last two axes of {shape} look swapped, X.transpose(0, 2, 1) has {expected}"
            raise InputError(
                f"X has {F} features, but {type(self).__name__} is expecting {expected} features as input "
                f"(X is read as (samples, steps, features)): {hint}"
            )
        return sequences

    def _read_targets(self, y: Any, *, fitting: bool, classes: Any) -> np.ndarray:
        """Check y and return the targets of the loss: numbers (n, O), or indices (n,) into ``classes_``."""
        raise NotImplementedError

    def _weights(self, sample_weight: Any, targets: np.ndarray) -> np.ndarray | None:
        """Return sample weights (n,) with a mean of 1; None if all samples count the same."""
        if sample_weight is None:
            return None
        n = len(targets)
        weights = np.full(n, sample_weight) if isinstance(sample_weight, int | float) else sample_weight
        with as_input_error():
            weights = check_array(
                weights, ensure_2d=False, dtype=np.float64, input_name="sample_weight", estimator=self
            )
        if weights.shape != (n,):
            raise InputError(f"sample_weight must have the shape ({n},), one per sample, got {weights.shape}")
        if weights.min() < 0 or not weights.any():
            wrong = f"{weights.min():g} at sample {int(weights.argmin())}" if weights.any() else "only zeros"
            raise InputError(f"sample_weight must be at least 0, and above 0 for some sample, got {wrong}")
        with np.errstate(over="ignore"):
            mean = weights.mean()
        if not np.isfinite(mean):  # the sum of numbers near 1e308 overflows
            weights = weights / weights.max()
            mean = weights.mean()
        return np.asarray(weights / mean)

    def _split(self, targets: np.ndarray, random: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices to train on and to hold out, both with samples of every class."""
        n, classes = len(targets), targets if targets.ndim == 1 else None
        held_out = int(np.ceil(self.validation_fraction * n))
        least = 1 if classes is None else len(np.unique(classes))
        fewest = 2 if classes is None else np.unique(classes, return_counts=True)[1].min()
        if not least <= held_out <= n - least or fewest < 2:
            need = f"{least} on each side" + ("" if classes is None else ", and two of every class")
            raise InputError(
                f"early_stopping would hold out {held_out} of {n} samples (validation_fraction="
                f"{self.validation_fraction}), but needs at least {need}: give more samples, another "
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
                features,
                int(self.hidden_size),
                outputs,
                int(self.num_layers),
                bidirectional=bool(self.bidirectional),
                pool=self.pool,
                dropout=float(self.dropout),
                reset=self.reset,
                backend=self.backend,
                device=self.device,
            )
        loss = cross_entropy if isinstance(self, ClassifierMixin) else squared_error
        return FitState(model, settings, loss, np.random.default_rng(seed))

    def _scaled(self, sequences: Sequences) -> Sequences:
        with np.errstate(over="ignore"):
            values = self.x_scale_.apply(sequences.values).astype(np.float32)
        if not np.isfinite(values).all():
            raise InputError("X has numbers that are too large for float32 even when standardized: scale them down")
        return Sequences(values, sequences.lengths)

    def _predicted(self, X: Any) -> np.ndarray:
        """Return the outputs of the model, (n, O) float64, in standardized units."""
        check_is_fitted(self, "model_")
        return predict(self.model_, self._scaled(self._read(X, fitting=False))).astype(np.float64)

    @contextlib.contextmanager
    def _own_random(self, seed: int) -> Iterator[None]:
        """Context manager: seed torch's generators for the block, and restore their states after it."""
        device = torch.device(self.device)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield


@dataclass(kw_only=True, repr=False, eq=False)
class GRURegressor(RegressorMixin, _SequenceEstimator):  # type: ignore[misc]
    """Regression on sequences, as a scikit-learn estimator.

    A :class:`headgate.SequenceModel` fitted to the mean squared error by AdamW.

    Parameters
    ----------
    hidden_size, num_layers : int
        Units of each layer, and layers of the GRU.
    bidirectional : bool
        Read sequences from both ends.
    pool : {"last", "mean", "max"}
        The summary of the GRU's states; see :class:`headgate.SequenceModel`.
    dropout : float
        Probability, between layers and before the linear layer.
    reset : {"after", "before"}
        The variant of the GRU; see :class:`headgate.GRU`.
    epochs : int or "auto"
        Passes over the samples. "auto": 100, and more while the loss is above a tenth of ``baseline_loss_``, until
        there were ten updates per step of the longest sequence, at most 1,000. Each extension starts the schedule of
        the learning rate again and is up to twice as long as the one before.
    batch_size : int
        Samples per update. Sequences of similar length form a batch.
    learning_rate : float
        The initial learning rate.
    schedule : {"cosine", "constant"}
        "cosine": the learning rate falls to a hundredth over the epochs.
    weight_decay : float
        The decoupled weight decay of AdamW.
    clip : float
        The largest gradient norm; 0: no clipping.
    standardize : bool
        Subtract the mean from each column of X and y and divide by its standard deviation, both computed from the
        training samples. Predictions are in the units of y.
    early_stopping : bool
        Hold out ``validation_fraction`` of the samples, stop after ``patience`` epochs without a lower loss on them,
        and keep the weights with the lowest one.
    validation_fraction : float
        The share of the samples held out for early stopping.
    patience : int
        Epochs without a lower held-out loss before early stopping stops.
    warm_start : bool
        ``fit`` continues from the previous fit, with its standardization.
    random_state : int, generator or None
        An integer makes fits reproducible to the bit on the same machine with the same number of threads.
    verbose : int
        1: print every tenth epoch; 2: print every epoch. Both show a progress bar on a terminal.
    device : str
        "cpu", "cuda", ...
    backend : str
        The implementation of the GRU; see :class:`headgate.GRU`.

    Attributes
    ----------
    model_ : SequenceModel
        The fitted model, in evaluation mode.
    history_ : list of dict
        For each epoch its number, the loss, and with early stopping the loss ``held_out``. Losses are those of
        standardized targets.
    loss_curve_ : list of float
        The training loss of each epoch.
    baseline_loss_ : float
        The loss of predicting the mean (for the classifier, the class frequencies) for every sequence.
    n_iter_ : int
        Epochs trained.
    x_scale_, y_scale_ : Scale
        Means and standard deviations of X and y.
    n_features_in_ : int
        F, or T if X was (n, T).

    Notes
    -----
    The prediction for a sequence does not depend on the other sequences in X. If the longest sequence has at least 50
    steps, half of the units are initialized to remember for long (chrono initialization, Tallec and Ollivier 2018).

    Examples
    --------
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
        """Train for one epoch on these samples.

        Parameters
        ----------
        X, y, sample_weight
            As for :meth:`fit`. The first call determines the standardization.

        Returns
        -------
        self

        Raises
        ------
        InputError
            As :meth:`fit`.
        """
        with rollback_on_error(self):
            self._learn(X, y, sample_weight, go_on=hasattr(self, "model_"), one_epoch=True)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Predict a number for each sequence.

        Parameters
        ----------
        X : array (n, T, F) or (n, T), or list of arrays (T_i, F) or (T_i,)
            Sequences with the features of ``fit``.

        Returns
        -------
        array (n,), float64
            Or (n, O) if the y of ``fit`` had columns. In the units of y.

        Raises
        ------
        InputError
            If X is invalid or has other features.
        """
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
    """Classification of sequences, as a scikit-learn estimator.

    A :class:`headgate.SequenceModel` fitted to the cross-entropy by AdamW. Labels may be numbers or strings.

    Parameters
    ----------
    class_weight : None, "balanced" or dict
        The weight of each class in the loss: None for 1, "balanced" for the same total weight of all classes, or a
        dict from label to weight.
    **parameters
        Those of :class:`GRURegressor`.

    Attributes
    ----------
    classes_ : array (O,)
        The labels, sorted; the order of the columns of ``predict_proba``.
    **attributes
        Those of :class:`GRURegressor`.

    Examples
    --------
    >>> X, y = np.random.default_rng(0).normal(size=(40, 7, 3)), np.repeat(["no", "yes"], 20)
    >>> classifier = GRUClassifier(hidden_size=8, epochs=2, random_state=0).fit(X, y)
    >>> classifier.classes_.tolist(), classifier.predict_proba(X[:5]).shape
    (['no', 'yes'], (5, 2))
    """

    _TRIVIAL = "the class frequencies"

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Train for one epoch on these samples.

        Parameters
        ----------
        X, y, sample_weight
            As for :meth:`fit`. The first call determines the standardization.
        classes : array, optional
            All labels that may occur in any call; needed in the first call unless its y contains all of them.

        Returns
        -------
        self

        Raises
        ------
        InputError
            As :meth:`fit`, and if y contains a label that is not in ``classes_``.
        """
        with rollback_on_error(self):
            self._learn(X, y, sample_weight, go_on=hasattr(self, "model_"), one_epoch=True, classes=classes)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Predict the most probable class of each sequence.

        Parameters
        ----------
        X : array (n, T, F) or (n, T), or list of arrays (T_i, F) or (T_i,)
            Sequences with the features of ``fit``.

        Returns
        -------
        array (n,)
            Labels from ``classes_``.

        Raises
        ------
        InputError
            If X is invalid or has other features.
        """
        best = self._predicted(X).argmax(1)
        return np.asarray(self.classes_[best])

    def predict_proba(self, X: Any) -> np.ndarray:
        """Predict the probability of each class for each sequence.

        Parameters
        ----------
        X : array (n, T, F) or (n, T), or list of arrays (T_i, F) or (T_i,)
            Sequences with the features of ``fit``.

        Returns
        -------
        array (n, O), float64
            Columns in the order of ``classes_``; each row sums to 1.

        Raises
        ------
        InputError
            If X is invalid or has other features.
        """
        return np.asarray(softmax(self._predicted(X), axis=1))

    def _read_targets(self, y: Any, *, fitting: bool, classes: Any) -> np.ndarray:
        with as_input_error():
            labels = column_or_1d(y, warn=True)
            assert_all_finite(labels, input_name="y")
            check_classification_targets(labels)
            declared = None if classes is None else np.unique(column_or_1d(classes))
        occurring = np.unique(labels)
        if fitting:
            self.classes_ = occurring if declared is None else declared
        elif declared is not None and not np.array_equal(declared, self.classes_):
            raise InputError(
                f"classes must be those of the first call, {self.classes_.tolist()}, got {declared.tolist()}: omit them"
            )
        if len(self.classes_) < 2:
            raise InputError(
                f"y must have at least two classes, got one class, {self.classes_.tolist()[0]!r}: add another"
            )
        unknown = np.setdiff1d(occurring, self.classes_)
        if len(unknown):
            raise InputError(
                f"y must have only the classes {self.classes_.tolist()}, got {unknown.tolist()[0]!r}: omit such samples"
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
            raise InputError("class_weight must be finite and at least 0, and above 0 for some sample of y")
        return np.asarray(weights / weights.mean())
