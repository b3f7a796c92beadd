"""The command line: the parser, and what becomes of an error. The commands themselves are in headgate.commands."""

import argparse
import errno
import io
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

import headgate
from headgate.commands import evaluate, fit, generate, predict, prepare, runs, show, train
from headgate.errors import InputError, nearest

_EXTRAS = {  # what installs a missing module
    **dict.fromkeys(("torch", "tqdm", "matplotlib"), "train"),
    **dict.fromkeys(("sklearn", "scipy", "pandas", "pyarrow"), "estimators"),
    "tokenizers": "bpe",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. The exit code: 0, or 2 for what the user can mend, 130 and 143 when interrupted."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # a file's name may have bytes that are no UTF-8
    options, unknown = _parser().parse_known_args(arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = lambda message, *_, **__: print(f"headgate: warning: {message}", file=sys.stderr)
        try:
            if unknown:
                raise InputError(f"unknown argument {unknown[0]}: {nearest(unknown[0], options.flags)}")
            code: int = options.run(options)
            sys.stdout.flush()  # a closed pipe shows here, not at exit
            return code
        except BrokenPipeError:
            _discard_output()  # nobody reads on
            return 128 + signal.SIGPIPE
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
        except (InputError, ModuleNotFoundError, OSError) as error:
            message = _sentence(error)
            if message is None:
                raise
            print(f"headgate: {message}", file=sys.stderr)
            try:
                sys.stdout.flush()
            except OSError:
                _discard_output()  # it cannot be written: at exit, trying again would be another error
            return 2


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _sentence(error: Exception) -> str | None:
    """What the user can do about an error; None where nothing is known, and the traceback should show."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS:
        return f"this command needs {error.name}, which is missing: pip install 'headgate[{_EXTRAS[error.name]}]'"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error.strerror}: make room and try again; a run that was under way goes on with --resume"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}: check the path and its permissions"
    return None


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"headgate: {message}: '{self.prog} --help' says what can be given\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="headgate", description=headgate.__doc__)
    parser.add_argument("--version", action="version", version=f"headgate {headgate.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, takes, add_arguments, run, text in (
        ("train", "[CORPUS]", train.add_arguments, train.run, "train a language model on a text"),
        ("prepare", "CORPUS --out DIR", prepare.add_arguments, prepare.run, "tokenize texts of any size to train on"),
        ("generate", "RUN", generate.add_arguments, generate.run, "let a trained model write"),
        ("evaluate", "RUN [TEXT]", evaluate.add_arguments, evaluate.run, "how well a trained model predicts a text"),
        (
            "fit",
            "DATA --target COLUMN",
            fit.add_arguments,
            fit.run,
            "fit sequences to numbers or classes, or forecast series",
        ),
        ("predict", "RUN [DATA]", predict.add_arguments, predict.run, "what a fitted model says"),
        ("runs", "[DIR]", runs.add_runs_arguments, runs.runs, "list runs: their state, perplexity, age and size"),
        ("compare", "RUN RUN", runs.add_compare_arguments, runs.compare, "where runs differ, and their curves"),
        ("recipes", "", show.add_arguments, show.recipes, "list the experiments that come with headgate"),
        ("corpora", "", show.add_arguments, show.corpora, "list the texts that have a name, and where they are"),
        ("info", "", show.add_arguments, show.info, "versions, and what can compute here"),
    ):
        usage = " ".join(("headgate", name, *takes.split(), "[options]"))
        command = commands.add_parser(name, help=text, description=text, usage=usage, allow_abbrev=False)
        add_arguments(command)
        command.set_defaults(run=run, flags=[flag for a in command._actions for flag in a.option_strings])
    return parser
