"""``headgate generate``: let a trained model write. Loads no torch."""

import argparse
import json
from typing import Any

from headgate.errors import InputError
from headgate.kernels.native import PRECISIONS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="RUN", help="a run directory")
    parser.add_argument("--prefix", action="append", metavar="TEXT", help="how the text starts; may be repeated")
    parser.add_argument("--length", type=int, default=50, help="how many tokens to write (50)")
    parser.add_argument(
        "--temperature",
        type=float,
        help="0: always the most probable (so unless --top-k, --top-p, --min-p or --seed is given: then 1)",
    )
    parser.add_argument("--top-k", type=int, help="draw among the K most probable")
    parser.add_argument("--top-p", type=float, help="draw among the most probable that sum to P")
    parser.add_argument("--min-p", type=float, help="draw among those at least P times as probable as the best")
    parser.add_argument("--repetition-penalty", type=float, help="above 1: less of what the text has already")
    parser.add_argument("--beam", type=int, default=0, metavar="WIDTH", help="search for the most probable text")
    parser.add_argument("--seed", type=int, help="seed of the drawing (0)")
    parser.add_argument("--best", action="store_true", help="use the weights with the lowest held-out loss")
    parser.add_argument("--weights", choices=PRECISIONS, default="float32", help="keep the weights in this (float32)")
    parser.add_argument("--stream", action="store_true", help="write as it goes")
    parser.add_argument("--json", action="store_true", help="one JSON object a prefix")


def run(options: argparse.Namespace) -> int:
    from headgate.runtime import Runtime
    from headgate.sampling import Sampling

    filters = {name: getattr(options, name) for name in ("top_k", "top_p", "min_p", "repetition_penalty")}
    given = {name: value for name, value in filters.items() if value is not None}
    drawn = options.seed is not None or given.keys() - {"repetition_penalty"}
    temperature = (1.0 if drawn else 0.0) if options.temperature is None else options.temperature
    sampling = Sampling(temperature=temperature, **given)
    if options.beam and (temperature or given or options.stream):
        raise InputError("--beam looks for the most probable text: leave --stream and the sampling options away")
    if options.stream and options.json:
        raise InputError("--stream writes text as it comes, --json an object at the end: choose one of them")
    if options.length < 0 or options.beam < 0 or (options.seed or 0) < 0:
        raise InputError("--length, --beam and --seed must be at least 0")

    runtime = Runtime.load(options.path, best=options.best, precision=options.weights)
    seed = options.seed or 0
    for prefix in options.prefix or [""]:
        if options.stream:
            print(prefix, end="", flush=True)
            for piece in runtime.stream(prefix, options.length, sampling, seed=seed):
                print(piece, end="", flush=True)
            print(flush=True)
            continue
        answer: dict[str, Any] = {"prefix": prefix}
        if options.beam:
            answer["text"], answer["log_probability"] = runtime.beam(prefix, options.length, options.beam)[0]
        else:
            answer["text"] = runtime.write(prefix, options.length, sampling, seed=seed)
        print(json.dumps(answer, ensure_ascii=False) if options.json else answer["text"])
    return 0
