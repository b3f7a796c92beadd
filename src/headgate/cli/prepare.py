"""``headgate prepare``: tokenize texts larger than memory into a directory that ``headgate train`` reads."""

import argparse
import dataclasses
import sys
import time
import typing
from pathlib import Path

from headgate import machine
from headgate.cli.flags import add_setting, command
from headgate.console import progress_bar
from headgate.errors import InputError
from headgate.settings.run import Settings, TextSettings, without_effect
from headgate.text.prepared_corpus import SETTINGS, is_prepared

PROCESSES = 1024  # at most


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "corpora",
        nargs="+",
        metavar="CORPUS",
        help="file, directory, archive, compressed file, '-' (standard input), or a name that 'headgate corpora' "
        "lists; several are joined",
    )
    parser.add_argument("-o", "--out", metavar="DIR", required=True, help="directory to create or to continue")
    parser.add_argument(
        "--processes", type=int, default=0, metavar="N", help="processes that tokenize; 0: one per processor (0)"
    )
    parser.add_argument(
        "-s",
        "--seed",
        type=int,
        metavar="N",
        help="seed of the sample that subwords are learned from, if one is needed (0)",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    parser.add_argument("--data-dir", metavar="DIR", help="directory of downloaded corpora (or HEADGATE_DATA)")
    for f in dataclasses.fields(TextSettings):
        if f.name in SETTINGS:
            add_setting(parser, f, typing.get_type_hints(TextSettings)[f.name])


def run(options: argparse.Namespace) -> int:
    from headgate.text.prepare import prepare

    if not 0 <= options.processes <= PROCESSES:
        raise InputError(f"--processes must be from 0 to {PROCESSES}, got {options.processes}")
    if options.seed is not None and options.seed < 0:
        raise InputError(f"--seed must be at least 0, got {options.seed}")
    given = {name: getattr(options, name) for name in SETTINGS if hasattr(options, name)}
    chosen = Settings().replaced(**given)
    settings, idle = chosen.text, without_effect(given, chosen)
    if options.seed is not None and settings.tokenizer != "subwords":
        idle.append("--seed does nothing unless --tokenizer is subwords: omit it, or set that")
    if idle:
        raise InputError("; ".join(idle))
    progress = _Progress(quiet=options.quiet)
    before = is_prepared(options.out)
    try:
        corpus = prepare(
            options.corpora,
            settings,
            Path(options.out),
            processes=options.processes or machine.processors(),
            seed=options.seed or 0,
            data_dir=Path(options.data_dir) if options.data_dir else None,
            tell=progress.tell,
        )
    except KeyboardInterrupt:
        progress.close()
        print("interrupted: run the same command again to continue", file=sys.stderr)
        raise
    finally:
        progress.close()
    if not options.quiet:
        documents = f" in {corpus.documents:,} documents" if corpus.tokenizer.document_id is not None else ""
        print(
            f"{corpus.path}: {corpus.characters:,} characters{documents}, {len(corpus.ids):,} tokens, vocabulary "
            f"{corpus.tokenizer.vocabulary_size:,}" + (" (already prepared, unchanged)" if before else "")
        )
        print(f"train on it:\n  {command()} train {options.out}")
    return 0


class _Progress:
    """The number of characters read: a progress bar on a terminal, and a line at the end of each stage."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._stage = ""
        self._bar: typing.Any = None

    def tell(self, stage: str, characters: int) -> None:
        if stage != self._stage:
            self.close()
            self._bar = progress_bar(unit=" characters", shown=not self._quiet, unit_scale=True, desc=stage)
            self._stage, self._began, self._read = stage, time.monotonic(), 0
        self._read += characters
        self._bar.update(characters)

    def close(self) -> None:
        if self._bar is None:
            return
        self._bar.close()
        self._bar = None
        if not self._quiet:
            seconds = max(time.monotonic() - self._began, 1e-9)
            print(
                f"{self._stage}: {self._read:,} characters, {self._read / seconds / 1e6:.1f} million per second",
                flush=True,
            )
