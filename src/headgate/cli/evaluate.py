"""``headgate evaluate``: measure how well a trained model predicts a text."""

import argparse
import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING

from headgate.cli.flags import check_largest
from headgate.console import print_json
from headgate.errors import InputError
from headgate.native import PRECISIONS
from headgate.runs.find import find_run

if TYPE_CHECKING:
    from headgate.runs.run_directory import RunDirectory
    from headgate.runtime.evaluation import Losses


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path",
        nargs="?",
        metavar="RUN",
        help="a run directory, its name under runs/, or a model that comes with headgate (the newest run)",
    )
    parser.add_argument("text", nargs="?", metavar="TEXT", help="a corpus as for train (the run's held-out part)")
    parser.add_argument(
        "--limit", type=int, default=0, metavar="N", help="use only the first N characters of TEXT; 0: all (0)"
    )
    parser.add_argument(
        "--rows",
        type=int,
        default=0,
        metavar="N",
        help="split the text into N pieces read in parallel; 1: exact; 0: one piece per 512 tokens, at most 32 (0)",
    )
    parser.add_argument("--best", action="store_true", help="use the weights with the lowest held-out loss")
    parser.add_argument("--runtime", action="store_true", help="compute without torch")
    parser.add_argument(
        "--weights",
        choices=PRECISIONS,
        default="float32",
        help="precision of the weights; others than float32 compute without torch (float32)",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=0,
        metavar="N",
        help="compute with at most N threads; 0: one per processor (0)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--data-dir", metavar="DIR", help="directory of downloaded corpora (or HEADGATE_DATA)")


def run(options: argparse.Namespace) -> int:
    from headgate import machine
    from headgate.runs.run_directory import RunDirectory
    from headgate.runtime.evaluation import evaluate
    from headgate.runtime.runtime import Runtime
    from headgate.text import catalogue, sources
    from headgate.text import corpus as corpora

    if min(options.limit, options.rows, options.threads) < 0:
        raise InputError("--limit, --rows and --threads must be at least 0")
    check_largest(options, "limit", "rows", "threads")
    if options.limit and options.text is None:
        raise InputError("--limit applies to TEXT: name a text, or omit --limit")
    directory = RunDirectory.open(find_run(options.path))
    data_dir = Path(options.data_dir) if options.data_dir else None
    settings, tokenizer = directory.settings.text, directory.tokenizer
    foreign: list[str] = []
    if options.text is None:
        if not settings.validation_fraction:
            raise InputError(f"{directory.path} has no held-out part: name a text to evaluate on")
        corpus = corpora.load(settings, data_dir=data_dir)
        if corpus.sha256 != directory.facts.get("corpus_sha256"):
            raise InputError(
                f"{settings.corpus} has changed since {directory.path} was trained: name a text to evaluate on"
            )
        ids, ratio, name = corpus.held_out, corpus.characters_per_token, f"held-out part of {settings.corpus}"
    else:
        settings = dataclasses.replace(settings, corpus=options.text, limit=options.limit)
        if options.text not in catalogue.NAMED:
            sources.check_size(settings, remedy="evaluate a part of it with --limit")
        with machine.enough("evaluate a part of the text with --limit"):
            passages = list(sources.passages(settings, data_dir=data_dir))
            ids, name = corpora.encode(tokenizer, passages), options.text
        ratio = sum(len(passage.text) for passage in passages) / max(len(ids), 1)
        for passage in passages:
            unknown = set(tokenizer.out_of_vocabulary(passage.text))
            pieces = passage.text.split() if settings.tokenizer == "words" else passage.text
            foreign += [piece for piece in pieces if piece in unknown]

    lost, rows = 0.0, min(options.rows, max(len(ids) - 1, 1))
    with machine.enough("use fewer --rows, or evaluate a part of the text with --limit"):
        losses = _losses(directory, options)
        result = evaluate(losses, ids, rows=rows, characters_per_token=ratio)
        if options.weights != "float32":
            exact = result
            runtime = Runtime.load(
                directory.path, best=options.best, precision=options.weights, threads=options.threads
            )
            result = evaluate(runtime.losses, ids, rows=rows, characters_per_token=ratio)
            lost = result.perplexity / exact.perplexity - 1
    units = "words" if settings.tokenizer == "words" else "characters"
    if options.json:
        answer = {
            "text": name,
            "tokens": result.tokens,
            "loss": result.loss,
            "perplexity": result.perplexity if math.isfinite(result.perplexity) else None,
            "bits_per_character": result.bits_per_character,
            f"unknown_{units}": len(foreign),
            "weights": options.weights,
            "perplexity_lost": lost if math.isfinite(lost) else None,
        }
        print_json(answer)
        return 0
    print(
        f"{name}:\n{result.tokens:,} tokens predicted, perplexity {result.perplexity:.4f}, "
        f"{result.bits_per_character:.4f} bits per character"
    )
    if options.weights != "float32":
        print(f"with weights in {options.weights}; in float32 the perplexity is {exact.perplexity:.4f} ({lost:+.3%})")
    if foreign:
        print(f"{len(foreign):,} {units} are not in the vocabulary: {' '.join(sorted(set(foreign))[:20])}")
    return 0


def _losses(directory: "RunDirectory", options: argparse.Namespace) -> "Losses":
    from headgate import machine
    from headgate.runtime.runtime import Runtime

    threads = machine.capped(options.threads) or machine.threads()
    if options.runtime:
        return Runtime.load(directory.path, best=options.best, threads=threads).losses
    import torch

    from headgate.models.language_model import LanguageModel, evaluation_losses

    torch.set_num_threads(threads)
    return evaluation_losses(LanguageModel.load(directory.path, best=options.best))
