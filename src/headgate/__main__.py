"""The program ``headgate`` (``python -m headgate``): handles Ctrl-C and too little memory before loading the rest."""

import os
import signal
import sys
from types import FrameType

LEAST = 128 << 20  # bytes of address space; with less, NumPy's libraries abort the process
INTERRUPTED = 128 + signal.SIGINT


def main() -> int:
    """Run the command line; Ctrl-C ends it without a traceback at any moment, even while modules are imported."""
    before = signal.getsignal(signal.SIGINT)
    interruptible = before is signal.default_int_handler  # not in a shell's background job, which ignores it
    if interruptible:
        signal.signal(signal.SIGINT, _leave)
    limit = _address_space()
    if limit is not None and limit < 8 * LEAST:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # each thread takes address space
    try:
        if limit is not None and limit < LEAST:
            raise MemoryError
        from headgate.cli.main import main as run
    except (ImportError, MemoryError):
        if limit is None:
            raise
        print(
            f"headgate: at least {LEAST >> 20} MB of address space are needed, but the limit is {limit >> 20} MB: "
            "raise it with ulimit -v",
            file=sys.stderr,
        )
        return 2
    try:
        if interruptible:
            signal.signal(signal.SIGINT, before)
        return run()
    except KeyboardInterrupt:  # outside the block in which run() handles it
        return INTERRUPTED
    finally:
        if interruptible:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # while Python shuts down


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)


def _address_space() -> int | None:
    """Return the limit of this process's address space in bytes, or None without one."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows has no such limits
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


if __name__ == "__main__":
    sys.exit(main())
