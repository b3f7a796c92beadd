"""Training curves: perplexity or loss per epoch, on a logarithmic scale."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from headgate.console import shortened
from headgate.pictures import appearance
from headgate.settings.recipe import Published


def draw_curve(log: Sequence[dict[str, Any]], path: Path, *, title: str, published: Sequence[Published] = ()) -> None:
    """Draw the perplexity in a log (:meth:`RunDirectory.log`), with published values as points.

    The suffix of ``path`` determines the format.
    """
    with _plot(path, "perplexity", title=title) as (axes, epochs):
        for key, label, color in (("perplexity", "training", "C0"), ("held_out_perplexity", "held out", "C1")):
            epochs += _line(axes, _ends(log), key, color=color, label=label)
        for index, number in enumerate(published):
            label = "" if index else "published"
            low, high = number.bounds
            axes.plot([number.epoch] * 2, [low, high], "ko-", markersize=5, markerfacecolor="none", label=label)
            epochs.append(number.epoch)


def draw_comparison(logs: Mapping[str, Sequence[dict[str, Any]]], path: Path) -> None:
    """Draw the perplexity of several runs: held out as solid lines, training as dashed lines.

    The suffix of ``path`` determines the format.
    """
    with _plot(path, "perplexity", title="solid: held out; dashed: training", beside=True) as (axes, epochs):
        for number, (name, log) in enumerate(logs.items()):
            label = shortened(name, 32)
            for key, dashes in (("held_out_perplexity", "-"), ("perplexity", "--")):
                drawn = _line(axes, _ends(log), key, color=f"C{number % 10}", linestyle=dashes, label=label)
                label = "" if drawn else label
                epochs += drawn


def draw_losses(history: Sequence[dict[str, float]], path: Path) -> None:
    """Draw the training losses of a fit, and the held-out losses if there are any."""
    with _plot(path, "mean loss", title="") as (axes, epochs):
        for key, label, color in (("loss", "training", "C0"), ("held_out", "held out", "C1")):
            epochs += _line(axes, history, key, color=color, label=label)


def _ends(log: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the last report of each epoch."""
    return list({entry["epoch"]: entry for entry in log}.values())


def _line(axes: Any, entries: Sequence[dict[str, Any]], key: str, **looks: Any) -> list[int]:
    """Draw one field of the reports as a line and return the epochs that have it."""
    points = [(entry["epoch"], entry[key]) for entry in entries if entry.get(key) is not None]
    if points:
        axes.plot(*zip(*points, strict=True), marker="." if len(points) < 30 else "", **looks)
    return [int(epoch) for epoch, _ in points]


@contextlib.contextmanager
def _plot(path: Path, ylabel: str, *, title: str, beside: bool = False) -> Iterator[tuple[Any, list[int]]]:
    """Context manager: yield axes and a list to be filled with the epochs drawn, then write the picture.

    The legend is above the axes, or to their right if ``beside``.
    """
    import matplotlib
    from matplotlib.figure import Figure

    settings: Any = appearance.style()  # Any: matplotlib's type lists all names of rcParams
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
