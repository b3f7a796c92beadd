"""headgate.train(): train a language model on a text from Python."""

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from headgate.models.language_model import LanguageModel
from headgate.runs.run_directory import RunDirectory, is_run
from headgate.runtime.runtime import Runtime
from headgate.settings.run import Settings
from headgate.training.signals import Signals
from headgate.training.start import opened


@dataclass(frozen=True)
class Run:
    """A run trained by :func:`train`.

    Attributes
    ----------
    directory : RunDirectory
        The run on disk.
    ending : str
        "finished", "stopped early" (after ``patience`` epochs), or "paused" (at ``max_steps``).
    """

    directory: RunDirectory
    ending: str

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.directory.path

    @property
    def settings(self) -> Settings:
        """All settings of the run."""
        return self.directory.settings

    @property
    def log(self) -> list[dict[str, Any]]:
        """The reports, a dictionary each: step, epoch, loss (nats per token), perplexity, held_out_perplexity, ..."""
        return self.directory.log()

    @property
    def curve(self) -> Path:
        """The path of the plot of perplexity over epochs."""
        return self.path / "curve.png"

    def model(self, *, best: bool = True) -> LanguageModel:
        """Load the model in evaluation mode; ``best``: the weights with the lowest held-out loss, if saved."""
        return LanguageModel.load(self.path, best=best and _has_best(self.path))

    def runtime(self, *, best: bool = True) -> Runtime:
        """Load the trained model as a :class:`Runtime`, which generates text without torch."""
        return Runtime.load(self.path, best=best and _has_best(self.path))

    def _repr_png_(self) -> bytes | None:
        return self.curve.read_bytes() if self.curve.exists() else None


def _has_best(path: Path) -> bool:
    return (path / "best.safetensors").exists()


def train(
    corpus: str | os.PathLike[str] | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    recipe: str | None = None,
    overwrite: bool = False,
    data_dir: str | os.PathLike[str] | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Run:
    """Train a language model on a text, or continue the run in ``out``.

    The same call continues an interrupted run from its newest checkpoint, to the same bits as without interruption;
    with more ``epochs`` it continues a finished run. Ctrl-C saves a checkpoint and raises KeyboardInterrupt; a second
    Ctrl-C raises it at once.

    Parameters
    ----------
    corpus : str or path, optional
        A file, directory, archive or compressed file, or a name that ``headgate corpora`` lists; "voyage", the bundled
        tale, by default.
    out : str or path, optional
        The run directory; by default the first free one of runs/NAME, runs/NAME-2, ...
    recipe : str, optional
        A recipe (``headgate recipes``) or a TOML file, whose settings are the defaults.
    overwrite : bool
        Replace the run in ``out``.
    data_dir : str or path, optional
        A directory with texts that are already downloaded.
    quiet : bool
        Print nothing; the run directory has the reports.
    **settings
        Any setting that ``headgate train --help`` lists, with underscores: ``epochs=5, learning_rate=0.002``.

    Returns
    -------
    Run
        The curve, the log, the model and the runtime of the run.

    Raises
    ------
    InputError
        If a setting is unknown, invalid or contradicts the run in ``out``, or if the text cannot be read or is too
        short.

    Examples
    --------
    >>> run = train("voyage", out="runs/first", epochs=2)  # doctest: +SKIP
    >>> run.runtime().generate("The gate", 80)  # doctest: +SKIP
    """
    changes = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
    if corpus is not None:
        changes["corpus"] = os.fspath(corpus)
    path = None if out is None else Path(out)
    resume = path is not None and is_run(path) and not overwrite
    folder = None if data_dir is None else Path(data_dir)
    with (
        _torch_as_it_was(),
        opened(
            path, changes, recipe=recipe, resume=resume, overwrite=overwrite, data_dir=folder, quiet=quiet
        ) as session,
        Signals() if threading.current_thread() is threading.main_thread() else contextlib.nullcontext() as signals,
    ):
        result = session.train(stop=signals.received if signals else lambda: False)
    if result.ending == "interrupted":
        raise KeyboardInterrupt(f"interrupted at step {result.progress.step}, saved in {session.directory.path}")
    return Run(session.directory, result.ending)


@contextlib.contextmanager
def _torch_as_it_was() -> Iterator[None]:
    """Context manager: restore torch's generator and its number of threads."""
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_rng_state(state)
        torch.set_num_threads(threads)
