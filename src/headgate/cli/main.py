"""The parser of the command line, and the exit code of an error. Each command is another file of this room."""

import argparse
import errno
import importlib
import itertools
import os
import signal
import sys
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from headgate import __version__, console
from headgate.cli import help as pages
from headgate.errors import EXTRAS, InputError, not_installed, similar


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. The exit code: 0, or 2 for what the user can mend, 130 and 143 when interrupted."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = lambda message, *_, **__: console.tell(f"headgate: warning: {message}")
        try:
            console.open_streams()
            _wait_briefly()
            options = _parsed(sys.argv[1:] if arguments is None else arguments)
            _check_directory()
            code: int = options.run(options)
            sys.stdout.flush()  # a closed pipe shows here, not at exit
            return code
        except BrokenPipeError:
            console.discard(sys.stdout)  # nobody reads on
            return 128 + signal.SIGPIPE
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
        except (InputError, MemoryError, ModuleNotFoundError, OSError) as error:
            message = _sentence(error)
            if message is None:
                raise
            console.tell_error(message)
            try:
                sys.stdout.flush()
            except OSError:
                console.discard(sys.stdout)  # it cannot be written: at exit, trying again would be another error
            return 2


def _wait_briefly() -> None:
    """Have OpenMP's threads, with which torch computes, sleep after a tenth of a millisecond without work.

    On their own they keep their processors busy for several, and on a machine with other work are then not given one
    when there is work again: a step of training takes five times as long.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # read when torch is loaded


def _check_directory() -> None:
    """InputError in a directory that was removed: torch, loaded there, would end the process."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise InputError("the current directory does not exist any more: change to another") from None


def _sentence(error: Exception) -> str | None:
    """What the user can do about an error; None where nothing is known, and the traceback should show."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, MemoryError):
        return "there is not enough memory: close other programs, or give less text or a smaller model"
    if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
        return not_installed("this command", error.name)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{error.strerror}: make room and try again; a run that was under way goes on with --resume"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}: check the path and its permissions"
    return None


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence, and whose help is laid out and coloured by headgate.cli.help."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, formatter_class=pages.Layout, add_help=False, allow_abbrev=False)
        self.color = False  # Python 3.14 has colours of its own

    def print_help(self, file: Any = None) -> None:
        stream, text = file or sys.stdout, self.format_help()
        stream.write(pages.highlighted(text) if console.coloured(stream) else text)

    def error(self, message: str) -> NoReturn:
        console.tell_error(f"{message}: '{self.prog} --help' says what can be given")
        self.exit(2)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        if isinstance(action, argparse._SubParsersAction):
            raise InputError(f"unknown command {value}: {_suggestion(value, action.choices, self.prog)}")
        flag = "/".join(action.option_strings) or action.dest
        close = similar(value, action.choices)
        hint = f": did you mean {' or '.join(close)}?" if close else ""
        raise InputError(f"{flag} must be one of {', '.join(action.choices)}, got {value!r}{hint}")


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of a command. An unknown flag is an InputError that names the nearest, whatever else is wrong."""
    name = next((a for a in arguments if not a.startswith("-")), "")
    parser, commands = _parser(name)
    if not arguments:
        print(pages.highlighted(pages.WELCOME) if console.coloured(sys.stdout) else pages.WELCOME, end="")
        parser.exit()
    if name in commands:
        command = commands[name]
        flags = [f for action in command._actions for f in action.option_strings if f.startswith("--")]
        for argument in itertools.takewhile(lambda a: a != "--", arguments):
            flag = argument.partition("=")[0]
            if flag.startswith("--") and " " not in flag and flag not in flags:
                raise InputError(f"unknown argument {flag}: {_suggestion(flag, flags, command.prog)}")
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        raise InputError(f"unknown argument {unknown[0]}: '{options.program} --help' says what can be given")
    return options


def _suggestion(word: str, known: Iterable[str], program: str) -> str:
    close = similar(word, known)
    return f"did you mean {' or '.join(close)}?" if close else f"'{program} --help' lists what there is"


COMMANDS = (  # name, file, what it takes, what it does
    ("train", "train", "[CORPUS]", "train a language model on a text"),
    ("generate", "generate", "[RUN]", "let a trained model write"),
    ("evaluate", "evaluate", "[RUN [TEXT]]", "say how well a model predicts a text"),
    ("fit", "fit", "DATA --target COLUMN", "learn from a table to predict or to forecast"),
    ("predict", "predict", "RUN [DATA]", "predict with what fit has learned"),
    ("runs", "runs", "[DIR]", "list runs: their state, perplexity, age and size"),
    ("compare", "compare", "RUN RUN ...", "show where runs differ, and their curves"),
    ("prepare", "prepare", "CORPUS --out DIR", "tokenize texts of any size to train on"),
    ("recipes", "show", "", "list the experiments that come with headgate"),
    ("corpora", "show", "", "list the texts that have a name, and where they are"),
    ("info", "show", "", "show versions, and what can compute here"),
)


def _parser(chosen: str | None = None) -> "tuple[_Parser, dict[str, _Parser]]":
    """Build the parser, and those of the commands by name.

    Only the file of the chosen command is loaded, and the others are only listed; all are loaded if none is chosen.
    """
    parser = _Parser(prog="headgate", description=pages.ABOUT, usage="headgate COMMAND [options]")
    commands = parser.add_subparsers(title="commands", prog="headgate", metavar="COMMAND", required=True)
    parser.add_argument("-h", "--help", action="help", help="show this page")
    parser.add_argument(
        "-V", "--version", action="version", version=f"headgate {__version__}", help="print the version"
    )
    for name, file, takes, text in COMMANDS:
        usage = " ".join(("headgate", name, *takes.split(), "[options]"))
        command = commands.add_parser(name, help=text, description=pages.described(name, text), usage=usage)
        command.add_argument("-h", "--help", action="help", help="show this page")
        if chosen in (None, name):
            module = importlib.import_module(f"headgate.cli.{file}")
            module.add_arguments(command)
            command.set_defaults(run=getattr(module, "run" if file == name else name), program=f"headgate {name}")
    return parser, commands.choices
