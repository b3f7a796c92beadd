"""Runtime: a trained language model without torch, in float32, on the native library or on NumPy.

Letters: T time steps, B batch, N tokens, V vocabulary, H hidden size, L layers. Equations: see equations.py.
"""

import functools
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from headgate import machine, native
from headgate.errors import InputError
from headgate.runs.run_directory import RunDirectory
from headgate.runtime import adaptive
from headgate.runtime.native_model import NativeModel
from headgate.runtime.numpy_model import NumpyModel
from headgate.runtime.sampling import Sampling, beam_search, draw, log_softmax
from headgate.settings.run import ModelSettings
from headgate.settings.weights import check_weights
from headgate.text.tokenizer import Tokenizer

LOGITS = 2**20  # upper bound on the logits held at once while a text is scored
LONGEST = 10**9  # upper bound on the tokens that generate() returns: tens of gigabytes
FLOAT32, INT64 = np.dtype(np.float32), np.dtype(np.int64)


class Runtime:
    """A trained GRU language model on NumPy arrays, without torch.

    Parameters
    ----------
    weights : mapping of str to ndarray
        Arrays with the names and shapes of ``LanguageModel.state_dict()``.
    settings : ModelSettings
        The settings of the model.
    tokenizer : Tokenizer
        The tokenizer that the model was trained with.
    threads : int
        The largest number of threads of the native library, further limited by a quota of processor time. 0, the
        default, means one per processor that affinity and quotas leave to this process, and at most OMP_NUM_THREADS.
        The results do not depend on it.
    precision : {"float32", "bfloat16", "int8"}
        The format of the weights. "bfloat16" and "int8" take a half and a quarter of the memory and are read faster,
        but round the weights; ``headgate evaluate --weights`` measures the loss of accuracy. They need the native
        library. Computations are in float32, and the clusters of an adaptive head stay in float32.

    Attributes
    ----------
    settings : ModelSettings
        The settings of the model.
    tokenizer : Tokenizer
        The tokenizer of the model.

    Raises
    ------
    InputError
        If ``precision`` is unknown or needs the missing native library, or if the weights do not fit the settings.

    Notes
    -----
    The native library keeps its own copy of the weights. Without the library, NumPy computes on the arrays themselves,
    more slowly.

    A runtime is thread-safe: it stores no state of a text. The state (L, B, H) is passed in and returned.

    Examples
    --------
    >>> from headgate.runs.find import find_run
    >>> model = Runtime.load(find_run("voyage"))
    >>> logits, state = model.read("The gate")
    >>> logits.shape == (1, model.tokenizer.vocabulary_size)
    True
    >>> text = model.generate("The gate", 20, temperature=0.8, seed=1)
    """

    def __init__(
        self,
        weights: Mapping[str, np.ndarray],
        settings: ModelSettings,
        tokenizer: Tokenizer,
        *,
        threads: int = 0,
        precision: str = "float32",
    ) -> None:
        if precision not in native.PRECISIONS:
            raise InputError(f"precision must be one of {', '.join(native.PRECISIONS)}, got {precision!r}")
        check_weights(weights, settings, tokenizer.vocabulary_size)
        self.tokenizer = tokenizer
        self.settings = settings
        embedding = weights["embedding.weight"] if settings.embedding else None
        zero = np.zeros(3 * settings.hidden_size, np.float32)
        layers = [
            (
                weights[f"gru.weight_ih_l{layer}"],
                weights[f"gru.weight_hh_l{layer}"],
                weights[f"gru.bias_ih_l{layer}"],
                weights.get(f"gru.bias_hh_l{layer}", zero),
            )
            for layer in range(settings.num_layers)
        ]
        self._clusters = None
        if settings.head == "adaptive":
            self._clusters = adaptive.Clusters(weights, tokenizer.vocabulary_size)
            shortlist = weights["head.head.weight"]
            head = shortlist, np.zeros(len(shortlist), np.float32)
        else:
            head = weights["embedding.weight" if settings.head == "tied" else "head.weight"], weights["head.bias"]
        self._model: NativeModel | NumpyModel
        if native.load() is not None:
            threads = machine.capped(threads) or machine.threads()
            self._model = NativeModel(
                embedding, layers, head, reset=settings.reset, threads=threads, precision=precision
            )
        elif precision == "float32":
            self._model = NumpyModel(embedding, layers, head, reset=settings.reset)
        else:
            raise InputError(f"weights in {precision} need the native library: {native.MISSING}")

    @classmethod
    def load(cls, path: str | Path, *, best: bool = False, precision: str = "float32", threads: int = 0) -> "Runtime":
        """Load the model of a run directory.

        Parameters
        ----------
        path : str or path
            The run directory.
        best : bool
            Load the weights with the lowest held-out loss instead of the newest.
        precision, threads
            As for :class:`Runtime`.

        Returns
        -------
        Runtime

        Raises
        ------
        InputError
            If the directory holds no run or no such weights, if they are damaged or do not fit the settings, or for an
            invalid ``precision``.
        """
        run = RunDirectory.open(Path(path))
        try:
            return cls(run.weights(best=best), run.settings.model, run.tokenizer, threads=threads, precision=precision)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    def initial_state(self, batch: int = 1) -> np.ndarray:
        """Return the state before any text.

        Parameters
        ----------
        batch : int
            B, the number of sequences.

        Returns
        -------
        ndarray (L, B, H)
            Zeros, float32.
        """
        return np.zeros((self.settings.num_layers, batch, self.settings.hidden_size), np.float32)

    def step(self, ids: np.ndarray, state: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Read one id of each of B sequences, and compute the logits of the next ids.

        To read the characters of one text, use :meth:`read`.

        Parameters
        ----------
        ids : ndarray (B,)
            Integers from 0 to V-1.
        state : ndarray (L, B, H), optional
            The state before the step, which is not modified; zeros by default.

        Returns
        -------
        logits : ndarray (B, V)
            float32; log-probabilities if the head is adaptive.
        state : ndarray (L, B, H)
            The state after the step, float32.

        Raises
        ------
        InputError
            If a shape or dtype does not fit.
        IndexError
            If an id is not from 0 to V-1.
        """
        ids = _integers("ids", ids)
        if ids.ndim != 1:
            raise InputError(
                f"step reads ids (B,), one for each sequence, got {ids.shape}: for several steps call "
                "read(text, state) or losses(x, y, state)"
            )
        L, H, B = self.settings.num_layers, self.settings.hidden_size, len(ids)
        if state is not None and (shape := np.shape(state)) != (L, B, H) and (shape[:1], shape[2:]) == ((L,), (H,)):
            raise InputError(
                f"step reads one id for each sequence, got {B} ids and a state of {shape[1]} "
                f"sequence{'s' * (shape[1] != 1)}: for the characters of one text call read(text, state)"
            )
        state = self._state(state, B)
        ids = _plain(ids, INT64)
        state = self._begun(ids, state)
        logits, state = self._model.step(ids, state)
        return self._whole(state[-1], logits), state

    def read(self, text: str, state: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Read a text, and compute the logits of the id that follows it.

        Parameters
        ----------
        text : str
            The text. If it has no ids (an empty text, or spaces for a tokenizer of words), a line break, or its
            replacement in the vocabulary, is read instead.
        state : ndarray (L, 1, H), optional
            The state before the text, which is not modified; zeros by default.

        Returns
        -------
        logits : ndarray (1, V)
            float32; log-probabilities if the head is adaptive.
        state : ndarray (L, 1, H)
            The state after the text, float32.

        Raises
        ------
        InputError
            If the shape or dtype of ``state`` does not fit.

        Warns
        -----
        UserWarning
            If characters or words are not in the vocabulary. They are read as its replacement for unknown text, and one
            warning names them.

        Notes
        -----
        If the model was trained on separate documents, a text without ``state`` begins a document, and a text without
        ids begins another one instead of being read as a line break.
        """
        if unknown := self.tokenizer.out_of_vocabulary(text):
            stand_in = self.tokenizer.decode(self.tokenizer.encode(unknown[0]))
            warnings.warn(
                f"not in the vocabulary, read as {stand_in!r}: {' '.join(unknown)}", UserWarning, stacklevel=2
            )
        ids, document_id = self.tokenizer.encode(text), self.tokenizer.document_id
        if document_id is not None and state is None:
            ids = np.concatenate([[document_id], ids])
        elif not len(ids):
            ids = self.tokenizer.encode("\n") if document_id is None else np.array([document_id])
        outputs, state = self._run(ids.astype(np.int64)[:, None], self._state(state, 1))
        return self._logits(outputs[-1]), state

    def stream(self, prefix: str, length: int, *, seed: int = 0, **sampling: float) -> Iterator[str]:
        """Continue ``prefix`` by ``length`` ids, and yield the new text piece by piece.

        Parameters
        ----------
        prefix : str
            The beginning of the text, read as by :meth:`read`.
        length : int
            The number of ids to write, at least 0.
        seed : int
            The seed of the random numbers.
        **sampling
            The fields of :class:`headgate.runtime.sampling.Sampling`: ``temperature`` (0, greedy, by default),
            ``top_k``, ``top_p``, ``min_p``, ``repetition_penalty``.

        Yields
        ------
        str
            The next piece of text, never a part of a character. Ids without text, such as ``<unk>``, are never drawn.

        Raises
        ------
        InputError
            If ``length`` or a sampling setting is invalid; raised by the call, before the first piece.
        """
        return self._stream(prefix, _length(length), Sampling(**sampling), seed)  # type: ignore[arg-type]

    def _stream(self, prefix: str, length: int, sampling: Sampling, seed: int) -> Iterator[str]:
        write = self.tokenizer.stream_decoder(prefix)
        for i in self._draw(prefix, length, sampling, seed):
            if piece := write(i):
                yield piece
        if piece := write(None):
            yield piece

    def _draw(self, prefix: str, length: int, sampling: Sampling, seed: int) -> Iterator[int]:
        """Draw the ids after a prefix in growing chunks, the first of one id, so that text appears immediately."""
        logits, state = self.read(prefix)
        seen, forbidden = (np.zeros(self.tokenizer.vocabulary_size, bool) for _ in range(2))
        seen[self.tokenizer.encode(prefix)] = True
        forbidden[self.tokenizer.special_ids] = True
        generator = np.random.default_rng(seed)
        generate = self._model.generate if self._clusters is None else functools.partial(draw, self.step)
        drawn = 0
        while drawn < length:
            n = min(max(drawn, 1), 64, length - drawn)
            yield from generate(sampling, generator.random(n), forbidden, seen, logits[0], state).tolist()
            drawn += n

    def generate(self, prefix: str, length: int, *, seed: int = 0, **sampling: float) -> str:
        """Return ``prefix`` and its continuation by ``length`` ids.

        Parameters
        ----------
        prefix : str
            The beginning of the text, read as by :meth:`read`.
        length : int
            The number of ids to write, from 0 to 10**9; use :meth:`stream` for more.
        seed : int
            The seed of the random numbers.
        **sampling
            As for :meth:`stream`.

        Returns
        -------
        str

        Raises
        ------
        InputError
            If ``length`` or a sampling setting is invalid.
        """
        if _length(length) > LONGEST:
            raise InputError(
                f"at most {LONGEST:,} tokens can be generated at once, got {length:,}: reduce the length, or use "
                "stream()"
            )
        return prefix + "".join(self.stream(prefix, length, seed=seed, **sampling))

    def beam_search(self, prefix: str, length: int, width: int) -> list[tuple[str, float]]:
        """Return the most probable continuations that a beam search finds.

        Parameters
        ----------
        prefix : str
            The beginning of the text, read as by :meth:`read`.
        length : int
            The number of ids to write, at least 0.
        width : int
            The number of continuations kept after each step, at least 1.

        Returns
        -------
        list of (str, float)
            ``prefix`` with its continuation, and the log-probability of the continuation in nats, most probable first.

        Raises
        ------
        InputError
            If ``length`` or ``width`` is invalid, or if the search would need too much memory.
        """
        length = _length(length)
        logits, state = self.read(prefix)

        def step(ids: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            logits, state = self.step(ids, state)
            return self._writable(logits), state

        beams = beam_search(step, self._writable(logits), state, width=width, length=length)
        return [(prefix + self._written(ids, prefix), score) for ids, score in beams]

    def _written(self, ids: list[int], after: str) -> str:
        write = self.tokenizer.stream_decoder(after)
        return "".join(map(write, [*ids, None]))

    def log_probabilities(self, text: str) -> np.ndarray:
        """Return the log-probability of each token of a text but the first, given the tokens before it.

        Parameters
        ----------
        text : str
            A text of N tokens, at least two.

        Returns
        -------
        ndarray (N - 1,)
            In nats, float64.

        Raises
        ------
        InputError
            If the text has fewer than two tokens.
        """
        ids = self.tokenizer.encode(text)
        if len(ids) < 2:
            raise InputError(f"scoring needs a text of at least two tokens, got {len(ids)}")
        nats, _ = self.losses(ids[:-1, None], ids[1:, None], self.initial_state())
        return -nats[:, 0]

    def losses(self, x: np.ndarray, y: np.ndarray, state: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Compute the cross-entropy of each target.

        Parameters
        ----------
        x, y : ndarray (T, B)
            The ids to read and the targets, the ids that follow them: integers from 0 to V-1.
        state : ndarray (L, B, H) or None
            The state before the first step, which is not modified; None for zeros.

        Returns
        -------
        losses : ndarray (T, B)
            In nats, float64.
        state : ndarray (L, B, H)
            The state after the last step, float32.

        Raises
        ------
        InputError
            If a shape or dtype does not fit.
        IndexError
            If an id or target is not from 0 to V-1.
        """
        x, y = _integers("ids", x), _integers("targets", y)
        if x.ndim != 2 or x.shape != y.shape:
            raise InputError(f"x and y must be ids of the same shape (T, B), got {x.shape} and {y.shape}")
        state = self._state(state, x.shape[1])
        V = self.tokenizer.vocabulary_size
        if y.size and not (y.min() >= 0 and y.max() < V):
            raise IndexError(f"targets must be from 0 to {V - 1}, got {y.min()} to {y.max()}")
        outputs, state = self._run(_plain(x, INT64), state)
        states, targets = outputs.reshape(x.size, outputs.shape[-1]), y.reshape(-1)
        nats = np.empty(len(targets))
        n = max(LOGITS // V, 1)
        for start in range(0, len(targets), n):
            at = slice(start, start + n)
            nats[at] = self._losses(states[at], targets[at])
        return nats.reshape(y.shape), state

    def _losses(self, states: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Compute the cross-entropy in nats: states (N, H), targets (N,) -> (N,)."""
        logits = self._model.logits(np.ascontiguousarray(states))
        if self._clusters is not None:
            return -self._clusters.log_probability(states, logits, targets)
        return np.asarray(-log_softmax(logits)[np.arange(len(targets)), targets])

    def _logits(self, states: np.ndarray) -> np.ndarray:
        """Compute the logits of all ids: states of the last layer (N, H) -> (N, V)."""
        return self._whole(states, self._model.logits(np.ascontiguousarray(states)))

    def _whole(self, states: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """Extend the linear layer's logits to all ids (N, V): log-probabilities if the head is adaptive."""
        return logits if self._clusters is None else self._clusters.log_probabilities(states, logits)

    def _writable(self, logits: np.ndarray) -> np.ndarray:
        """Return a copy of logits (..., V) with -inf for the ids that have no text."""
        logits = logits.copy()
        logits[..., self.tokenizer.special_ids] = -np.inf
        return logits

    def _state(self, state: np.ndarray | None, B: int) -> np.ndarray:
        """Return a state as (L, B, H) float32, zeros for None; raises InputError for a wrong shape or dtype."""
        if state is None:
            return self.initial_state(B)
        array, shape = np.asarray(state), (self.settings.num_layers, B, self.settings.hidden_size)
        if array.shape != shape:
            raise InputError(
                f"the state must be {shape} (layers, sequences, hidden units), got {array.shape}: pass the state that "
                f"the last call returned, or initial_state({B})"
            )
        if array.dtype.kind not in "fiu":
            raise InputError(f"the state must hold real numbers, got {array.dtype}")
        return _plain(array, FLOAT32)

    def _begun(self, ids: np.ndarray, state: np.ndarray) -> np.ndarray:
        """Return the state (L, B, H) before ids (B,), with zeros for the sequences where a document begins."""
        if self.tokenizer.document_id is None:
            return state
        begins = ids == self.tokenizer.document_id
        return np.where(begins[:, None], np.float32(0), state) if begins.any() else state

    def _run(self, ids: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Run all layers: ids (T, B), state (L, B, H) -> states of the last layer (T, B, H), new state."""
        if self.tokenizer.document_id is None or not len(ids):
            return self._model.read(ids, state)
        begins = (ids == self.tokenizer.document_id).any(1)
        outputs = []
        for piece in np.split(ids, np.flatnonzero(begins[1:]) + 1):
            states, state = self._model.read(piece, self._begun(piece[0], state))
            outputs.append(states)
        return np.concatenate(outputs) if len(outputs) > 1 else outputs[0], state


def _plain(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return the values in that dtype, C-contiguous and aligned, without a copy if they are already."""
    flags = array.flags
    if array.dtype == dtype and flags.c_contiguous and flags.aligned:
        return array
    return np.array(array, dtype, order="C")


def _integers(name: str, values: np.ndarray) -> np.ndarray:
    """Return ids as an array; raises InputError unless they are integers."""
    array = np.asarray(values)
    if array.dtype.kind not in "iu" and (array.size or array.dtype.kind != "f"):  # np.asarray([]) is of floats
        raise InputError(f"{name} must be integers, got {array.dtype}")
    return array


def _length(length: int) -> int:
    """Return ``length`` as an int; raises InputError unless it is an integer of at least 0."""
    if not isinstance(length, int | np.integer) or length < 0:  # type: ignore[redundant-expr]
        raise InputError(f"length must be a whole number of at least 0, got {length!r}")
    return int(length)
