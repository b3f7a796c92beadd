"""The reports of a run as TensorBoard event files; TensorBoard is imported only if a run writes them."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from headgate.errors import InputError, not_installed


class Events:
    """A folder of event files with the entries of log.jsonl, each step once, and the samples."""

    def __init__(self, folder: Path, log: Sequence[Mapping[str, Any]]) -> None:
        """Continue after ``log``, the entries so far.

        From the first step at which the folder differs from the log, TensorBoard purges its events and the log is
        written again. They differ after a run is killed, because the steps after its last checkpoint were reported and
        will be repeated, or after it ran for a while without events.
        """
        from torch.utils.tensorboard import SummaryWriter

        entries, shown, same = [(entry["step"], _numbers(entry)) for entry in log], _shown(folder), 0
        while same < min(len(entries), len(shown)) and entries[same] == shown[same]:
            same += 1
        self._step = entries[same - 1][0] if same else -1
        self._writer: Any = SummaryWriter(str(folder), purge_step=self._step + 1)
        for entry in log[same:]:
            self.entry(entry)

    def entry(self, entry: Mapping[str, Any]) -> None:
        """Write and flush the numbers of one log entry; null values are left out."""
        self._step = entry["step"]
        for name, number in _numbers(entry).items():
            self._writer.add_scalar(name, number, self._step)
        self._writer.flush()

    def samples(self, texts: Sequence[str]) -> None:
        """Write the samples at the step of the last entry, indented so that TensorBoard does not render Markdown."""
        for number, text in enumerate(texts, 1):
            self._writer.add_text(f"sample/{number}", "    " + text.replace("\n", "\n    "), self._step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def check() -> None:
    """Raise InputError if TensorBoard is not installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "tensorboard":
            raise
        raise InputError(f"{not_installed('--tensorboard', 'tensorboard')}, or use --no-tensorboard") from None


def _numbers(entry: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of an entry except its step, rounded to the float32 of event files."""
    with np.errstate(over="ignore"):
        return {
            name: float(np.float32(value))
            for name, value in entry.items()
            if name != "step" and type(value) in (int, float)
        }


def _shown(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """Return the steps that TensorBoard shows for a folder, with their numbers."""
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    if not folder.is_dir():
        return []
    logger = logging.getLogger("tensorboard")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of each purge
    try:
        events = EventAccumulator(str(folder), size_guidance={SCALARS: 0}).Reload()
    finally:
        logger.setLevel(level)
    steps: dict[int, dict[str, float]] = {}
    for name in events.Tags()[SCALARS]:
        for event in events.Scalars(name):
            steps.setdefault(event.step, {})[name] = event.value
    return sorted(steps.items())
