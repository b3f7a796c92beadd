"""Readable pictures: numbers without exponents, whole epochs, legends outside the data, Chinese, double resolution."""

import logging
import struct
import warnings
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib import font_manager

from headgate.pictures import appearance
from headgate.pictures.curve import draw_comparison, draw_curve, draw_losses
from headgate.pictures.forecast import draw_forecast
from headgate.sequences.series import Series
from headgate.settings.recipe import Published

LOG = [{"epoch": e, "perplexity": 1.5 + 40 / e, "held_out_perplexity": 3 + 40 / e} for e in range(1, 25)]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Collect the figures that are saved; they are still laid out and written as usual."""
    figures: list[Any] = []
    real = appearance.rendered

    def keep(figure: Any, kind: str) -> bytes:
        figures.append(figure)
        content = real(figure, kind)
        figure.canvas.draw()  # at the figure's own resolution again
        return content

    monkeypatch.setattr(appearance, "rendered", keep)
    return figures


def labels(axis: Any) -> list[str]:
    low, high = sorted(axis.get_view_interval())
    places = zip(axis.get_major_ticks(), axis.get_majorticklocs(), strict=True)
    return [tick.label1.get_text() for tick, place in places if low <= place <= high]


def test_numbers_of_a_logarithmic_axis_are_written_out(tmp_path: Path, drawn: list[Any]) -> None:
    draw_curve(LOG, tmp_path / "curve.png", title="")
    [axes] = drawn[0].axes
    assert axes.get_yscale() == "log"
    assert labels(axes.yaxis) == ["3", "5", "10", "20", "30"]
    assert not axes.yaxis.get_minorticklocs().size
    assert axes.get_ylabel() == "perplexity"


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (1.0, 1.03, [1.0, 1.01, 1.02, 1.03]),
        (2.5, 9.9, [3, 4, 5, 6, 8]),
        (1.4, 610, [2, 5, 10, 20, 50, 100, 200, 500]),
        (0.02, 900_000, [0.1, 1, 10, 100, 1000, 10_000, 100_000]),
        (1.0, 1e30, [1e0, 1e4, 1e8, 1e12, 1e16, 1e20, 1e24, 1e28]),
    ],
)
def test_ticks_are_few_and_round(low: float, high: float, ticks: list[float]) -> None:
    assert appearance.logarithmic_ticks(low, high) == pytest.approx(ticks)


@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 40, 500])
def test_epochs_are_whole(tmp_path: Path, drawn: list[Any], epochs: int) -> None:
    draw_losses([{"epoch": e, "loss": 2 / e} for e in range(1, epochs + 1)], tmp_path / "curve.png")
    [axes] = drawn[0].axes
    shown = labels(axes.xaxis)
    assert shown
    assert all(float(label) == int(label) >= 0 for label in shown)
    assert len(set(shown)) == len(shown) <= 10
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "mean loss")


def test_losses_that_are_not_positive_are_drawn(tmp_path: Path, drawn: list[Any]) -> None:
    draw_losses([{"epoch": e, "loss": 2.0 - e} for e in range(1, 5)], tmp_path / "curve.png")
    assert drawn[0].axes[0].get_yscale() == "linear"


def test_legends_do_not_cover_the_data(tmp_path: Path, drawn: list[Any]) -> None:
    published = [Published(5, "9.1", "after"), Published(20, "2.0 to 3.0", "after")]
    draw_curve(LOG, tmp_path / "curve.png", title="GRU of 256 units, 1 layer, reset after", published=published)
    draw_comparison({"runs/" + "long" * 20: LOG, "runs/other": LOG[:3]}, tmp_path / "compare.png")
    draw_losses([{"epoch": 1, "loss": 1.0, "held_out": 2.0}], tmp_path / "losses.png")
    for figure in drawn:
        [legend], [axes] = figure.legends, figure.axes
        place = legend.get_window_extent()
        assert not place.overlaps(axes.get_window_extent())
        assert axes.get_window_extent().width > 0.5 * figure.bbox.width
        assert figure.bbox.contains(*place.min)
        assert figure.bbox.contains(*place.max)


def test_the_curve_has_twice_the_usual_resolution(tmp_path: Path) -> None:
    draw_curve(LOG, tmp_path / "curve.png", title="")
    assert struct.unpack(">II", (tmp_path / "curve.png").read_bytes()[16:24]) == (1400, 880)


def without_chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    few = [font for font in font_manager.fontManager.ttflist if font.name in ("DejaVu Sans", "DejaVu Serif")]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", few)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [font.fname for font in few])


def test_fonts_that_matplotlib_has_not_cached_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    without_chinese(monkeypatch)
    serif = next(f for f in font_manager.fontManager.ttflist if f.name == "DejaVu Serif")
    sans = [f for f in font_manager.fontManager.ttflist if f.name == "DejaVu Sans"]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", sans)
    monkeypatch.setattr(appearance, "CHINESE", ("DejaVu Serif",))
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [serif.fname, __file__])
    assert appearance.style()["font.family"][-1] == "DejaVu Serif"


def test_only_installed_fonts_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    without_chinese(monkeypatch)
    own = matplotlib.rcParams["font.family"]
    assert appearance.style()["font.family"] == own
    with caplog.at_level(logging.WARNING):
        draw_comparison({"one": LOG}, tmp_path / "c.png")
    assert not caplog.records
    more = [*font_manager.fontManager.ttflist, font_manager.FontEntry(name="WenQuanYi Zen Hei")]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", more)
    assert appearance.style()["font.family"] == [*own, "WenQuanYi Zen Hei"]


def test_one_warning_if_no_font_has_the_characters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_chinese(monkeypatch)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        draw_comparison({"runs/歌词大模型": LOG}, tmp_path / "c.png")
    assert [str(w.message).partition(":")[0] for w in caught] == [
        "the picture shows boxes for characters that no font of matplotlib has"
    ]
    assert (tmp_path / "c.png").stat().st_size > 10_000


@pytest.mark.skipif(not set(appearance.style()["font.family"]) & set(appearance.CHINESE), reason="needs a Chinese font")
@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_chinese_is_written(tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    """Chinese text causes neither a warning, which is an error in tests, nor log messages."""
    series = Series("销量", np.arange(30.0), np.zeros((30, 0)), pd.RangeIndex(30))
    with caplog.at_level(logging.WARNING):
        draw_comparison({"runs/歌词": LOG}, tmp_path / f"c.{kind}")
        draw_forecast([(series, np.arange(5.0), None, None)], coverage=0.8, path=tmp_path / f"f.{kind}")
    assert not caplog.records
