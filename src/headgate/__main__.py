"""The program ``headgate``, also as ``python -m headgate``: Ctrl-C and too little memory before the rest is loaded."""

import os
import signal
import sys
from types import FrameType

LEAST = 128 << 20  # bytes of address space without which NumPy's libraries end the process by themselves
INTERRUPTED = 128 + signal.SIGINT


def main() -> int:
    """Run the command line. Ctrl-C ends it without a traceback at any moment, also while modules are imported."""
    before = signal.getsignal(signal.SIGINT)
    interruptible = before is signal.default_int_handler  # a background job of a shell ignores it
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
            f"headgate: at least {LEAST >> 20} MB of address space are needed, the limit is {limit >> 20} MB: raise it "
            "with ulimit -v",
            file=sys.stderr,
        )
        return 2
    try:
        if interruptible:
            signal.signal(signal.SIGINT, before)
        return run()
    except KeyboardInterrupt:  # outside of what run() covers
        return INTERRUPTED
    finally:
        if interruptible:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # while Python shuts down


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)


def _address_space() -> int | None:
    """The limit of this process' address space in bytes; None where there is none."""
    try:
        import resource
    except ModuleNotFoundError:  # no such limits there
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


if __name__ == "__main__":
    sys.exit(main())
