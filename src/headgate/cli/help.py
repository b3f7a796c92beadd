"""The help of the command line: the welcome, examples of each command, layout and colours."""

import argparse
import re
import shutil
from typing import Any

from headgate import console

WELCOME = """\
headgate trains and runs gated recurrent units (GRUs): models that write,
classify and forecast.

Three commands to try:
  headgate generate voyage    write text with a small bundled model
  headgate train              train one like it: about 3 minutes on two cores
  headgate info               show versions and available backends

Help: headgate --help lists all commands; headgate train --help shows examples
and options of one.
"""

ABOUT = """\
Train gated recurrent units (GRUs) to write, classify and forecast.
'headgate COMMAND --help' shows examples and options of a command."""

EXAMPLES = {  # at the start of each command's help; what follows "headgate"
    "train": ("train", "train poem.txt --epochs 10 -o runs/poem", "train --resume -o runs/poem"),
    "prepare": ("prepare texts/ -o corpora/texts", "train corpora/texts"),
    "generate": ("generate voyage", 'generate runs/poem -p "The boat" -n 200 -t 0.7', "generate --greedy"),
    "evaluate": ("evaluate runs/poem", "evaluate runs/poem other.txt", "evaluate voyage --runtime --json"),
    "fit": ("fit sales.csv --target sold --time month --horizon 12", "fit walks.csv --target kind --group walk"),
    "predict": ("predict runs/sales", "predict runs/walks new.csv -o kinds.csv"),
    "runs": ("runs", "runs experiments/ --json"),
    "compare": ("compare runs/a runs/b", "compare runs/a runs/b runs/c -o all.svg"),
    "recipes": ("recipes", "train --recipe lyrics-concise"),
    "corpora": ("corpora", "train verses"),
    "info": ("info", "info --json"),
}

WIDEST = 100  # columns, however wide the terminal is


class Layout(argparse.RawDescriptionHelpFormatter):
    """A formatter that writes ``-o, --out DIR`` and ``--[no-]best``, as wide as the terminal, up to WIDEST columns."""

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, max_help_position=26, width=min(shutil.get_terminal_size().columns, WIDEST) - 1)

    def start_section(self, heading: str | None) -> None:
        super().start_section("arguments" if heading == "positional arguments" else heading)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        if isinstance(action, argparse.BooleanOptionalAction):
            return f"--[no-]{action.option_strings[0].removeprefix('--')}"
        takes = "" if action.nargs == 0 else " " + self._format_args(action, (action.dest or "").upper())
        return ", ".join(action.option_strings) + takes


def described(name: str, text: str) -> str:
    """Return the start of a command's help: a sentence and examples."""
    examples = "".join(f"  headgate {example}\n" for example in EXAMPLES[name])
    return f"{text[0].upper()}{text[1:]}.\n\nExamples:\n{examples}"


def highlighted(text: str) -> str:
    """Return a help page or the welcome with coloured headings, flags and commands.

    >>> highlighted("options:\\n  -o, --out DIR  where")
    '\\x1b[1moptions:\\x1b[0m\\n  \\x1b[36m-o, --out DIR\\x1b[0m  where'
    """
    text = re.sub(r"^(\w[\w ,()-]*:)$", lambda m: console.painted(m[1], "bold"), text, flags=re.MULTILINE)
    text = re.sub(r"^(usage:)", lambda m: console.painted(m[1], "bold"), text)
    command = r"^( {2,4})(-\S.*?|headgate .*?|\w+)(?=  |$)"
    return re.sub(command, lambda m: m[1] + console.painted(m[2], "cyan"), text, flags=re.MULTILINE)
