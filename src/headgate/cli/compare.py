"""``headgate compare``: the settings, results and curves of runs."""

import argparse
from pathlib import Path

from headgate import console
from headgate.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="RUN", help="run directories of language models")
    parser.add_argument(
        "-o", "--out", default="compare.png", metavar="FILE", help="picture of all curves (compare.png)"
    )
    parser.add_argument("--json", action="store_true", help="print the differences as JSON")


def run(options: argparse.Namespace) -> int:
    """Print the settings that differ and how far each run got; draw all curves in one picture."""
    from headgate.pictures.appearance import check_picture
    from headgate.pictures.curve import draw_comparison
    from headgate.runs.overview import differences, look
    from headgate.runs.run_directory import RunDirectory

    if len(options.paths) < 2:
        raise InputError("give at least two runs to compare: headgate compare RUN RUN")
    check_picture(Path(options.out))
    opened, logs, problems = [], {}, []
    for path in options.paths:
        try:
            run = RunDirectory.open(Path(path))
            logs[str(run.path)] = run.log()
            opened.append(run)
        except (InputError, OSError) as error:
            problems.append(error)
    if len(opened) < 2:
        raise problems[0]
    for problem in problems:
        console.tell(f"headgate: left out: {problem}")
    paths = [str(run.path) for run in opened]
    differing = differences(opened)
    if options.json:
        console.print_json({"runs": paths, "differences": differing})
    else:
        overviews = [look(run.path) for run in opened]
        rows = [(name, *map(str, values)) for name, values in differing.items()]
        for name in ("state", "epoch", "perplexity", "held_out"):
            values = [getattr(o, name) for o in overviews]
            rows.append((name, *(f"{v:.3f}" if isinstance(v, float) else "-" if v is None else str(v) for v in values)))
        table = [("", *paths), *rows]
        console.print_table(table, "<" * len(table[0]))
    draw_comparison(logs, Path(options.out))
    if not options.json:
        print(f"curves  {options.out}")
    return 0
