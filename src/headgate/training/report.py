"""The reports of a training run: a live bar on a terminal, plain lines in a pipe, log.jsonl, samples.txt, events."""

import contextlib
import json
import math
import sys
from collections.abc import Iterator
from typing import Any

from headgate import console
from headgate.runs.run_directory import RunDirectory
from headgate.runtime.evaluation import perplexity
from headgate.training.tensorboard_log import Events


class Report:
    """Reports to the terminal and the run directory; with ``quiet``, to the run directory only."""

    def __init__(self, run: RunDirectory, *, quiet: bool = False) -> None:
        self.run = run
        self.quiet = quiet
        self.steps = 0  # since this report was created
        self._bar: Any = None
        self._events: Events | None = None  # created at the first report, because only one of several processes reports
        epochs = run.settings.training.epochs
        self._line_every = max(epochs // 20, 1)  # epochs: about twenty lines per run
        self._digits = 5  # of the number of steps

    def begin(self, step: int, total: int) -> None:
        """Begin the bar at ``step`` of ``total``."""
        self._digits = len(str(total))
        self._bar = console.progress_bar(total, unit="step", shown=not self.quiet, initial=step)

    def step(self, step: int, loss: float, tokens_per_second: float) -> None:
        """Show a step on the bar; ``loss`` is that step's, nan if it was skipped."""
        self.steps += 1
        if not self._bar.disable:
            self._bar.set_postfix_str(
                f"perplexity {perplexity(loss):.2f}, {tokens_per_second:,.0f} tokens/s", refresh=False
            )
            with self._whoever_reads():
                self._bar.update(step - self._bar.n)

    def entry(self, entry: dict[str, Any], *, end_of_epoch: bool) -> None:
        """Append a line to log.jsonl, with null for numbers that are not finite, and print some of the lines."""
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in entry.items()}
        if self._events is None and self.run.settings.training.tensorboard:
            self._events = Events(self.run.path / "events", self.run.log())
        self.run.append("log.jsonl", json.dumps(finite) + "\n")
        if self._events is not None:
            self._events.entry(finite)
        epoch, epochs = entry["epoch"], self.run.settings.training.epochs
        if end_of_epoch and epoch % self._line_every and epoch not in (1, epochs):
            return
        text = f"epoch {epoch:>{len(str(epochs))}}/{epochs}  step {entry['step']:>{self._digits}}  "
        text += f"perplexity {entry['perplexity']:7.2f}"
        if "held_out_perplexity" in entry:
            text += f"  held out {entry['held_out_perplexity']:7.2f}"
        text += f"  {entry['tokens_per_second']:7,.0f} tokens/s"
        self.line(text + (f"  {entry['skipped']} steps skipped" if entry["skipped"] else ""))

    def diverged(self, step: int, epoch: int) -> None:
        """Log that training ends here because its loss stays non-finite."""
        self.run.append("log.jsonl", json.dumps({"step": step, "epoch": epoch, "diverged": True}) + "\n")

    def samples(self, epoch: int, texts: list[str]) -> None:
        """Write and print the samples generated after an epoch."""
        self.run.append("samples.txt", "".join(f"epoch {epoch}: {text}\n" for text in texts))
        if self._events is not None:
            self._events.samples([text.encode("utf-8", "backslashreplace").decode() for text in texts])
        bar = console.painted("|", "cyan") if console.coloured(sys.stdout) else "|"
        for text in texts:
            self.line(f"  {bar} " + text.replace("\n", f"\n  {bar} "))

    def line(self, text: str) -> None:
        if not self.quiet:
            with self._whoever_reads():
                if self._bar is None or self._bar.disable:
                    print(text, flush=True)
                else:
                    self._bar.write(text, file=sys.stdout)

    def close(self) -> None:
        if self._bar is not None:
            with self._whoever_reads():
                self._bar.close()
        if self._events is not None:
            self._events.close()

    @contextlib.contextmanager
    def _whoever_reads(self) -> Iterator[None]:
        """Context manager: if standard output can no longer be written, say so once and be quiet from then on.

        A pipe whose reader exited, a closed terminal or a full disk is no reason to lose a run.
        """
        try:
            yield
        except OSError as error:
            self.quiet = True
            if self._bar is not None:
                self._bar.disable = True
            console.discard(sys.stdout)
            console.tell(
                f"headgate: standard output can no longer be written ({error.strerror}); training continues, and "
                f"{self.run.path} has the reports"
            )
