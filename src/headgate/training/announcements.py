"""The lines printed at the beginning and end of training."""

import sys
from collections.abc import Sequence

import torch

from headgate.runs.run_directory import RunDirectory
from headgate.settings.recipe import Published
from headgate.settings.run import Settings
from headgate.text.corpus import Corpus
from headgate.training.distributed import Processes
from headgate.training.loop import Result


def model_in_words(settings: Settings) -> str:
    """Describe a model in one line: units, layers, variant."""
    m = settings.model
    return f"GRU of {m.hidden_size} units, {m.num_layers} layer{'s' * (m.num_layers > 1)}, reset {m.reset}"


LEGEND = (  # explains the reports, on a terminal
    "",
    "perplexity: how many tokens the model hesitates between on average; lower is better",
    "held out: the same for the end of the text, which the model is not trained on",
    "  | text that the model generates at this point",
    "Ctrl-C saves and stops; --resume continues",
    "",
)


def introduction(directory: RunDirectory, corpus: Corpus, processes: Processes) -> list[str]:
    """Return the lines to print before training."""
    settings, threads = directory.settings, directory.settings.training.threads
    shared = f"{processes.world_size} processes of " if processes.world_size > 1 else ""
    threads = torch.get_num_threads() if processes.world_size > 1 else threads
    return [
        f"{settings.text.corpus}: {corpus.characters:,} characters, vocabulary {corpus.tokenizer.vocabulary_size:,}",
        f"{len(corpus.training):,} tokens to train on, {len(corpus.held_out):,} held out",
        f"{model_in_words(settings)}; {shared}{threads} thread{'s' * (threads > 1)}",
        f"run {directory.path}",
        *(LEGEND if sys.stdout.isatty() else ()),
    ]


def summary(directory: RunDirectory, result: Result, published: Sequence[Published]) -> list[str]:
    """Return the lines to print after training."""
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
    return [*lines, f"run    {directory.path}", f"curve  {directory.path / 'curve.png'}"]
