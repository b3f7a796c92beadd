"""A picture of forecasts: the end of each history, the forecast, its interval, and what came."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from headgate.files import picture_format, write_figure
from headgate.series import Series


def draw_forecast(
    charts: Sequence[tuple[Series, np.ndarray, np.ndarray | None, Series | None]],
    *,
    coverage: float,
    path: str | os.PathLike[str] | None = None,
) -> Any:
    """Draw, one below the other, series with their forecasts (h,), half their intervals' widths (h,) or None, and what
    came or None. Returns matplotlib's Figure, and writes it to ``path`` in the
    format that its name ends in."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if path is not None:
        picture_format(path)  # before anything is drawn
    figure = Figure(figsize=(8, 0.6 + 2.9 * len(charts)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (history, forecast, half, actual) in zip(
        figure.subplots(len(charts), squeeze=False)[:, 0], charts, strict=True
    ):
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
            came = actual.values[:h]
            axes.plot(after[: len(came)], came, color="C1", marker=".", linestyle="none", label="what came")
        axes.set_title("" if history.name is None else str(history.name), fontsize="medium")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", loc="upper left")
    if path is not None:
        write_figure(figure, path)
    return figure


def _positions(index: pd.Index) -> list[Any]:
    """What matplotlib can draw along its axis: dates or numbers."""
    if isinstance(index, pd.PeriodIndex):
        index = index.to_timestamp()
    return list(index.to_pydatetime()) if isinstance(index, pd.DatetimeIndex) else list(index)
