"""Pictures of a run: perplexity, or the loss, over epochs, on a logarithmic scale."""

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headgate import files
from headgate.errors import InputError
from headgate.recipe import Published

FORMATS = {".png": "png", ".svg": "svg", ".pdf": "pdf", ".jpg": "jpeg", ".jpeg": "jpeg"}


def check_picture(path: Path) -> None:
    """InputError where a picture cannot have such a name, or there is no directory for it."""
    if path.suffix.lower() not in FORMATS:
        *most, last = FORMATS
        raise InputError(f"{path}: the name of a picture must end in {', '.join(most)} or {last}, which is its format")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no directory {path.parent}: make it, or name another place")


def _save(figure: Any, path: Path) -> None:
    """Write a picture: all of it or nothing. A link is followed."""
    check_picture(path)
    content = io.BytesIO()
    figure.savefig(content, format=FORMATS[path.suffix.lower()])
    files.write_whole(Path(os.path.realpath(path)), content.getvalue())


def draw_curve(log: Sequence[dict[str, Any]], path: Path, *, title: str, published: Sequence[Published] = ()) -> None:
    """Draw the reports of a log (:meth:`RunDirectory.log`), with the published numbers as points.

    The format of the file is what its name says."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    ends = list({entry["epoch"]: entry for entry in log}.values())  # the last report of each epoch
    for key, label, color in (("perplexity", "training", "C0"), ("held_out_perplexity", "held out", "C1")):
        points = [(e["epoch"], e[key]) for e in ends if e.get(key) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), color, label=label, marker="." if len(points) < 30 else "")
    for index, number in enumerate(published):
        label = "" if index else "published"
        low, high = number.bounds
        axes.plot([number.epoch] * 2, [low, high], "ko-", markersize=5, markerfacecolor="none", label=label)
    axes.set(xlabel="epoch", ylabel="perplexity", yscale="log", title=title)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if axes.get_ylim()[1] > 20 * axes.get_ylim()[0]:
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(alpha=0.3, which="both")
    if axes.has_data():
        axes.legend()
    _save(figure, path)


def draw_comparison(logs: Mapping[str, Sequence[dict[str, Any]]], path: Path) -> None:
    """Draw the perplexity of several runs: solid where held out, dashed in training.

    The format of the file is what its name says."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for number, (name, log) in enumerate(logs.items()):
        ends = list({entry["epoch"]: entry for entry in log}.values())  # the last report of each epoch
        label = name
        for key, style in (("held_out_perplexity", "-"), ("perplexity", "--")):
            points = [(e["epoch"], e[key]) for e in ends if e.get(key) is not None]
            if points:
                marker = "." if len(points) < 30 else ""
                axes.plot(*zip(*points, strict=True), style, color=f"C{number % 10}", label=label, marker=marker)
                label = ""
    axes.set(xlabel="epoch", ylabel="perplexity (solid: held out, dashed: training)", yscale="log")
    axes.grid(alpha=0.3, which="both")
    if axes.has_data():
        axes.legend(fontsize="small")
    _save(figure, path)


def draw_losses(history: Sequence[dict[str, float]], path: Path) -> None:
    """Draw the losses of a fit, and the held-out ones where there are any, into a file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for key, label in (("loss", "training"), ("held_out", "held out")):
        points = [(entry["epoch"], entry[key]) for entry in history if key in entry]
        if points:
            axes.plot(*zip(*points, strict=True), label=label)
    axes.set(xlabel="epoch", ylabel="loss", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    _save(figure, path)
