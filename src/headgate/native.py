"""The compiled library (native/headgate.h): found, loaded, called.

Letters: T time steps, B batch, I input size, H hidden size, L layers, V vocabulary, E embedding, O rows of the head.
"""

import ctypes
import functools
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

CONTRACT = 4  # HEADGATE_VERSION of the header that this file was written for
GATE_LANES = 16  # HEADGATE_GATE_LANES of the header, which describes the layout of gates
PRECISIONS = ("float32", "bfloat16", "int8")  # of a Model's weights
BAD_ID = 4  # the status for ids outside 0 to V-1
LEVELS = ("baseline", "AVX2", "AVX-512", "AMX")
_FILE = {"win32": "headgate.dll", "darwin": "libheadgate.dylib"}.get(sys.platform, "libheadgate.so")


class Gru(ctypes.Structure):
    """``headgate_gru``: the arguments of one layer in one direction, which the header describes."""

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
    """``headgate_sampling``: how ids are sampled."""

    _fields_ = (
        *((name, ctypes.c_double) for name in ("repetition_penalty", "temperature", "top_p", "min_p")),
        ("top_k", ctypes.c_int64),
    )


class Model:
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
                ("weight_ih", "weight_hh", "bias_ih", "bias_hh"), zip(*layers, strict=True), zip(*shapes, strict=True),
                strict=True,
            )
        ]  # fmt: skip
        pointers = [(ctypes.c_void_p * len(column))(*(v.ctypes.data for v in column)) for column in arrays]
        ends = [
            None if v is None else _weight(name, v, shape)
            for name, v, shape in (
                ("the embedding", embedding, (self.V, E)), ("the head", head[0], (self.O, self.H)),
                ("the head's bias", head[1], (self.O,)),
            )
        ]  # fmt: skip
        weights = _Weights(
            self.V, E, self.H, self.L, self.O, reset == "before", PRECISIONS.index(precision),
            *(None if v is None else v.ctypes.data for v in ends[:1]),
            *(ctypes.cast(p, ctypes.c_void_p) for p in pointers), *(v.ctypes.data for v in ends[1:] if v is not None),
        )  # fmt: skip
        self._library, self._handle = library, library.headgate_model_new(ctypes.byref(weights))
        if not self._handle:
            raise MemoryError("not enough memory for the model")
        weakref.finalize(self, library.headgate_model_free, self._handle)

    def __copy__(self) -> "Model":
        return self  # immutable, and a second owner of the handle would free it twice

    def __deepcopy__(self, memo: object) -> "Model":
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a model inside the native library cannot be pickled: pickle its weights")

    def step(self, ids: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Advance a state (L, B, H) by ids (B,); return logits (B, O) and the new state."""
        B = len(ids)
        check("ids", ids, (B,), INT64)
        check("the state", state, (self.L, B, self.H), FLOAT32)
        logits, new = np.empty((B, self.O), np.float32), state.copy()
        status = self._library.headgate_model_step(self._handle, B, self.threads, _at(ids), _at(new), _at(logits))
        if status:
            self._fail(status, ids)
        return logits, new

    def read(self, ids: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Advance a state (L, B, H) by ids (T, B); return the states of the last layer (T, B, H) and the new state."""
        T, B = _two("ids", ids)
        check("ids", ids, (T, B), INT64)
        check("the state", state, (self.L, B, self.H), FLOAT32)
        outputs, new = np.empty((T, B, self.H), np.float32), state.copy()
        if not ids.size:
            return outputs, new  # with B = 0, T may be any number
        status = self._library.headgate_model_read(self._handle, T, B, self.threads, _at(ids), _at(new), _at(outputs))
        if status:
            self._fail(status, ids)
        return outputs, new

    def logits(self, outputs: np.ndarray) -> np.ndarray:
        """Compute logits (N, O) from states of the last layer (N, H)."""
        N = len(outputs)
        check("outputs", outputs, (N, self.H), FLOAT32)
        logits = np.empty((N, self.O), np.float32)
        status = self._library.headgate_model_logits(self._handle, N, self.threads, _at(outputs), _at(logits))
        if status:
            self._fail(status)
        return logits

    def generate(
        self,
        how: Draw,
        uniform: np.ndarray,
        forbidden: np.ndarray,
        seen: np.ndarray,
        logits: np.ndarray,
        state: np.ndarray,
    ) -> np.ndarray:
        """Sample one id for each of the numbers in ``uniform``, (n,) float64; return ids (n,) int64.

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
        ids = np.empty(n, np.int64)
        status = self._library.headgate_model_generate(
            self._handle, ctypes.byref(how), n, self.threads, _at(uniform), _at(forbidden), _at(seen),
            _at(logits), _at(state), _at(ids),
        )  # fmt: skip
        if status:
            self._fail(status)
        return ids

    def _fail(self, status: int, ids: np.ndarray | None = None) -> NoReturn:
        if status == BAD_ID and ids is not None:
            raise IndexError(f"ids must be from 0 to {self.V - 1}, got {ids.min()} to {ids.max()}")
        _fail(status)


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


FLOAT32, FLOAT64, INT64, BOOL = map(np.dtype, (np.float32, np.float64, np.int64, np.bool_))


def check(name: str, array: np.ndarray, shape: tuple[int, ...], dtype: np.dtype, *, written: bool = False) -> None:
    """Raise an error unless an array has the layout that the library assumes; only checked addresses are passed to it.

    TypeError if it is not an array; ValueError if its shape, dtype or byte order differs, if it is not C-contiguous and
    aligned, or if it is to be ``written`` and is read-only.
    """
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name} must be an array, got {type(array).__name__}")
    flags = array.flags
    if (
        array.shape != shape
        or array.dtype != dtype
        or not (flags.carray if written else flags.c_contiguous and flags.aligned)
    ):
        layout = "C-contiguous, aligned, writable" if written else "C-contiguous, aligned"
        raise ValueError(
            f"{name} must be {dtype} {shape}, {layout}, got {array.dtype} {array.shape} with strides {array.strides}"
            + ("" if flags.writeable else ", read-only")
        )


def _two(name: str, array: np.ndarray) -> tuple[int, int]:
    """Return the shape of a matrix; ValueError for another number of axes."""
    shape = np.shape(array)
    if len(shape) != 2:
        raise ValueError(f"{name} must have two axes, got {shape}")
    return shape[0], shape[1]


_Start = ctypes.c_char * 0


def _at(array: np.ndarray) -> int:
    """Return the address of an array in a third of the time of ``array.ctypes.data``: every step needs three."""
    if array.flags.writeable:
        return ctypes.addressof(_Start.from_buffer(array))  # type: ignore[arg-type]
    address: int = array.__array_interface__["data"][0]
    return address


def find() -> Path | None:
    """Return the path of the library, or None if it was not built because the installation found no compiler."""
    package = sys.modules[__name__.rpartition(".")[0]]
    return next((path for folder in package.__path__ if (path := Path(folder) / _FILE).is_file()), None)


@functools.cache
def load() -> ctypes.CDLL | None:
    """Load the library once; return None if it was not built.

    Raises RuntimeError if it does not load or is of another version, and MemoryError if the limit of the address space
    leaves no room for it.
    """
    path = find()
    if path is None:
        return None
    try:
        library = ctypes.CDLL(str(path))
        version = library.headgate_version()
    except (OSError, AttributeError) as error:
        if "failed to map" in str(error) and _is_limited():
            raise MemoryError(
                f"not enough memory to load {path}: raise the limit of the address space (ulimit -v)"
            ) from error
        raise RuntimeError(f"{path} does not load ({error}): reinstall headgate") from error
    if version != CONTRACT:
        raise RuntimeError(f"{path} has contract {version}, this headgate needs {CONTRACT}: reinstall headgate")
    address, number = ctypes.c_void_p, ctypes.c_int64
    library.headgate_model_new.restype = address
    library.headgate_model_free.argtypes = (address,)
    library.headgate_model_step.argtypes = (address, number, ctypes.c_int32, *[address] * 3)
    library.headgate_model_read.argtypes = (address, number, number, ctypes.c_int32, *[address] * 3)
    library.headgate_model_logits.argtypes = (address, number, ctypes.c_int32, address, address)
    library.headgate_model_generate.argtypes = (address, address, number, ctypes.c_int32, *[address] * 6)
    return library


def _is_limited() -> bool:
    """Return True if the address space of this process is limited."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows has no such limits
        return False
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def level() -> str:
    """Return the instruction set in use, one of LEVELS. The library must have been built."""
    library = load()
    assert library is not None
    return LEVELS[library.headgate_level()]


def call(name: str, *structures: ctypes.Structure) -> None:
    """Call a function of the library that returns a status; raise MemoryError or RuntimeError unless it is OK."""
    if status := getattr(load(), "headgate_" + name)(*map(ctypes.byref, structures)):
        _fail(status)


def _fail(status: int) -> NoReturn:
    """Raise the error that a status other than OK stands for."""
    if status == 1:
        raise MemoryError("there is not enough memory for this computation in the native library")
    raise RuntimeError("the system refused to start the threads of the native library: use fewer threads")


SUFFIXES = {4: "float", 8: "double"}  # of function names, by the bytes per number

MISSING = (
    "the compiled library is missing, because it could not be built when headgate was installed: "
    "install GCC or Clang, then reinstall headgate (pip install -v shows what went wrong)"
)
