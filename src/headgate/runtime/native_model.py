"""A language model inside the native library, its weights packed for inference without torch.

Letters: T time steps, B batch, N tokens, H hidden size, L layers, V vocabulary, E embedding, O rows of the head.
"""

import ctypes
import weakref
from collections.abc import Sequence
from typing import NoReturn

import numpy as np

from headgate.native import (
    BOOL,
    FLOAT32,
    FLOAT64,
    INT64,
    PRECISIONS,
    Draw,
    Weights,
    address_of,
    check,
    fail,
    load,
    matrix_shape,
)
from headgate.runtime.sampling import Sampling

BAD_ID = 4  # the library's status for ids outside 0 to V-1


class NativeModel:
    """A language model inside the library, its weights packed for inference without torch.

    embedding (V, E) or None, layers of (weight_ih, weight_hh, bias_ih, bias_hh), head (O, H) and (O,): floating-point
    arrays, copied, the matrices in one of PRECISIONS. O is V, or less if the caller computes the remaining logits
    itself; such a model cannot generate. Arrays passed to the methods must be C-contiguous, ids int64, numbers float32.
    They raise TypeError for an argument that is not an array, ValueError for another shape, dtype or layout, and
    IndexError for ids outside 0 to V-1.
    """

    def __init__(
        self,
        embedding: np.ndarray | None,
        layers: Sequence[tuple[np.ndarray, ...]],
        head: tuple[np.ndarray, np.ndarray],
        *,
        reset: str,
        threads: int,
        precision: str = "float32",
    ) -> None:
        library = load()
        assert library is not None
        if reset not in ("after", "before") or precision not in PRECISIONS or not 1 <= threads < 2**31:
            raise ValueError(
                f"reset must be after or before, precision one of {', '.join(PRECISIONS)}, threads at least 1, "
                f"got {reset}, {precision}, {threads}"
            )
        self.L, self.O, self.H, self.V, E = _sizes(embedding, layers, head)
        self.threads = threads
        shapes = [
            ((3 * self.H, self.H if layer else E or self.V), (3 * self.H, self.H), (3 * self.H,), (3 * self.H,))
            for layer in range(self.L)
        ]
        arrays = [
            [_weight(name, v, shape) for v, shape in zip(column, expected, strict=True)]
            for name, column, expected in zip(
                ("weight_ih", "weight_hh", "bias_ih", "bias_hh"),
                zip(*layers, strict=True),
                zip(*shapes, strict=True),
                strict=True,
            )
        ]
        pointers = [(ctypes.c_void_p * len(column))(*(v.ctypes.data for v in column)) for column in arrays]
        ends = [
            None if v is None else _weight(name, v, shape)
            for name, v, shape in (
                ("the embedding", embedding, (self.V, E)),
                ("the head", head[0], (self.O, self.H)),
                ("the head's bias", head[1], (self.O,)),
            )
        ]
        weights = Weights(
            self.V,
            E,
            self.H,
            self.L,
            self.O,
            reset == "before",
            PRECISIONS.index(precision),
            *(None if v is None else v.ctypes.data for v in ends[:1]),
            *(ctypes.cast(p, ctypes.c_void_p) for p in pointers),
            *(v.ctypes.data for v in ends[1:] if v is not None),
        )
        self._library, self._handle = library, library.headgate_model_new(ctypes.byref(weights))
        if not self._handle:
            raise MemoryError("not enough memory for the model")
        weakref.finalize(self, library.headgate_model_free, self._handle)

    def __copy__(self) -> "NativeModel":
        return self  # immutable, and a second owner of the handle would free it twice

    def __deepcopy__(self, memo: object) -> "NativeModel":
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a model inside the native library cannot be pickled: pickle its weights")

    def step(self, ids: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Advance a state (L, B, H) by ids (B,); return logits (B, O) and the new state."""
        B = len(ids)
        check("ids", ids, (B,), INT64)
        check("the state", state, (self.L, B, self.H), FLOAT32)
        logits, new = np.empty((B, self.O), np.float32), state.copy()
        status = self._library.headgate_model_step(
            self._handle, B, self.threads, address_of(ids), address_of(new), address_of(logits)
        )
        if status:
            self._fail(status, ids)
        return logits, new

    def read(self, ids: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Advance a state (L, B, H) by ids (T, B); return the states of the last layer (T, B, H) and the new state."""
        T, B = matrix_shape("ids", ids)
        check("ids", ids, (T, B), INT64)
        check("the state", state, (self.L, B, self.H), FLOAT32)
        outputs, new = np.empty((T, B, self.H), np.float32), state.copy()
        if not ids.size:
            return outputs, new  # with B = 0, T may be any number
        status = self._library.headgate_model_read(
            self._handle, T, B, self.threads, address_of(ids), address_of(new), address_of(outputs)
        )
        if status:
            self._fail(status, ids)
        return outputs, new

    def logits(self, outputs: np.ndarray) -> np.ndarray:
        """Compute logits (N, O) from states of the last layer (N, H)."""
        N = len(outputs)
        check("outputs", outputs, (N, self.H), FLOAT32)
        logits = np.empty((N, self.O), np.float32)
        status = self._library.headgate_model_logits(
            self._handle, N, self.threads, address_of(outputs), address_of(logits)
        )
        if status:
            self._fail(status)
        return logits

    def generate(
        self,
        sampling: Sampling,
        uniform: np.ndarray,
        forbidden: np.ndarray,
        seen: np.ndarray,
        logits: np.ndarray,
        state: np.ndarray,
    ) -> np.ndarray:
        """Draw one id for each of the numbers in ``uniform``, (n,) float64; return ids (n,) int64.

        forbidden and seen (V,) bool, logits (V,), state (L, 1, H): the last three are updated in place.
        """
        if self.O != self.V:
            raise ValueError(f"generate needs a head of {self.V} rows, this one has {self.O}")
        n = len(uniform)
        check("uniform", uniform, (n,), FLOAT64)
        check("forbidden", forbidden, (self.V,), BOOL)
        check("seen", seen, (self.V,), BOOL, written=True)
        check("logits", logits, (self.V,), FLOAT32, written=True)
        check("the state", state, (self.L, 1, self.H), FLOAT32, written=True)
        how = Draw(
            sampling.repetition_penalty,
            sampling.temperature,
            sampling.top_p,
            sampling.min_p,
            min(sampling.top_k, self.V),
        )
        ids = np.empty(n, np.int64)
        arrays = map(address_of, (uniform, forbidden, seen, logits, state, ids))
        if status := self._library.headgate_model_generate(self._handle, ctypes.byref(how), n, self.threads, *arrays):
            self._fail(status)
        return ids

    def _fail(self, status: int, ids: np.ndarray | None = None) -> NoReturn:
        if status == BAD_ID and ids is not None:
            raise IndexError(f"ids must be from 0 to {self.V - 1}, got {ids.min()} to {ids.max()}")
        fail(status)


def _sizes(
    embedding: np.ndarray | None, layers: Sequence[tuple[np.ndarray, ...]], head: tuple[np.ndarray, np.ndarray]
) -> tuple[int, int, int, int, int]:
    """Return L, O, H, V and E (0 without an embedding) of a model; ValueError if one is 0 or an array lacks axes."""
    first = layers[0][0].shape if layers else ()
    inputs = first if embedding is None else embedding.shape
    if not len(inputs) == len(head[0].shape) == 2 or any(len(layer) != 4 for layer in layers):
        raise ValueError("a model must have layers of four arrays, and matrices as its embedding and its head")
    V, E = (first[1], 0) if embedding is None else inputs
    rows, H = head[0].shape
    sizes = len(layers), rows, H, V, E
    if 0 in (sizes if embedding is not None else sizes[:4]):
        raise ValueError(f"a model's sizes must be at least 1, got L, O, H, V, E = {sizes}")
    return sizes


def _weight(name: str, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return a weight as the library reads it; ValueError for another shape, or a dtype that is not floating-point."""
    if value.shape != shape or value.dtype.kind != "f":
        raise ValueError(f"{name} must be floats {shape}, got {value.dtype} {value.shape}")
    return np.require(value, np.float32, ("C", "A"))
