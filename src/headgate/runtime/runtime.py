"""A trained language model without torch: it steps, writes, streams and scores. The native library, or NumPy, float32.

Letters: T time steps, B batch, N tokens, V vocabulary, H hidden size, L layers. The equations: those of equations.py.
"""

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from headgate import machine, native
from headgate.errors import InputError
from headgate.runs.run_directory import RunDirectory
from headgate.runtime import adaptive
from headgate.runtime.sampling import Sampling, beam_search, log_softmax
from headgate.settings.run import ModelSettings
from headgate.settings.weights import check_weights
from headgate.text.tokenizer import Tokenizer

LOGITS = 2**20  # so many at most exist at a time while a text is scored
LONGEST = 10**9  # tokens of a text that is written at once: some tens of gigabytes
FLOAT32, INT64 = np.dtype(np.float32), np.dtype(np.int64)


class Runtime:
    """A GRU language model on NumPy arrays.

    ``weights`` has the names and shapes of ``LanguageModel.state_dict()``; the native library keeps a copy of them.
    Without it, NumPy computes, more slowly, on the arrays themselves. ``threads``: the most that the native library
    computes with, and not more than a quota keeps running; 0: one for each processor that affinity and quotas leave to
    this process, and at most OMP_NUM_THREADS. The results are the same. ``precision``: "float32", or "bfloat16" or
    "int8" for a copy of half or a quarter of the size, which is read faster and rounds the weights (``headgate evaluate
    --weights`` says what that costs); computed with is float32, and the clusters of an adaptive head stay float32.
    Thread-safe: it holds no state of a text; the state (L, B, H) is passed in and handed back.
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
        self._embedding = weights["embedding.weight"] if settings.embedding else None
        zero = np.zeros(3 * settings.hidden_size, np.float32)
        self._layers = [
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
            self._head = shortlist, np.zeros(len(shortlist), np.float32)
        else:
            self._head = weights["embedding.weight" if settings.head == "tied" else "head.weight"], weights["head.bias"]
        self._native = None
        if native.load() is not None:
            self._native = native.Model(
                self._embedding, self._layers, self._head, reset=settings.reset,
                threads=machine.capped(threads) or machine.threads(), precision=precision,
            )  # fmt: skip
        elif precision != "float32":
            raise InputError(f"weights in {precision} need the native library: {native.MISSING}")

    @classmethod
    def load(cls, path: str | Path, *, best: bool = False, precision: str = "float32", threads: int = 0) -> "Runtime":
        """The model of a run directory: its newest weights, or those with the lowest held-out loss."""
        run = RunDirectory.open(Path(path))
        try:
            return cls(run.weights(best=best), run.settings.model, run.tokenizer, threads=threads, precision=precision)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    def initial_state(self, batch: int = 1) -> np.ndarray:
        """The state before any text: zeros (L, B, H)."""
        return np.zeros((self.settings.num_layers, batch, self.settings.hidden_size), np.float32)

    def step(self, ids: np.ndarray, state: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Read one id of each of B sequences: ids (B,), state (L, B, H) -> logits (B, V) of the next ids, new state.

        Without a state, each sequence begins with zeros. The characters of one text are read by ``read(text, state)``.
        The logits of an adaptive head are log-probabilities. Raises InputError for shapes and dtypes that do not fit,
        IndexError for ids that are not from 0 to V-1; so do ``read`` and ``losses``. A state is never changed in place.
        """
        ids = _integers("ids", ids)
        if ids.ndim != 1:
            raise InputError(
                f"step reads ids (B,), one for each sequence, got {ids.shape}: for several steps call "
                "read(text, state) or losses(x, y, state)"
            )
        L, H, B = self.settings.num_layers, self.settings.hidden_size, len(ids)
        if state is not None and (given := np.shape(state)) != (L, B, H) and (given[:1], given[2:]) == ((L,), (H,)):
            raise InputError(
                f"step reads one id for each sequence, got {B} ids and a state of {given[1]} "
                f"sequence{'s' * (given[1] != 1)}: for the characters of one text call read(text, state)"
            )
        state = self._state(state, B)
        ids = _plain(ids, INT64)
        state = self._begun(ids, state)
        if self._native is not None:
            logits, state = self._native.step(ids, state)
            return self._whole(state[-1], logits), state
        outputs, state = self._run_on(ids[None], state)
        return self._logits(outputs[0]), state

    def read(self, text: str, state: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Read a text: -> logits (1, V) of what follows it, state (L, 1, H).

        Characters or words that the vocabulary lacks are read as its stand-in, with one warning that names them. A text
        without ids, an empty one or spaces between words, is read as a line break (or what stands in for it). Where the
        model knows documents, a text without a ``state`` begins one, and one without ids begins another.
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
        """Continue ``prefix`` by ``length`` ids: yields the new text piece by piece, never half a character.

        ``sampling``: the fields of :class:`headgate.runtime.sampling.Sampling`: temperature (0, greedy, by default),
        top_k, top_p, min_p, repetition_penalty. Ids that stand for no text (``<unk>``) are never drawn.
        """
        return self._stream(prefix, _length(length), Sampling(**sampling), seed)  # type: ignore[arg-type]

    def _stream(self, prefix: str, length: int, sampling: Sampling, seed: int) -> Iterator[str]:
        write = self.tokenizer.stream_decoder(prefix)
        natively = self._native is not None and self._clusters is None
        for i in (self._draw_natively if natively else self._draw)(prefix, length, sampling, seed):
            if piece := write(i):
                yield piece
        if piece := write(None):
            yield piece

    def _draw(self, prefix: str, length: int, sampling: Sampling, seed: int) -> Iterator[int]:
        logits, state = self.read(prefix)
        seen = self.tokenizer.encode(prefix).tolist()
        generator = np.random.default_rng(seed)
        for _ in range(length):
            i = sampling.choose(self._writable(logits[0]), generator, seen)
            seen.append(i)
            yield i
            logits, state = self.step(np.array([i]), state)

    def _draw_natively(self, prefix: str, length: int, sampling: Sampling, seed: int) -> Iterator[int]:
        """The same ids, some at a time: one first, so that text appears at once, then more and more."""
        assert self._native is not None
        logits, state = self.read(prefix)
        seen, forbidden = (np.zeros(self.tokenizer.vocabulary_size, bool) for _ in range(2))
        seen[self.tokenizer.encode(prefix)] = True
        forbidden[self.tokenizer.special_ids] = True
        generator = np.random.default_rng(seed)
        how = native.Draw(
            sampling.repetition_penalty, sampling.temperature, sampling.top_p, sampling.min_p,
            min(sampling.top_k, len(seen)),
        )  # fmt: skip
        drawn = 0
        while drawn < length:
            n = min(max(drawn, 1), 64, length - drawn)
            yield from self._native.generate(how, generator.random(n), forbidden, seen, logits[0], state).tolist()
            drawn += n

    def generate(self, prefix: str, length: int, *, seed: int = 0, **sampling: float) -> str:
        """Return ``prefix`` and its continuation by ``length`` ids; ``sampling`` as for :meth:`stream`.

        Raises InputError for more than :data:`LONGEST` ids: stream those.
        """
        if _length(length) > LONGEST:
            raise InputError(
                f"a text of at most {LONGEST:,} tokens can be written at once, got {length:,}: take a smaller length, "
                "or stream it"
            )
        return prefix + "".join(self.stream(prefix, length, seed=seed, **sampling))

    def beam_search(self, prefix: str, length: int, width: int) -> list[tuple[str, float]]:
        """The most probable continuations that a beam finds, best first: (prefix and continuation, nats)."""
        length = _length(length)
        logits, state = self.read(prefix)

        def step(ids: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            logits, state = self.step(ids, state)
            return self._writable(logits), state

        found = beam_search(step, self._writable(logits), state, width=width, length=length)
        return [(prefix + self._written(ids, prefix), score) for ids, score in found]

    def _written(self, ids: list[int], after: str) -> str:
        write = self.tokenizer.stream_decoder(after)
        return "".join(map(write, [*ids, None]))

    def log_probabilities(self, text: str) -> np.ndarray:
        """The log-probability, in nats, of each token of ``text`` but the first, given those before it."""
        ids = self.tokenizer.encode(text)
        if len(ids) < 2:
            raise InputError(f"a text of at least two tokens is needed to score it, got {len(ids)}")
        nats, _ = self.losses(ids[:-1, None], ids[1:, None], self.initial_state())
        return -nats[:, 0]

    def losses(self, x: np.ndarray, y: np.ndarray, state: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Cross-entropy in nats of each target: x, y (T, B), state (L, B, H) or None -> (T, B), new state."""
        x, y = _integers("ids", x), _integers("targets", y)
        if x.ndim != 2 or x.shape != y.shape:
            raise InputError(f"x and y must be ids (T, B) of one shape, got {x.shape} and {y.shape}")
        state = self._state(state, x.shape[1])
        self._check_range("targets", y)
        outputs, state = self._run(_plain(x, INT64), state)
        states, targets = outputs.reshape(x.size, outputs.shape[-1]), y.reshape(-1)
        nats = np.empty(len(targets))
        n = max(LOGITS // self.tokenizer.vocabulary_size, 1)
        for start in range(0, len(targets), n):
            at = slice(start, start + n)
            nats[at] = self._losses(states[at], targets[at])
        return nats.reshape(y.shape), state

    def _losses(self, states: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """states (N, H), targets (N,) -> cross-entropy in nats (N,)"""
        logits = self._linear(states)
        if self._clusters is not None:
            return -self._clusters.log_probability(states, logits, targets)
        return np.asarray(-log_softmax(logits)[np.arange(len(targets)), targets])

    def _logits(self, states: np.ndarray) -> np.ndarray:
        """states of the last layer (N, H) -> (N, V)"""
        return self._whole(states, self._linear(states))

    def _linear(self, states: np.ndarray) -> np.ndarray:
        if self._native is not None:
            return self._native.logits(np.ascontiguousarray(states))
        weight, bias = self._head
        logits: np.ndarray = states @ weight.T + bias
        return logits

    def _whole(self, states: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """What the linear part of the head says, (N, V) or an adaptive head's shortlist, of all ids (N, V)."""
        return logits if self._clusters is None else self._clusters.log_probabilities(states, logits)

    def _writable(self, logits: np.ndarray) -> np.ndarray:
        """A copy of logits (..., V) that forbids the ids which stand for no text."""
        logits = logits.copy()
        logits[..., self.tokenizer.special_ids] = -np.inf
        return logits

    def _state(self, state: np.ndarray | None, B: int) -> np.ndarray:
        """A given state as the library reads it, (L, B, H) float32; zeros for None. InputError for any other."""
        if state is None:
            return self.initial_state(B)
        given, shape = np.asarray(state), (self.settings.num_layers, B, self.settings.hidden_size)
        if given.shape != shape:
            raise InputError(
                f"the state must be {shape}, layers, sequences and hidden units, got {given.shape}: take what the last "
                f"call returned, or initial_state({B})"
            )
        if given.dtype.kind not in "fiu":
            raise InputError(f"the state must hold real numbers, got {given.dtype}")
        return _plain(given, FLOAT32)

    def _check_range(self, name: str, ids: np.ndarray) -> None:
        V = self.tokenizer.vocabulary_size
        if ids.size and not (ids.min() >= 0 and ids.max() < V):
            raise IndexError(f"{name} must be from 0 to {V - 1}, got {ids.min()} to {ids.max()}")

    def _begun(self, ids: np.ndarray, state: np.ndarray) -> np.ndarray:
        """The state (L, B, H) before ids (B,): zeros in the rows where a document begins."""
        if self.tokenizer.document_id is None:
            return state
        begins = ids == self.tokenizer.document_id
        return np.where(begins[:, None], np.float32(0), state) if begins.any() else state

    def _run(self, ids: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """ids (T, B), state (L, B, H) -> states of the last layer (T, B, H), new state."""
        if self.tokenizer.document_id is None or not len(ids):
            return self._run_on(ids, state)
        begins = (ids == self.tokenizer.document_id).any(1)
        outputs = []
        for piece in np.split(ids, np.flatnonzero(begins[1:]) + 1):
            states, state = self._run_on(piece, self._begun(piece[0], state))
            outputs.append(states)
        return np.concatenate(outputs) if len(outputs) > 1 else outputs[0], state

    def _run_on(self, ids: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same where no document begins behind the first step."""
        if self._native is not None:
            return self._native.read(ids, state)
        self._check_range("ids", ids)
        x: np.ndarray | None = None if self._embedding is None else self._embedding[ids]
        last = []
        for h, (W_ih, W_hh, b_ih, b_hh) in zip(state, self._layers, strict=True):
            a = (W_ih.T[ids] if x is None else x @ W_ih.T) + b_ih  # (T, B, 3H)
            x = np.empty((*ids.shape, h.shape[-1]), np.float32)
            for t in range(len(ids) if ids.size else 0):
                h = _step(a[t], h, W_hh, b_hh, self.settings.reset)
                x[t] = h
            last.append(h)
        assert x is not None  # there is at least one layer
        return x, np.stack(last)


def _plain(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The same numbers of that dtype, C-contiguous, aligned, not a subclass: the array itself where it is so."""
    flags = array.flags
    if array.dtype == dtype and flags.c_contiguous and flags.aligned:
        return array
    return np.array(array, dtype, order="C")


def _integers(name: str, values: np.ndarray) -> np.ndarray:
    """Ids as an array. InputError for what are not integers."""
    given = np.asarray(values)
    if given.dtype.kind not in "iu" and (given.size or given.dtype.kind != "f"):  # NumPy takes an empty list for floats
        raise InputError(f"{name} must be integers, got {given.dtype}")
    return given


def _length(length: int) -> int:
    """How many ids to write. InputError for what is not such a number."""
    if not isinstance(length, int | np.integer) or length < 0:  # type: ignore[redundant-expr]
        raise InputError(f"length must be a whole number of at least 0, got {length!r}")
    return int(length)


def _step(a: np.ndarray, h: np.ndarray, W_hh: np.ndarray, b_hh: np.ndarray, reset: str) -> np.ndarray:
    """One step of equations.py: a (B, 3H), h (B, H) -> (B, H)."""
    H = h.shape[-1]
    if reset == "after":
        g = h @ W_hh.T + b_hh  # (B, 3H)
        r, z = np.split(_sigmoid(a[:, : 2 * H] + g[:, : 2 * H]), 2, 1)
        n = np.tanh(a[:, 2 * H :] + r * g[:, 2 * H :])
    else:
        r, z = np.split(_sigmoid(a[:, : 2 * H] + h @ W_hh[: 2 * H].T + b_hh[: 2 * H]), 2, 1)
        n = np.tanh(a[:, 2 * H :] + (r * h) @ W_hh[2 * H :].T + b_hh[2 * H :])
    new: np.ndarray = (1 - z) * n + z * h
    return new


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * np.tanh(0.5 * x) + 0.5  # never overflows
