"""Ctrl-C and other signals, which end training after the current step."""

import os
import signal


class Signals:
    """Context manager: note the first Ctrl-C, SIGTERM or SIGHUP (terminal closed) instead of handling it.

    A second signal of the same kind is handled as usual. A signal that is ignored, as SIGHUP is under nohup, stays
    ignored.
    """

    number = 0

    def __enter__(self) -> "Signals":
        known = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
        self._before = {s: signal.getsignal(s) for s in known if signal.getsignal(s) not in (signal.SIG_IGN, None)}
        for number in self._before:
            signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        self.number = self.number or number
        signal.signal(number, self._before[signal.Signals(number)])
        if number == signal.SIGINT and os.isatty(2):
            os.write(
                2, b"\nsaving and stopping after this step; press Ctrl-C again to stop at once without saving\n"
            )  # print is not reentrant

    def received(self) -> bool:
        return self.number != 0
