"""The compiled library (native/headgate.h): finds it, loads it, says why it is not there. No torch.

Letters: T time steps, B batch, I input size, H hidden size.
"""

import ctypes
import functools
import sys
from pathlib import Path

CONTRACT = 1  # HEADGATE_VERSION of the header that this file was written for
LEVELS = ("baseline", "AVX2", "AVX-512")
_FILE = {"win32": "headgate.dll", "darwin": "libheadgate.dylib"}.get(sys.platform, "libheadgate.so")


class Sequence(ctypes.Structure):
    """``headgate_gru``: the arguments of one layer in one direction; the header says what each of them is."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("T", "B", "I", "H")),
        *((name, ctypes.c_int32) for name in ("reset", "reverse", "threads", "one_hot")),
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
    library.headgate_packed_size_float.restype = ctypes.c_int64
    return library


def level() -> str:
    """The instructions in use, one of LEVELS. The library must be there."""
    library = load()
    assert library is not None
    return LEVELS[library.headgate_level()]


MISSING = (
    "the compiled library is not there, because headgate was installed where no C++ compiler was found: "
    "install a compiler, then headgate again"
)
