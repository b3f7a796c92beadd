"""The argument parser and the exit codes of the command line. Each command is a file of this package."""

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
    """Run one command; return 0, 2 for an error that the user can fix, or 128 + N if signal N ended it."""
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
            console.discard(sys.stdout)  # the reader is gone
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
                console.discard(sys.stdout)  # otherwise Python flushes it again at exit, which is another error
            return 2


def _wait_briefly() -> None:
    """Make the OpenMP threads with which torch computes sleep after 0.1 ms without work.

    By default they spin for several milliseconds. On a machine with other work they are then not scheduled when they
    have work again, and a training step takes five times as long.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # read when torch is loaded


def _check_directory() -> None:
    """Raise InputError if the current directory was removed, because importing torch would then abort the process."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise InputError("the current directory no longer exists: change to another") from None


def _sentence(error: Exception) -> str | None:
    """Return a message that says what to do about an error; None if the traceback should be shown instead."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, MemoryError):
        return "there is not enough memory: close other programs, or use less text or a smaller model"
    if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
        return not_installed("this command", error.name)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{error.strerror}: free some space and try again; an unfinished run continues with --resume"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}: check the path and its permissions"
    return None


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence, and whose help headgate.cli.help lays out and colours."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, formatter_class=pages.Layout, add_help=False, allow_abbrev=False)
        self.color = False  # Python 3.14 has colours of its own

    def print_help(self, file: Any = None) -> None:
        stream, text = file or sys.stdout, self.format_help()
        stream.write(pages.highlighted(text) if console.coloured(stream) else text)

    def error(self, message: str) -> NoReturn:
        console.tell_error(f"{message}: see '{self.prog} --help'")
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
    """Parse the options of a command; check flags first, so that an unknown one is always named with its nearest."""
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
        raise InputError(f"unknown argument {unknown[0]}: see '{options.program} --help'")
    return options


def _suggestion(word: str, known: Iterable[str], program: str) -> str:
    close = similar(word, known)
    return f"did you mean {' or '.join(close)}?" if close else f"see '{program} --help'"


COMMANDS = (  # name, file, arguments, help
    ("train", "train", "[CORPUS]", "train a language model on a text"),
    ("generate", "generate", "[RUN]", "write text with a trained model"),
    ("evaluate", "evaluate", "[RUN [TEXT]]", "measure how well a model predicts a text"),
    ("fit", "fit", "DATA --target COLUMN", "train a model on a table, to predict or to forecast"),
    ("predict", "predict", "RUN [DATA]", "predict with a model that fit has trained"),
    ("runs", "runs", "[DIR]", "list runs with their state, perplexity, age and size"),
    ("compare", "compare", "RUN RUN ...", "compare the settings, results and curves of runs"),
    ("prepare", "prepare", "CORPUS --out DIR", "tokenize texts of any size for training"),
    ("recipes", "show", "", "list the experiments that come with headgate"),
    ("corpora", "show", "", "list the texts that have a name, with their paths"),
    ("info", "show", "", "show versions and available backends"),
)


def _parser(chosen: str | None = None) -> "tuple[_Parser, dict[str, _Parser]]":
    """Return the parser, and the commands' own parsers by name.

    If a command is chosen, only its file is imported, and the other commands are just listed.
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
