"""Pictures of forecasts: the end of each history, the forecast, its interval, and the actual values."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from headgate.errors import InputError
from headgate.pictures import appearance
from headgate.sequences.series import Series
from headgate.storage.files import write_whole


def draw_forecast(
    charts: Sequence[tuple[Series, np.ndarray, np.ndarray | None, Series | None]],
    *,
    coverage: float,
    path: str | os.PathLike[str] | None = None,
    style: Mapping[str, Any] | None = None,
) -> Any:
    """Draw one chart per series, below each other, and return matplotlib's Figure, which a notebook displays.

    A chart consists of a history, a forecast (h,), half the width of its interval (h,) or None, and the actual values
    or None. The picture is written to ``path`` atomically, in the format of its suffix (PNG without one). ``style``
    contains additional rcParams, such as fonts.
    """
    import matplotlib

    settings: Any = {**appearance.style(), **(style or {})}  # Any: matplotlib's type lists all names of rcParams
    with matplotlib.rc_context(settings):
        figure = _figure(len(charts))
        for axes, chart in zip(figure.subplots(len(charts), squeeze=False)[:, 0], charts, strict=True):
            _draw(axes, *chart, coverage=coverage)
        if path is not None:
            write_whole(Path(path), _rendered(figure, Path(path)))
    return figure


def _figure(charts: int) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class Picture(Figure):
        """A Figure that a notebook displays even without pyplot or an IPython backend."""

        def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
            width, height = self.get_size_inches() * 100
            return appearance.rendered(self, "png"), {"width": int(width), "height": int(height)}

    figure = Picture(figsize=(8.8, 0.6 + 2.9 * charts), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _rendered(figure: Any, path: Path) -> bytes:
    known, ending = figure.canvas.get_supported_filetypes(), path.suffix.lower().removeprefix(".") or "png"
    if ending not in known:
        raise InputError(f"a picture cannot be written as {path.name}: its name must end with .{', .'.join(known)}")
    return appearance.rendered(figure, ending)


def _draw(
    axes: Any,
    history: Series,
    forecast: np.ndarray,
    half: np.ndarray | None,
    actual: Series | None,
    *,
    coverage: float,
) -> None:
    h = len(forecast)
    shown = history.values[-max(4 * h, 48) :]
    before, after = _positions(history.index[-len(shown) :]), _positions(history.future(h))
    axes.plot(before, shown, color="0.25", label="history")
    joined = [*before[-1:], *after]
    if half is not None:
        label = f"{coverage:.0%} interval"
        axes.fill_between(after, forecast - half, forecast + half, color="C0", alpha=0.2, linewidth=0, label=label)
    axes.plot(joined, [shown[-1], *forecast], color="C0", label="forecast")
    if actual is not None:
        values = actual.values[:h]
        axes.plot(after[: len(values)], values, color="C1", marker=".", linestyle="none", label="actual")
    axes.set_ylabel("y" if history.name is None else str(history.name))
    if not isinstance(history.index, pd.DatetimeIndex | pd.PeriodIndex):
        axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1), borderaxespad=0.3, frameon=False)


def _positions(index: pd.Index) -> list[Any]:
    """Return the positions of an index on matplotlib's x axis: dates or numbers."""
    if isinstance(index, pd.PeriodIndex):
        index = index.to_timestamp()
    return list(index.to_pydatetime()) if isinstance(index, pd.DatetimeIndex) else list(index)
