"""``headgate train``: train a language model on a text, or continue a run."""

import argparse
import dataclasses
import shlex
import signal
import typing
from pathlib import Path

from headgate import console
from headgate.cli.flags import add_setting, command
from headgate.errors import InputError
from headgate.settings.run import SECTIONS

COMMON = (
    "epochs",
    "hidden_size",
    "num_layers",
    "dropout",
    "batch_size",
    "sequence_length",
    "learning_rate",
    "patience",
    "seed",
)  # settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "corpus",
        nargs="?",
        default=argparse.SUPPRESS,
        metavar="CORPUS",
        help="file, directory, archive, compressed file, '-' (standard input), or a name that 'headgate corpora' lists "
        "(voyage)",
    )
    parser.add_argument("-o", "--out", metavar="DIR", help="the run directory (runs/NAME, numbered if that exists)")
    parser.add_argument(
        "--resume", action="store_true", help="continue the run in --out (or the newest run of that name)"
    )
    settings = {f.name: (f, kind) for kind in SECTIONS.values() for f in dataclasses.fields(kind)}
    for name in COMMON:
        f, kind = settings[name]
        add_setting(parser, f, typing.get_type_hints(kind)[name])
    parser.add_argument(
        "--recipe", metavar="NAME", help="start from the settings of a recipe: 'headgate recipes', or a .toml file"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the run in --out")
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="print errors only; the run directory holds the rest"
    )
    parser.add_argument("--data-dir", metavar="DIR", help="directory of downloaded corpora (or HEADGATE_DATA)")
    for section, kind in SECTIONS.items():
        group = parser.add_argument_group(f"settings of the {section}")
        for f in dataclasses.fields(kind):
            if f.name not in ("corpus", *COMMON):
                add_setting(group, f, typing.get_type_hints(kind)[f.name])


def run(options: argparse.Namespace) -> int:
    """Start or continue a run, train, draw its curve and print the result."""
    import torch  # noqa: F401 - first, so that the message names torch if it is missing

    from headgate.training.signals import Signals
    from headgate.training.start import opened

    if options.overwrite and (options.resume or not options.out):
        raise InputError("--overwrite replaces the run in --out: give --out, and omit --resume")
    given = {
        f.name: getattr(options, f.name)
        for kind in SECTIONS.values()
        for f in dataclasses.fields(kind)
        if hasattr(options, f.name)
    }
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    with opened(
        Path(options.out) if options.out else None,
        given,
        recipe=options.recipe,
        resume=options.resume,
        overwrite=options.overwrite,
        data_dir=Path(options.data_dir) if options.data_dir else None,
        quiet=options.quiet,
    ) as session:
        path, report, first = session.directory.path, session.report, session.processes.is_main
        resume = f"{command()} train --resume --out {shlex.quote(str(path))}"
        with Signals() as signals:
            try:
                result = session.train(stop=signals.received)
            except KeyboardInterrupt:  # the second one
                if report.steps and first:
                    console.tell(f"stopped without saving; continue from the newest checkpoint with:\n  {resume}")
                raise
        if result.ending == "interrupted":
            if first:
                console.tell(f"interrupted at step {result.progress.step}, saved; continue with:\n  {resume}")
            return 128 + (signals.number or signal.SIGINT)
        if first:
            report.line(f"write with it:\n  {command()} generate {shlex.quote(str(path))}")
            if result.ending == "paused":
                report.line(f"continue with:\n  {resume}")
        return 0
