"""The compiled library (native/headgate.h): found, loaded, called."""

import ctypes
import functools
import sys
from pathlib import Path
from typing import NoReturn

import numpy as np

CONTRACT = 4  # HEADGATE_VERSION of the header that this file was written for
GATE_LANES = 16  # HEADGATE_GATE_LANES of the header, which describes the layout of gates
PRECISIONS = ("float32", "bfloat16", "int8")  # of the weights of a model in the library
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
                "ids",
                "h0",
                "weight_ih",
                "weight_hh",
                "bias_ih",
                "bias_hh",
                "lengths",
                "resets",
                "reset_state",
                "packed",
                "states",
                "last",
                "gates",
            )
        ),
    )


class Gradients(ctypes.Structure):
    """``headgate_gru_gradients``."""

    _fields_ = tuple(
        (name, ctypes.c_void_p)
        for name in (
            "d_states",
            "d_last",
            "d_gates",
            "d_x",
            "d_h0",
            "d_weight_ih",
            "d_weight_hh",
            "d_bias_ih",
            "d_bias_hh",
            "d_reset_state",
        )
    )


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


class Weights(ctypes.Structure):
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


def matrix_shape(name: str, array: np.ndarray) -> tuple[int, int]:
    """Return the shape of a matrix; ValueError for another number of axes."""
    shape = np.shape(array)
    if len(shape) != 2:
        raise ValueError(f"{name} must have two axes, got {shape}")
    return shape[0], shape[1]


_Start = ctypes.c_char * 0


def address_of(array: np.ndarray) -> int:
    """Return the address of an array in a third of the time of ``array.ctypes.data``: every step needs three."""
    if array.flags.writeable:
        return ctypes.addressof(_Start.from_buffer(array))  # type: ignore[arg-type]
    start: int = array.__array_interface__["data"][0]
    return start


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
        fail(status)


def fail(status: int) -> NoReturn:
    """Raise the error that a status other than OK stands for."""
    if status == 1:
        raise MemoryError("there is not enough memory for this computation in the native library")
    raise RuntimeError("the system refused to start the threads of the native library: use fewer threads")


SUFFIXES = {4: "float", 8: "double"}  # of function names, by the bytes per number

MISSING = (
    "the compiled library is missing, because it could not be built when headgate was installed: "
    "install GCC or Clang, then reinstall headgate (pip install -v shows what went wrong)"
)
