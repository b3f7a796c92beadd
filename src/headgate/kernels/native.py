"""The compiled library (native/headgate.h): finds it, loads it, says why it is not there. No torch.

Letters: T time steps, B batch, I input size, H hidden size, L layers, V vocabulary, E embedding, O rows of the head.
"""

import ctypes
import functools
import os
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

CONTRACT = 4  # HEADGATE_VERSION of the header that this file was written for
GATE_LANES = 16  # HEADGATE_GATE_LANES: the layout of gates, see there
PRECISIONS = ("float32", "bfloat16", "int8")  # in which a Model keeps its weights
LEVELS = ("baseline", "AVX2", "AVX-512", "AMX")
_FILE = {"win32": "headgate.dll", "darwin": "libheadgate.dylib"}.get(sys.platform, "libheadgate.so")


class Gru(ctypes.Structure):
    """``headgate_gru``: the arguments of one layer in one direction; the header says what each of them is."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("T", "B", "I", "H")),
        *((name, ctypes.c_int32) for name in ("reset", "reverse", "threads", "one_hot", "invariant")),
        ("x", ctypes.c_void_p),
        ("x_t", ctypes.c_int64),
        ("x_b", ctypes.c_int64),
        *(
            (name, ctypes.c_void_p)
            for name in (
                "ids", "h0", "weight_ih", "weight_hh", "bias_ih", "bias_hh", "lengths", "resets", "reset_state",
                "packed", "states", "last", "gates",
            )
        ),
    )  # fmt: skip


class Gradients(ctypes.Structure):
    """``headgate_gru_gradients``."""

    _fields_ = tuple(
        (name, ctypes.c_void_p)
        for name in (
            "d_states", "d_last", "d_gates", "d_x", "d_h0", "d_weight_ih", "d_weight_hh", "d_bias_ih", "d_bias_hh",
            "d_reset_state",
        )
    )  # fmt: skip


class Head(ctypes.Structure):
    """``headgate_head``."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("N", "H", "V")),
        ("scale", ctypes.c_double),
        ("threads", ctypes.c_int32),
        ("invariant", ctypes.c_int32),
        *(
            (name, ctypes.c_void_p)
            for name in ("states", "weight", "bias", "targets", "losses", "d_states", "d_weight", "d_bias")
        ),
    )


class _Weights(ctypes.Structure):
    """``headgate_weights``."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("V", "E", "H", "layers", "O")),
        *((name, ctypes.c_int32) for name in ("reset", "format")),
        *(
            (name, ctypes.c_void_p)
            for name in ("embedding", "weight_ih", "weight_hh", "bias_ih", "bias_hh", "head_weight", "head_bias")
        ),
    )


class Draw(ctypes.Structure):
    """``headgate_sampling``: how an id is drawn."""

    _fields_ = (
        *((name, ctypes.c_double) for name in ("repetition_penalty", "temperature", "top_p", "min_p")),
        ("top_k", ctypes.c_int64),
    )


class Model:
    """A language model's weights inside the library, packed for reading: it steps, reads and draws without torch.

    embedding (V, E) or None, layers of (weight_ih, weight_hh, bias_ih, bias_hh), head (O, H) and (O,): float32, copied,
    the matrices in one of PRECISIONS. O is V, or less where others compute what this head lacks; it then does not draw.
    Arrays that go in must be C-contiguous, ids int64, numbers float32. IndexError for ids that are not from 0 to V-1.
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
        self.O, self.H = head[0].shape
        V = layers[0][0].shape[1] if embedding is None else len(embedding)
        self.threads = threads
        arrays = [[np.ascontiguousarray(v, np.float32) for v in column] for column in zip(*layers, strict=True)]
        pointers = [(ctypes.c_void_p * len(column))(*(v.ctypes.data for v in column)) for column in arrays]
        ends = [None if v is None else np.ascontiguousarray(v, np.float32) for v in (embedding, *head)]
        weights = _Weights(
            V, 0 if embedding is None else embedding.shape[1], self.H, len(layers), self.O, reset == "before",
            PRECISIONS.index(precision),
            *(None if v is None else v.ctypes.data for v in ends[:1]),
            *(ctypes.cast(p, ctypes.c_void_p) for p in pointers), *(_at(v) for v in ends[1:] if v is not None),
        )  # fmt: skip
        self._library, self._handle = library, library.headgate_model_new(ctypes.byref(weights))
        if not self._handle:
            raise MemoryError("not enough memory for the model")
        weakref.finalize(self, library.headgate_model_free, self._handle)

    def step(self, ids: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """ids (B,), state (L, B, H) -> logits (B, O), new state."""
        logits, new = np.empty((len(ids), self.O), np.float32), state.copy()
        status = self._library.headgate_model_step(
            self._handle, len(ids), self.threads, _at(ids), _at(new), _at(logits)
        )
        if status:
            _fail(status)
        return logits, new

    def read(self, ids: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """ids (T, B), state (L, B, H) -> states of the last layer (T, B, H), new state."""
        T, B = ids.shape
        outputs, new = np.empty((T, B, self.H), np.float32), state.copy()
        status = self._library.headgate_model_read(self._handle, T, B, self.threads, _at(ids), _at(new), _at(outputs))
        if status:
            _fail(status)
        return outputs, new

    def logits(self, outputs: np.ndarray) -> np.ndarray:
        """outputs (N, H) -> (N, O)"""
        found = np.empty((len(outputs), self.O), np.float32)
        status = self._library.headgate_model_logits(self._handle, len(outputs), self.threads, _at(outputs), _at(found))
        if status:
            _fail(status)
        return found

    def generate(
        self,
        how: Draw,
        uniform: np.ndarray,
        forbidden: np.ndarray,
        seen: np.ndarray,
        logits: np.ndarray,
        state: np.ndarray,
    ) -> np.ndarray:
        """Draw as many ids as there are numbers in ``uniform``, float64: -> (n,) int64.

        forbidden and seen (V,) bool, logits (V,), state (L, 1, H): the last three are updated in place.
        """
        ids = np.empty(len(uniform), np.int64)
        status = self._library.headgate_model_generate(
            self._handle, ctypes.byref(how), len(ids), self.threads, _at(uniform), _at(forbidden), _at(seen),
            _at(logits), _at(state), _at(ids),
        )  # fmt: skip
        if status:
            _fail(status)
        return ids


_Start = ctypes.c_char * 0


def _at(array: np.ndarray) -> int:
    """Where an array lies, found in a third of the time of ``array.ctypes.data``: every step needs three of them."""
    if array.flags.writeable:
        return ctypes.addressof(_Start.from_buffer(array))  # type: ignore[arg-type]
    address: int = array.__array_interface__["data"][0]
    return address


def find() -> Path | None:
    """Where the library lies; None where it was not built, because the package was installed without a compiler."""
    import headgate

    return next((path for folder in headgate.__path__ if (path := Path(folder) / _FILE).is_file()), None)


@functools.cache
def load() -> ctypes.CDLL | None:
    """The library, None where it was not built. RuntimeError where it is there and does not work."""
    path = find()
    if path is None:
        return None
    try:
        library = ctypes.CDLL(str(path))
        version = library.headgate_version()
    except (OSError, AttributeError) as error:
        raise RuntimeError(f"{path} does not load ({error}): install headgate again") from error
    if version != CONTRACT:
        raise RuntimeError(f"{path} has contract {version}, this headgate needs {CONTRACT}: install headgate again")
    address, number = ctypes.c_void_p, ctypes.c_int64
    library.headgate_model_new.restype = address
    library.headgate_model_free.argtypes = (address,)
    library.headgate_model_step.argtypes = (address, number, ctypes.c_int32, *[address] * 3)
    library.headgate_model_read.argtypes = (address, number, number, ctypes.c_int32, *[address] * 3)
    library.headgate_model_logits.argtypes = (address, number, ctypes.c_int32, address, address)
    library.headgate_model_generate.argtypes = (address, address, number, ctypes.c_int32, *[address] * 6)
    return library


def level() -> str:
    """The instructions in use, one of LEVELS. The library must be there."""
    library = load()
    assert library is not None
    return LEVELS[library.headgate_level()]


def call(name: str, *structures: ctypes.Structure) -> None:
    """Call a function of the library that returns a status. MemoryError or RuntimeError where it is not OK."""
    if status := getattr(load(), "headgate_" + name)(*map(ctypes.byref, structures)):
        _fail(status)


def _fail(status: int) -> NoReturn:
    """Raise what a status other than OK stands for."""
    if status == 1:
        raise MemoryError("not enough memory for what the native library was asked to do")
    if status == 4:
        raise IndexError("ids must be from 0 to V-1")
    raise RuntimeError("the native library was refused the threads that it was told to use: use fewer")


SUFFIXES = {4: "float", 8: "double"}  # of functions, by the bytes of a number

MISSING = (
    "the compiled library is not there, because it could not be built when headgate was installed: "
    "install GCC or Clang, then headgate again (pip install -v says what went wrong)"
)


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
