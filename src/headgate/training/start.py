"""Starting and continuing runs of language models, for ``headgate train`` and :func:`headgate.train`."""

import contextlib
import dataclasses
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from headgate import __version__, machine
from headgate.errors import InputError
from headgate.pictures.curve import draw_curve
from headgate.runs.find import default_directory
from headgate.runs.run_directory import RunDirectory, check_free, is_run
from headgate.settings import recipe as recipes
from headgate.settings.recipe import Published, Recipe
from headgate.settings.run import CHANGEABLE, Settings, without_effect
from headgate.settings.weights import cutoffs
from headgate.storage.lock import InUseError, locked
from headgate.text import corpus as corpora
from headgate.text import prepared_corpus, sources
from headgate.text.batches import Batches
from headgate.text.catalogue import NAMED
from headgate.text.corpus import Corpus
from headgate.training import capacity, distributed, loop, tensorboard_log
from headgate.training.announcements import introduction, model_in_words, summary
from headgate.training.device import Device
from headgate.training.distributed import Processes
from headgate.training.loop import Result
from headgate.training.report import Report

MEMORY = (
    "use a smaller --hidden-size or fewer --num-layers, or a smaller --batch-size or --sequence-length, or --accumulate"
)


@dataclass
class Session:
    """A run open for training: its locked directory and its text."""

    directory: RunDirectory
    corpus: Corpus
    report: Report
    processes: Processes

    def train(self, *, stop: Callable[[], bool]) -> Result:
        """Train to the end or until ``stop`` returns True, with reports, and draw the curve."""
        if self.processes.is_main:
            self.processes.barrier()  # the others wait for the directory
        published = [Published(**row) for row in self.directory.facts.get("published", ())]
        for line in introduction(self.directory, self.corpus, self.processes):
            self.report.line(line)
        try:
            result = loop.train(self.directory, self.corpus, self.report, stop=stop, processes=self.processes)
        finally:
            self.report.close()
        if self.processes.is_main:
            title = model_in_words(self.directory.settings)
            draw_curve(self.directory.log(), self.directory.path / "curve.png", title=title, published=published)
            if result.ending != "interrupted":
                for line in summary(self.directory, result, published):
                    self.report.line(line)
        return result


@contextlib.contextmanager
def opened(
    out: Path | None,
    given: dict[str, Any],
    *,
    recipe: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    data_dir: Path | None = None,
    quiet: bool = False,
) -> Iterator[Session]:
    """Context manager: start a run with the ``given`` settings, or with ``resume`` continue one, and keep it locked.

    Processes that torchrun started join one run. If the block raises before the first step of a new run, the run is
    removed. If ``out`` is None, the run is runs/NAME, numbered if that is taken; with ``resume``, the newest of these.
    """
    chosen = recipes.load(recipe) if recipe else None
    settings = (chosen.settings if chosen else Settings()).replaced(**given)
    name = None if out else _default_name(chosen, settings)
    out = out or default_directory(str(name), newest=resume)
    resume = resume or _same_job(out)
    with machine.enough(MEMORY), Processes.joined() as processes:
        if not processes.is_main:
            processes.barrier()  # wait until the first process has created the directory
            directory, corpus = _continued(out, {}, data_dir, first=False)
            yield Session(directory, corpus, Report(directory, quiet=True), processes)
            return
        if resume:
            directory, corpus = _continued(out, given, data_dir)
            with locked(directory.path):
                directory.write_settings()
                yield Session(directory, corpus, Report(directory, quiet=quiet), processes)
            return
        settings = _as_prepared(settings, given)
        if idle := without_effect(given, settings):
            raise InputError("; ".join(idle))
        settings, corpus, facts = _checked(settings, chosen, data_dir, count=processes.world_size)
        if processes.world_size > 1:  # the other processes expect this directory, so it cannot get another number
            name = None
        with _claimed(out, settings, corpus, facts, name=name, overwrite=overwrite) as directory:
            report = Report(directory, quiet=quiet)
            try:
                yield Session(directory, corpus, report, processes)
            except BaseException:  # Ctrl-C too
                if not report.steps:
                    directory.remove()
                raise


def _same_job(out: Path) -> bool:
    """Return True if the run in ``out`` belongs to this torchrun job, which was then restarted."""
    return bool(distributed.job()) and is_run(out) and RunDirectory.open(out).facts.get("job") == distributed.job()


def _as_prepared(settings: Settings, given: dict[str, Any]) -> Settings:
    """Return the settings with those that a prepared corpus fixes; raise InputError if ``given`` contradicts them."""
    text = settings.text
    if not corpora.is_stored(text):
        return settings
    fixed = {**prepared_corpus.settings_of(Path(text.corpus)), "limit": 0}
    if wrong := [name for name in fixed if name in given and given[name] != fixed[name]]:
        raise InputError(
            f"{text.corpus} was prepared with {', '.join(f'{name} = {fixed[name]}' for name in wrong)}: omit "
            f"{', '.join('--' + name.replace('_', '-') for name in wrong)}, or prepare the text again"
        )
    return settings.replaced(**fixed)


@contextlib.contextmanager
def _claimed(
    out: Path, settings: Settings, corpus: Corpus, facts: dict[str, Any], *, name: str | None, overwrite: bool
) -> Iterator[RunDirectory]:
    """Context manager: create a new run in ``out`` and keep it locked; remove directories that are left empty.

    With a ``name``, if another process has just taken ``out``, use the next free one of runs/NAME-2, ...
    """
    taken: list[Path] = []
    while True:
        if name is not None:
            out = default_directory(name, taken=taken)
        check_free(out, overwrite=overwrite)
        made = [path for path in (out, *out.parents) if not path.exists()]
        out.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            tidy = stack.enter_context(contextlib.ExitStack())  # runs after the lock is released
            try:
                stack.enter_context(locked(out))
                tidy.callback(_remove_empty, out, made)
                if name is None or not is_run(out):
                    yield RunDirectory.create(out, settings, corpus.tokenizer, facts, overwrite=overwrite, held=True)
                    return
            except InUseError:
                if name is None:
                    raise
        taken.append(out)


def _remove_empty(folder: Path, made: Sequence[Path]) -> None:
    """Remove a directory that contains nothing but its lock, and those of ``made`` that are then empty."""
    if folder.is_dir() and {path.name for path in folder.iterdir()} <= {"lock", "checkpoints"}:
        (folder / "lock").unlink(missing_ok=True)
    for path in ((folder / "checkpoints"), *made):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _checked(
    settings: Settings, recipe: Recipe | None, data_dir: Path | None, *, count: int
) -> tuple[Settings, Corpus, dict[str, Any]]:
    """Return the settings of a new run, its text, and the facts about both for config.json.

    Raises InputError if the run cannot be trained, before anything is written.
    """
    if settings.training.tensorboard:
        tensorboard_log.check()
    if os.path.exists(settings.text.corpus) and settings.text.corpus not in NAMED:
        settings = settings.replaced(corpus=os.path.abspath(settings.text.corpus))
    prepare = f"prepare it (headgate prepare {shlex.quote(settings.text.corpus)} --out DIR) and train on DIR"
    if settings.text.corpus not in NAMED and not corpora.is_stored(settings.text):
        sources.check_size(settings.text, remedy=f"{prepare}, or use only a part with --limit")
    with machine.enough(prepare):
        corpus = corpora.load(settings.text, data_dir=data_dir, share=distributed.on_this_machine())
    settings = settings.replaced(threads=settings.training.threads or machine.capped(torch.get_num_threads()))
    # The next calls only check: they raise before anything is written.
    Batches.of(corpus.training, settings.training, world_size=count)
    Device.of(settings.training.device, settings.training.precision, number=distributed.on_this_machine()[0])
    if settings.model.head == "adaptive":
        cutoffs(corpus.tokenizer.vocabulary_size)
        if settings.text.tokenizer not in ("words", "subwords"):
            raise InputError(
                "head = adaptive needs a vocabulary ordered by frequency, which tokenizer = "
                f"{settings.text.tokenizer} does not have: use --tokenizer words or subwords, or --head linear or tied"
            )
    capacity.check_model(settings, corpus.tokenizer.vocabulary_size)
    comparable = recipe is not None and recipe.settings.text == settings.text
    facts = {
        "recipe": recipe.name if recipe else None,
        "published": [dataclasses.asdict(p) for p in recipe.published_for(settings)] if recipe and comparable else [],
        "corpus_sha256": corpus.sha256,
        "corpus_characters": corpus.characters,
        "headgate": __version__,
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "job": distributed.job(),
        "prefix": loop.prefixes(settings.training, corpus)[0],
    }
    return settings, corpus, facts


def _continued(
    out: Path, given: dict[str, Any], data_dir: Path | None, *, first: bool = True
) -> tuple[RunDirectory, Corpus]:
    """Open the run in ``out``, with changes to the settings that may change; raise InputError for others.

    The ``first`` process applies the changes; the others read what it has written.
    """
    directory = RunDirectory.open(out)
    before = {name: value for section in directory.settings.to_dict().values() for name, value in section.items()}
    changed = {name: value for name, value in given.items() if before[name] != value and name != "corpus"}
    if fixed := [name for name in changed if name not in CHANGEABLE]:
        raise InputError(
            f"{out} was started with {', '.join(f'{name} = {before[name]}' for name in fixed)}, which cannot change "
            "when it continues: omit the flag, or start another run with --out"
        )
    if "corpus" in given:
        known = given["corpus"] == "-" or given["corpus"] in NAMED
        changed["corpus"] = given["corpus"] if known else os.path.abspath(given["corpus"])
    if first:
        changed = {"max_steps": 0, **changed}
    directory.settings = directory.settings.replaced(**changed)
    if first and directory.settings.training.tensorboard:
        tensorboard_log.check()
    corpus = corpora.load(directory.settings.text, data_dir=data_dir, share=distributed.on_this_machine())
    same_text = corpus.sha256 == directory.facts.get("corpus_sha256")
    if not same_text or corpus.tokenizer.to_json() != directory.tokenizer.to_json():
        version = directory.facts.get("headgate", "")
        raise InputError(corpora.another_text(directory.settings.text, out, version))
    return directory, corpus


def _default_name(recipe: Recipe | None, settings: Settings) -> str:
    source = settings.text.corpus
    return Path(recipe.name).stem if recipe else "text" if source == "-" else Path(source).name.split(".")[0] or "text"
