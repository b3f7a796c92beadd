"""Pictures of a run: perplexity, or the loss, over epochs, on a logarithmic scale."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headgate.recipe import Published


def draw_curve(log: Sequence[dict[str, Any]], path: Path, *, title: str, published: Sequence[Published] = ()) -> None:
    """Draw the reports of a log (:meth:`RunDirectory.log`) into a PNG file, with the published numbers as points."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
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
    FigureCanvasAgg(figure).print_png(str(path))


def draw_comparison(logs: Mapping[str, Sequence[dict[str, Any]]], path: Path) -> None:
    """Draw the perplexity of several runs into a PNG file: solid where held out, dashed in training."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
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
    FigureCanvasAgg(figure).print_png(str(path))


def draw_losses(history: Sequence[dict[str, float]], path: Path) -> None:
    """Draw the losses of a fit, and the held-out ones where there are any, into a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
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
    FigureCanvasAgg(figure).print_png(str(path))
