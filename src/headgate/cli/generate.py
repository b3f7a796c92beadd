"""``headgate generate``: write text with a trained model, without loading torch."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from headgate.cli.flags import check_largest
from headgate.console import fitted, print_json, tell
from headgate.errors import InputError
from headgate.native import PRECISIONS
from headgate.runs.find import find_run

TEMPERATURE = 0.8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path",
        nargs="?",
        metavar="RUN",
        help="a run directory, its name under runs/, or a model that comes with headgate (the newest run)",
    )
    parser.add_argument(
        "-p",
        "--prefix",
        action="append",
        metavar="TEXT",
        help="start of the text; may be repeated (that of the run's samples)",
    )
    parser.add_argument("-n", "--length", type=int, default=300, metavar="N", help="number of tokens to write (300)")
    parser.add_argument(
        "-t",
        "--temperature",
        type=float,
        metavar="X",
        help=f"below 1 favours probable tokens, above 1 improbable ones; 0: as --greedy ({TEMPERATURE})",
    )
    parser.add_argument(
        "-s",
        "--seed",
        type=int,
        metavar="N",
        help="random seed; prefixes are sampled independently (a new one, which is printed)",
    )
    parser.add_argument("--stream", action="store_true", help="show the text as it is written")
    parser.add_argument("--json", action="store_true", help="print one JSON object per prefix")
    choice = parser.add_argument_group("the next token")
    choice.add_argument("--greedy", action="store_true", help="always take the most probable token")
    choice.add_argument("--top-k", type=int, metavar="K", help="sample among the K most probable tokens")
    choice.add_argument("--top-p", type=float, metavar="P", help="sample among the most probable tokens that sum to P")
    choice.add_argument(
        "--min-p", type=float, metavar="P", help="sample among tokens at least P times as probable as the best"
    )
    choice.add_argument(
        "--repetition-penalty",
        type=float,
        metavar="X",
        help="above 1: tokens that the text already has become less probable",
    )
    choice.add_argument("--beam", type=int, default=0, metavar="WIDTH", help="search for the most probable text")
    model = parser.add_argument_group("the model")
    model.add_argument(
        "--best",
        action=argparse.BooleanOptionalAction,
        help="use the weights with the lowest held-out loss (yes, if the run has them)",
    )
    model.add_argument("--weights", choices=PRECISIONS, default="float32", help="precision of the weights (float32)")
    model.add_argument(
        "--threads",
        type=int,
        default=0,
        metavar="N",
        help="compute with at most N threads; 0: one per processor (0)",
    )


def run(options: argparse.Namespace) -> int:
    from headgate import machine
    from headgate.runtime.runtime import Runtime
    from headgate.runtime.sampling import Sampling, seed_of

    names = ("top_k", "top_p", "min_p", "repetition_penalty")
    filters = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    drawn = _check(options, filters)
    temperature = (TEMPERATURE if options.temperature is None else options.temperature) if drawn else 0.0
    sampling = Sampling(temperature=temperature, **filters)

    path = find_run(options.path)
    best = (path / "best.safetensors").exists() if options.best is None else options.best
    runtime = Runtime.load(path, best=best, precision=options.weights, threads=options.threads)
    prefixes = options.prefix or [_prefix(path)]
    seed = 0 if options.seed is None else options.seed
    if drawn and options.seed is None:
        seed = int.from_bytes(os.urandom(4))
        tell(f"seed {seed}")
    _check_beam(options.beam, runtime)
    for number, prefix in enumerate(prefixes):
        own = seed_of(seed, number)
        if number and sys.stdout.isatty():
            print()  # separates texts of several lines
        if options.stream:
            print(prefix, end="", flush=True)
            for piece in runtime.stream(prefix, options.length, **vars(sampling), seed=own):
                print(piece, end="", flush=True)
            print(flush=True)
            continue
        answer: dict[str, Any] = {"prefix": prefix}
        if options.beam:
            with machine.enough("use a smaller --beam"):
                answer["text"], answer["log_probability"] = runtime.beam_search(prefix, options.length, options.beam)[0]
        else:
            answer["text"] = runtime.generate(prefix, options.length, **vars(sampling), seed=own)
            answer |= {"seed": seed} if drawn else {}
        if options.json:
            print_json(answer)
        else:
            print(fitted(answer["text"]))
    return 0


def _check(options: argparse.Namespace, filters: dict[str, Any]) -> bool:
    """Return True if tokens are sampled; raise InputError for options that contradict each other or have no effect."""
    sampled = {"seed": options.seed, **{n: v for n, v in filters.items() if n != "repetition_penalty"}}
    if min(options.length, options.beam, options.seed or 0, options.threads) < 0:
        raise InputError("--length, --beam, --seed and --threads must be at least 0")
    check_largest(options, "length", "beam", "top_k", "threads")
    if options.beam and (
        options.temperature or filters or options.stream or options.greedy or options.seed is not None
    ):
        raise InputError("--beam searches for the most probable text: omit --stream and the sampling options")
    if options.stream and options.json:
        raise InputError("--stream prints text as it is written, --json an object at the end: choose one of them")
    if not (options.greedy or options.temperature == 0):
        return not options.beam
    if options.greedy:
        sampled["temperature"] = options.temperature or None
    idle = ["--" + name.replace("_", "-") for name, value in sampled.items() if value is not None]
    if idle:
        how = "--greedy" if options.greedy else "--temperature 0"
        verb, them = ("does", "it") if len(idle) == 1 else ("do", "them")
        raise InputError(
            f"{how} always takes the most probable token: {' and '.join(idle)} {verb} nothing, so omit {them}"
        )
    return False


def _prefix(path: Path) -> str:
    """Return the start of a run's samples, or "" if it does not have one."""
    from headgate.runs.run_directory import RunDirectory

    directory = RunDirectory.open(path)
    chosen, default = directory.settings.training.sample_prefixes, directory.facts.get("prefix")
    return chosen[0] if chosen else default if isinstance(default, str) else ""


def _check_beam(width: int, runtime: Any) -> None:
    """Raise InputError if the logits and states of ``width`` beams need more memory than there is."""
    from headgate import machine

    model = runtime.settings
    least = width * (2 * 8 * runtime.tokenizer.vocabulary_size + 2 * 4 * model.num_layers * model.hidden_size)
    if least > (most := machine.available_memory()):
        raise InputError(
            f"a beam of {width:,} needs at least {machine.in_gigabytes(least)} of memory, but there are "
            f"{machine.in_gigabytes(most)}: use a smaller --beam"
        )
