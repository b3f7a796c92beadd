"""``headgate train``: from a text, or a recipe, to a run directory; also continues one."""

import argparse
import contextlib
import dataclasses
import os
import shlex
import signal
import sys
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from headgate import __version__, console
from headgate.cli.flags import add_setting, command, default_directory
from headgate.errors import InputError
from headgate.settings.run import CHANGEABLE, SECTIONS, Settings, without_effect

if typing.TYPE_CHECKING:
    from headgate.runs.run_directory import RunDirectory
    from headgate.settings.recipe import Published, Recipe
    from headgate.text.corpus import Corpus
    from headgate.training.distributed import Processes
    from headgate.training.loop import Result
    from headgate.training.report import Report


COMMON = ("epochs", "hidden", "layers", "dropout", "batch", "steps", "learning_rate", "patience", "seed")  # settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "corpus",
        nargs="?",
        default=argparse.SUPPRESS,
        metavar="CORPUS",
        help="file, directory, archive, compressed file, '-' (standard input), or a name that 'headgate corpora' lists "
        "(voyage)",
    )
    parser.add_argument(
        "-o", "--out", metavar="DIR", help="the run directory (runs/NAME, numbered where that is taken)"
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in --out (or the newest of that name)")
    settings = {f.name: (f, kind) for kind in SECTIONS.values() for f in dataclasses.fields(kind)}
    for name in COMMON:
        f, kind = settings[name]
        add_setting(parser, f, typing.get_type_hints(kind)[name])
    parser.add_argument(
        "--recipe", metavar="NAME", help="start from the settings of a recipe: 'headgate recipes', or a .toml file"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the run in --out")
    parser.add_argument("-q", "--quiet", action="store_true", help="print errors only; the run directory has the rest")
    parser.add_argument("--data-dir", metavar="DIR", help="where downloaded corpora already are (or HEADGATE_DATA)")
    for section, kind in SECTIONS.items():
        group = parser.add_argument_group(f"settings of the {section}")
        for f in dataclasses.fields(kind):
            if f.name not in ("corpus", *COMMON):
                add_setting(group, f, typing.get_type_hints(kind)[f.name])


def run(options: argparse.Namespace) -> int:
    """Start or continue a run, train it, draw its curve, and say what came of it."""
    import torch  # noqa: F401 - first, so that where it is missing the message names it

    from headgate.settings import recipe as recipes
    from headgate.storage.lock import locked
    from headgate.training import capacity, distributed
    from headgate.training.report import Report

    if options.overwrite and (options.resume or not options.out):
        raise InputError("--overwrite replaces the run in --out: name that, and leave --resume away")
    given = {f.name: getattr(options, f.name) for kind in SECTIONS.values() for f in dataclasses.fields(kind)
             if hasattr(options, f.name)}  # fmt: skip
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    recipe = recipes.load(options.recipe) if options.recipe else None
    if recipe is not None and recipe.noise is not None:
        raise InputError(f"recipe {recipe.name} fits sequences: {command()} fit --recipe {options.recipe}")
    settings = (recipe.settings if recipe else Settings()).replaced(**given)
    name = None if options.out else _default_name(recipe, settings)
    out = Path(options.out) if name is None else default_directory(name, newest=options.resume)
    data_dir = Path(options.data_dir) if options.data_dir else None
    resume = options.resume or _same_job(out)
    with (
        capacity.enough("take a smaller --hidden or fewer --layers, or a smaller --batch or --steps, or --accumulate"),
        distributed.Processes.joined() as together,
    ):
        if not together.first:
            together.wait()  # until the first has made the directory
            directory, corpus = _continue(out, {}, data_dir, first=False)
            return _train(directory, corpus, Report(directory, quiet=True), together)
        if resume:
            directory, corpus = _continue(out, given, data_dir)
            with locked(directory.path):
                directory.write_settings()
                return _train(directory, corpus, Report(directory, quiet=options.quiet), together)
        settings = _as_prepared(settings, given)
        if idle := without_effect(given, settings):
            raise InputError("; ".join(idle))
        settings, corpus, facts = _checked(settings, recipe, data_dir, count=together.count)
        if together.count > 1:  # the others know which directory it is
            name = None
        with _claimed(out, settings, corpus, facts, name=name, overwrite=options.overwrite) as directory:
            report = Report(directory, quiet=options.quiet)
            try:
                return _train(directory, corpus, report, together)
            except BaseException:  # Ctrl-C too
                if not report.steps:
                    directory.remove()
                raise


def _same_job(out: Path) -> bool:
    """Whether torchrun has started again what it had begun: the run in ``out`` is of the same job."""
    from headgate.runs.run_directory import RunDirectory, is_run
    from headgate.training import distributed

    return bool(distributed.job()) and is_run(out) and RunDirectory.open(out).facts.get("job") == distributed.job()


def _train(directory: "RunDirectory", corpus: "Corpus", report: "Report", processes: "Processes") -> int:
    from headgate.pictures.curve import draw_curve
    from headgate.settings import recipe as recipes
    from headgate.training.loop import train

    if processes.first:
        processes.wait()  # the others wait for the directory
    out = directory.path
    published = [recipes.Published(**row) for row in directory.facts.get("published", ())]

    for line in _introduction(directory, corpus, processes):
        report.line(line)
    go_on = f"{command()} train --resume --out {shlex.quote(str(out))}"
    with _Signals() as signals:
        try:
            result = train(directory, corpus, report, stop=signals.received, processes=processes)
        except KeyboardInterrupt:  # the second one
            if report.steps and processes.first:
                console.tell(f"stopped without saving; continue from the newest checkpoint with:\n  {go_on}")
            raise
        finally:
            report.close()
    interrupted = 128 + signals.number if signals.number else 128 + signal.SIGINT
    if not processes.first:
        return interrupted if result.ending == "interrupted" else 0
    title = _model(directory.settings)
    draw_curve(directory.log(), directory.path / "curve.png", title=title, published=published)

    if result.ending == "interrupted":
        console.tell(f"interrupted at step {result.progress.step}, saved; continue with:\n  {go_on}")
        return interrupted
    for line in _summary(directory, corpus, result, published):
        report.line(line)
    if result.ending == "paused":
        report.line(f"continue with:\n  {go_on}")
    return 0


def _as_prepared(settings: Settings, given: dict[str, Any]) -> Settings:
    """The settings, as far as a prepared corpus settles them; InputError where ``given`` contradicts those."""
    from headgate.text import prepared_corpus
    from headgate.text.corpus import is_stored

    text = settings.text
    if not is_stored(text):
        return settings
    settled = {**prepared_corpus.settings_of(Path(text.corpus)), "limit": 0}
    if wrong := [name for name in settled if name in given and given[name] != settled[name]]:
        raise InputError(
            f"{text.corpus} was prepared with {', '.join(f'{name} = {settled[name]}' for name in wrong)}: leave "
            f"{', '.join('--' + name.replace('_', '-') for name in wrong)} away, or prepare the text again"
        )
    return settings.replaced(**settled)


@contextlib.contextmanager
def _claimed(
    out: Path, settings: Settings, corpus: "Corpus", facts: dict[str, Any], *, name: str | None, overwrite: bool
) -> "Iterator[RunDirectory]":
    """Context manager: a new run, locked, in ``out``, or where another training has just taken that, in the next
    runs/NAME-2, ... that is free, if there is a ``name``. What is left empty in the end is removed."""
    from headgate.runs.run_directory import RunDirectory, check_free, is_run
    from headgate.storage.lock import InUseError, locked

    taken: list[Path] = []
    while True:
        if name is not None:
            out = default_directory(name, taken=taken)
        check_free(out, overwrite=overwrite)
        made = [path for path in (out, *out.parents) if not path.exists()]
        out.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            tidy = stack.enter_context(contextlib.ExitStack())  # when the lock is released
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


def _remove_empty(folder: Path, made: "Sequence[Path]") -> None:
    """Remove a directory that holds nothing but its lock, and of those that were ``made`` what is empty then."""
    if folder.is_dir() and {path.name for path in folder.iterdir()} <= {"lock", "checkpoints"}:
        (folder / "lock").unlink(missing_ok=True)
    for path in ((folder / "checkpoints"), *made):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _checked(
    settings: Settings, recipe: "Recipe | None", data_dir: Path | None, *, count: int
) -> "tuple[Settings, Corpus, dict[str, Any]]":
    """The settings of a run as it begins, its text and what config.json says of both; InputError where it cannot be
    trained, before anything is written."""
    import torch

    from headgate import machine
    from headgate.runtime import adaptive
    from headgate.text import corpus as corpora
    from headgate.text.batches import Batches
    from headgate.text.sources import NAMED
    from headgate.training import capacity, distributed, tensorboard_log
    from headgate.training.device import Device
    from headgate.training.loop import prefixes

    if settings.training.tensorboard:
        tensorboard_log.check()
    if os.path.exists(settings.text.corpus) and settings.text.corpus not in NAMED:
        settings = settings.replaced(corpus=os.path.abspath(settings.text.corpus))
    prepare = f"prepare it (headgate prepare {shlex.quote(settings.text.corpus)} --out DIR) and train on DIR"
    if settings.text.corpus not in NAMED and not corpora.is_stored(settings.text):
        capacity.check_text(settings.text, remedy=f"{prepare}, or take a part with --limit")
    with capacity.enough(prepare):
        corpus = corpora.load(settings.text, data_dir=data_dir, share=distributed.on_this_machine())
    settings = settings.replaced(threads=settings.training.threads or machine.capped(torch.get_num_threads()))
    Batches.of(
        corpus.training, settings.training, world_size=count
    )  # raises where the text is too short, before anything is written
    Device.of(
        settings.training.device, settings.training.precision, number=distributed.on_this_machine()[0]
    )  # likewise
    if settings.model.head == "adaptive":
        adaptive.cutoffs(corpus.tokenizer.vocabulary_size)  # likewise
        if settings.text.tokenizer not in ("word", "bpe"):
            raise InputError(
                "head = adaptive needs a vocabulary in which frequent tokens come first, which that of "
                f"{settings.text.tokenizer} is not: take --tokenizer word or bpe, or --head linear or tied"
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
        "prefix": prefixes(settings.training, corpus)[0],
    }
    return settings, corpus, facts


def _continue(
    out: Path, given: dict[str, Any], data_dir: Path | None, *, first: bool = True
) -> "tuple[RunDirectory, Corpus]":
    """The run in ``out`` with the settings that may change when it goes on; raises InputError for the others. The first
    process is told of changes; the others read what that has written."""
    from headgate.runs.run_directory import RunDirectory
    from headgate.text import corpus as corpora
    from headgate.text.sources import NAMED
    from headgate.training import distributed, tensorboard_log

    directory = RunDirectory.open(out)
    before = {name: value for section in directory.settings.to_dict().values() for name, value in section.items()}
    changed = {name: value for name, value in given.items() if before[name] != value and name != "corpus"}
    if fixed := [name for name in changed if name not in CHANGEABLE]:
        raise InputError(
            f"{out} was started with {', '.join(f'{name} = {before[name]}' for name in fixed)}, which cannot change "
            "when it goes on: leave the flag away, or start another run with --out"
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


def _default_name(recipe: "Recipe | None", settings: Settings) -> str:
    source = settings.text.corpus
    return Path(recipe.name).stem if recipe else "text" if source == "-" else Path(source).name.split(".")[0] or "text"


def _model(settings: Settings) -> str:
    m = settings.model
    return f"GRU of {m.hidden} units, {m.layers} layer{'s' * (m.layers > 1)}, reset {m.reset}"


LEGEND = (  # of the reports, for who reads them on a terminal
    "",
    "perplexity: among how many tokens the model hesitates on average; less is better",
    "held out: the same at the end of the text, on which the model is not trained",
    "  | what the model writes by then",
    "Ctrl-C saves and stops; --resume continues",
    "",
)


def _introduction(directory: "RunDirectory", corpus: "Corpus", processes: "Processes") -> list[str]:
    import torch

    settings, threads = directory.settings, directory.settings.training.threads
    shared = f"{processes.count} processes of " if processes.count > 1 else ""
    threads = torch.get_num_threads() if processes.count > 1 else threads
    return [
        f"{settings.text.corpus}: {corpus.characters:,} characters, vocabulary {corpus.tokenizer.vocabulary_size:,}",
        f"{len(corpus.training):,} tokens to train on, {len(corpus.held_out):,} held out",
        f"{_model(settings)}; {shared}{threads} thread{'s' * (threads > 1)}",
        f"run {directory.path}",
        *(LEGEND if sys.stdout.isatty() else ()),
    ]


def _summary(directory: "RunDirectory", corpus: "Corpus", result: "Result", published: "list[Published]") -> list[str]:
    """What came of a run, and what to do with it."""
    log, progress = directory.log(), result.progress
    lines = [
        f"{result.ending}: {progress.step:,} steps, {progress.epoch} epochs"
        + (f", {result.speed.tokens_per_second:,.0f} tokens/s" if result.speed.tokens_per_second else "")
    ]
    if log and log[-1]["perplexity"] is not None:
        lines.append(
            f"training perplexity {log[-1]['perplexity']:.3f}, {log[-1]['bits_per_character']:.3f} bits per character"
        )
    if progress.best_epoch:
        best = next(e for e in log if e["epoch"] == progress.best_epoch and "held_out_perplexity" in e)
        lines.append(
            f"held-out perplexity {best['held_out_perplexity']:.3f} at best, after epoch {progress.best_epoch} "
            "(generate uses those weights)"
        )
    if published:
        ours = {entry["epoch"]: entry["perplexity"] for entry in log}
        lines.append(f"  {'epoch':>5}  {'published':>12}  {'ours':>9}   training perplexity")
        for number in published:
            value = ours.get(number.epoch)
            lines.append(f"  {number.epoch:>5}  {number.perplexity:>12}  {'-' if value is None else f'{value:.3f}':>9}")
    return [
        *lines,
        f"run    {directory.path}",
        f"curve  {directory.path / 'curve.png'}",
        "let it write:",
        f"  {command()} generate {shlex.quote(str(directory.path))}",
    ]


class _Signals:
    """Context manager: the first Ctrl-C, SIGTERM or SIGHUP (the terminal was closed) is noted, the next one of its kind
    is taken as ever. A signal that is ignored, as SIGHUP under nohup, stays ignored."""

    number = 0

    def __enter__(self) -> "_Signals":
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
