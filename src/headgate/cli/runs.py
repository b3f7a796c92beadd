"""``headgate runs``: the state, perplexity, age and size of runs."""

import argparse
from pathlib import Path

from headgate import console

LOOKS = {  # colours of states
    "running": "cyan",
    "finished": "green",
    "fitted": "green",
    "stopped early": "green",
    "interrupted": "yellow",
    "diverged": "red",
    "damaged": "red",
    "unreadable": "red",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", default="runs", metavar="DIR", help="directory of runs, or one run (runs)")
    parser.add_argument("--json", action="store_true", help="print one JSON object per run")


def run(options: argparse.Namespace) -> int:
    """Print one line per run."""
    from headgate.runs.overview import as_json, find, in_words

    overviews = find(Path(options.folder))
    if options.json:
        print("\n".join(as_json(overview) for overview in overviews))
        return 0
    rows = [("run", "state", "epoch", "perplexity", "held out", "age", "size")]
    for o in overviews:
        epoch = "-" if o.epochs is None else f"{o.epoch}/{o.epochs}"
        perplexity, held_out = (f"{v:.2f}" if v is not None else "-" for v in (o.perplexity, o.held_out))
        rows.append((str(o.path), o.state, epoch, perplexity, held_out, in_words(o.age), f"{o.size / 1e6:.1f} MB"))
    console.print_table(rows, "<<>>>>>", LOOKS)
    for o in overviews:
        if o.problem:
            print(f"  {o.problem}")
    return 0
