"""Ctrl-C and other signals that end training after the step under way."""

import os
import signal


class Signals:
    """Context manager: the first Ctrl-C, SIGTERM or SIGHUP (the terminal was closed) is noted, the next one of its kind
    is taken as ever. A signal that is ignored, as SIGHUP under nohup, stays ignored."""

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
                2, b"\nstopping after this step, to save; Ctrl-C again stops at once, without saving\n"
            )  # print is not reentrant

    def received(self) -> bool:
        return self.number != 0
