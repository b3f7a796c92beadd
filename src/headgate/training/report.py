"""What a run says while it runs: a live bar on a terminal, plain lines in a pipe, log.jsonl, samples.txt, events."""

import contextlib
import json
import math
import sys
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from headgate import console
from headgate.runs.run_directory import RunDirectory
from headgate.runtime.evaluation import perplexity
from headgate.training.tensorboard_log import Events


class Report:
    """Tells the terminal and the run directory. ``quiet`` tells the run directory only."""

    def __init__(self, run: RunDirectory, *, quiet: bool = False) -> None:
        self.run = run
        self.quiet = quiet
        self.steps = 0  # made since this was created
        self._bar: Any = None
        self._events: Events | None = None  # from the first report on: of several processes, one reports
        epochs = run.settings.training.epochs
        self._line_every = max(epochs // 20, 1)  # epochs: about twenty lines per run
        self._digits = 5  # of the number of steps

    def begin(self, step: int, total: int) -> None:
        """Training continues after ``step`` of ``total``."""
        self._digits = len(str(total))
        live = not self.quiet and sys.stdout.isatty()
        self._bar = tqdm(
            total=total, initial=step, disable=not live, file=sys.stdout, unit="step", dynamic_ncols=True, leave=False,
            bar_format="{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} [{elapsed}, {remaining} left]{postfix}",
        )  # fmt: skip

    def step(self, step: int, loss: float, tokens_per_second: float) -> None:
        """A step was made; ``loss`` is its own, nan where it was skipped."""
        self.steps += 1
        if not self._bar.disable:
            self._bar.set_postfix_str(
                f"perplexity {perplexity(loss):.2f}, {tokens_per_second:,.0f} tokens/s", refresh=False
            )
            with self._whoever_reads():
                self._bar.update(step - self._bar.n)

    def entry(self, entry: dict[str, Any], *, end_of_epoch: bool) -> None:
        """One line of log.jsonl, where what is not finite is null; and now and then a line to read."""
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
        """Training ends here, because it does not get anywhere."""
        self.run.append("log.jsonl", json.dumps({"step": step, "epoch": epoch, "diverged": True}) + "\n")

    def samples(self, epoch: int, texts: list[str]) -> None:
        """What the model wrote after an epoch."""
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
        """Context manager: where standard output cannot be written any more, say so once and be quiet from then on.

        The reader of a pipe has gone, a terminal was closed, a disk is full: no reason to lose a run.
        """
        try:
            yield
        except OSError as error:
            self.quiet = True
            if self._bar is not None:
                self._bar.disable = True
            console.discard(sys.stdout)
            console.tell(
                f"headgate: standard output cannot be written any more ({error.strerror}); training goes on, and "
                f"{self.run.path} has the reports"
            )
