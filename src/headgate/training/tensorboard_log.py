"""The reports of a run as TensorBoard reads them. TensorBoard is imported only where a run is to have them."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from headgate.errors import InputError, not_installed


class Events:
    """A folder of event files that shows what log.jsonl has, each step once, and what the model wrote."""

    def __init__(self, folder: Path, log: Sequence[Mapping[str, Any]]) -> None:
        """Go on behind ``log``, the entries so far.

        Where the folder shows something else, TensorBoard is told to forget it from there on, and the log is written
        again: a run killed behind its last checkpoint has reported steps that will be made anew, and one that went
        without events for a while lacks some.
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
        """The numbers of one entry of the log, written when this returns; what is null has none."""
        self._step = entry["step"]
        for name, number in _numbers(entry).items():
            self._writer.add_scalar(name, number, self._step)
        self._writer.flush()

    def samples(self, texts: Sequence[str]) -> None:
        """What the model wrote at the step of the last entry, shown as it is: Markdown takes no part in it."""
        for number, text in enumerate(texts, 1):
            self._writer.add_text(f"sample/{number}", "    " + text.replace("\n", "\n    "), self._step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def check() -> None:
    """InputError where there is no TensorBoard."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "tensorboard":
            raise
        raise InputError(f"{not_installed('--tensorboard', 'tensorboard')}, or take --no-tensorboard") from None


def _numbers(entry: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an entry, apart from its step, in the precision that event files have."""
    with np.errstate(over="ignore"):
        return {
            name: float(np.float32(value))
            for name, value in entry.items()
            if name != "step" and type(value) in (int, float)
        }


def _shown(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """The steps that TensorBoard shows of a folder, with their numbers."""
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    if not folder.is_dir():
        return []
    logger = logging.getLogger("tensorboard")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of every place where events are taken back
    try:
        found = EventAccumulator(str(folder), size_guidance={SCALARS: 0}).Reload()
    finally:
        logger.setLevel(level)
    steps: dict[int, dict[str, float]] = {}
    for name in found.Tags()[SCALARS]:
        for event in found.Scalars(name):
            steps.setdefault(event.step, {})[name] = event.value
    return sorted(steps.items())
