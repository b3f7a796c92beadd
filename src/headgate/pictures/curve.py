"""Pictures of a run: perplexity, or the loss, over epochs, on a logarithmic scale."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from headgate.console import shortened
from headgate.pictures import appearance
from headgate.settings.recipe import Published


def draw_curve(log: Sequence[dict[str, Any]], path: Path, *, title: str, published: Sequence[Published] = ()) -> None:
    """Draw the reports of a log (:meth:`RunDirectory.log`), with the published numbers as points.

    The format of the file is what its name says."""
    with _plot(path, "perplexity", title=title) as (axes, epochs):
        for key, label, color in (("perplexity", "training", "C0"), ("held_out_perplexity", "held out", "C1")):
            epochs += _line(axes, _ends(log), key, color=color, label=label)
        for index, number in enumerate(published):
            label = "" if index else "published"
            low, high = number.bounds
            axes.plot([number.epoch] * 2, [low, high], "ko-", markersize=5, markerfacecolor="none", label=label)
            epochs.append(number.epoch)


def draw_comparison(logs: Mapping[str, Sequence[dict[str, Any]]], path: Path) -> None:
    """Draw the perplexity of several runs: solid where held out, dashed in training.

    The format of the file is what its name says."""
    with _plot(path, "perplexity", title="solid: held out; dashed: training", beside=True) as (axes, epochs):
        for number, (name, log) in enumerate(logs.items()):
            label = shortened(name, 32)
            for key, dashes in (("held_out_perplexity", "-"), ("perplexity", "--")):
                drawn = _line(axes, _ends(log), key, color=f"C{number % 10}", linestyle=dashes, label=label)
                label = "" if drawn else label
                epochs += drawn


def draw_losses(history: Sequence[dict[str, float]], path: Path) -> None:
    """Draw the losses of a fit, and the held-out ones where there are any, into a file."""
    with _plot(path, "mean loss", title="") as (axes, epochs):
        for key, label, color in (("loss", "training", "C0"), ("held_out", "held out", "C1")):
            epochs += _line(axes, history, key, color=color, label=label)


def _ends(log: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last report of each epoch."""
    return list({entry["epoch"]: entry for entry in log}.values())


def _line(axes: Any, entries: Sequence[dict[str, Any]], key: str, **looks: Any) -> list[int]:
    """Draw one number of some reports as a line; returns the epochs that have it."""
    points = [(entry["epoch"], entry[key]) for entry in entries if entry.get(key) is not None]
    if points:
        axes.plot(*zip(*points, strict=True), marker="." if len(points) < 30 else "", **looks)
    return [int(epoch) for epoch, _ in points]


@contextlib.contextmanager
def _plot(path: Path, ylabel: str, *, title: str, beside: bool = False) -> Iterator[tuple[Any, list[int]]]:
    """Context manager: axes to draw in, and a list for the epochs drawn; at its end the picture is written. The legend
    is above the axes, or beside them."""
    import matplotlib
    from matplotlib.figure import Figure

    settings: Any = appearance.style()  # typed by matplotlib as a dict of its five hundred names
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(8.4 if beside else 7, 4.4), layout="constrained")
        axes, epochs = figure.add_subplot(), list[int]()
        yield axes, epochs
        axes.set_ylabel(ylabel)
        axes.set_title(title, loc="left")
        appearance.make_logarithmic(axes)
        appearance.whole_epochs(axes, epochs)
        axes.grid(alpha=0.3)
        if axes.has_data():
            figure.legend(loc="outside right upper" if beside else "outside upper right", ncols=1 if beside else 3)
        appearance.save(figure, path)
