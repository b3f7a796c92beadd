"""The common style of all pictures: file formats, resolution, fonts, readable axes. Does not use pyplot."""

import contextlib
import io
import logging
import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headgate.errors import InputError
from headgate.storage import files

FORMATS = {".png": "png", ".svg": "svg", ".pdf": "pdf", ".jpg": "jpeg", ".jpeg": "jpeg"}
DPI = 200  # twice matplotlib's own
CHINESE = (  # font families with Chinese characters on Linux, Windows and macOS; the first one installed is used
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "Source Han Sans CN",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Microsoft YaHei",
    "PingFang SC",
    "Hiragino Sans GB",
    "Heiti SC",
    "STHeiti",
    "SimHei",
    "Noto Sans CJK JP",
    "Noto Sans CJK TC",
    "Noto Sans CJK KR",
    "Noto Serif CJK SC",
    "Noto Serif CJK JP",
    "Source Han Serif SC",
    "Songti SC",
    "SimSun",
    "AR PL UMing CN",
    "AR PL UKai CN",
    "Droid Sans Fallback",
    "Arial Unicode MS",
)


def check_picture(path: Path) -> None:
    """Raise InputError if the name of a picture has no known suffix, or if its directory does not exist."""
    if path.suffix.lower() not in FORMATS:
        *most, last = FORMATS
        raise InputError(
            f"{path}: the name of a picture must end in {', '.join(most)} or {last}: choose one of these formats"
        )
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no directory {path.parent}: create it, or choose another place")


def style() -> dict[str, Any]:
    """Return matplotlib's settings (rcParams): its own fonts, and a Chinese font for characters that they lack."""
    import matplotlib
    from matplotlib import font_manager

    own = matplotlib.rcParams["font.family"]
    fonts = font_manager.fontManager
    if not {font.name for font in fonts.ttflist} & set(CHINESE):
        _add_new_fonts(fonts)
    installed = {font.name for font in fonts.ttflist}
    chinese = next((family for family in CHINESE if family in installed and family not in own), None)
    return {"font.family": [*own, chinese] if chinese else own, "axes.titlesize": "medium", "legend.frameon": False}


def _add_new_fonts(fonts: Any) -> None:
    """Add fonts that were installed after matplotlib cached its list of fonts."""
    from matplotlib.font_manager import findSystemFonts

    known = {font.fname for font in fonts.ttflist}
    for path in findSystemFonts():
        if path not in known:
            with contextlib.suppress(
                OSError, RuntimeError
            ):  # formats that matplotlib cannot read, such as bitmap fonts
                fonts.addfont(path)


def save(figure: Any, path: Path) -> None:
    """Write a picture atomically; follow links."""
    check_picture(path)
    files.write_whole(Path(os.path.realpath(path)), rendered(figure, FORMATS[path.suffix.lower()]))


def rendered(figure: Any, kind: str) -> bytes:
    """Return the contents of a picture file. Warn once if its characters need a font that is not installed."""
    content = io.BytesIO()
    fonts = logging.getLogger("matplotlib.font_manager")
    level = fonts.level
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fonts.setLevel(logging.ERROR)  # it logs that a Chinese font has only one weight, for instance 500
        try:
            figure.savefig(content, format=kind, dpi=DPI)
        finally:
            fonts.setLevel(level)
    lacking = [w for w in caught if str(w.message).startswith("Glyph ")]
    for warning in caught:
        if warning not in lacking:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if lacking:
        warnings.warn(
            "the picture shows boxes for characters that no font of matplotlib has: install a font that does, such as "
            "Noto Sans CJK for Chinese",
            stacklevel=2,
        )
    return content.getvalue()


def logarithmic_ticks(low: float, high: float) -> list[float]:
    """Return round numbers between two positive numbers, as ticks of a logarithmic axis.

    >>> logarithmic_ticks(1.7, 24), logarithmic_ticks(0.9, 2500)
    ([2.0, 3.0, 5.0, 10.0, 20.0], [1.0, 10.0, 100.0, 1000.0])
    """
    from matplotlib.ticker import MaxNLocator

    if high < 2.5 * low:
        ticks = MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        return [float(tick) for tick in ticks if low <= tick <= high]
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    digits: tuple[float, ...] = (1,)
    if high < 8 * low:
        digits = (1, 1.5, 2, 3, 4, 5, 6, 8)
    elif high < 30 * low:
        digits = (1, 2, 3, 5)
    elif high < 1000 * low:
        digits = (1, 2, 5)
    every = max(math.ceil((last - first) / 9), 1)  # decades between ticks
    powers = range(first - first % every, last + 1, every)
    ticks = [float(f"{digit}e{power}") for power in powers for digit in digits]
    return [tick for tick in ticks if low <= tick <= high]


def make_logarithmic(axes: Any) -> None:
    """Make the y axis logarithmic, without exponents in its labels, if all values are positive.

    Call it when all lines have been drawn.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    values = [float(y) for line in axes.get_lines() for y in line.get_ydata()]
    finite = [value for value in values if math.isfinite(value)]
    if not finite or min(finite) <= 0:
        return
    low, high = min(finite), max(finite)
    margin = max((high / low) ** 0.05, 1.01)
    axes.set_yscale("log")
    axes.set_ylim(low / margin, high * margin)
    axes.yaxis.set_major_locator(FixedLocator(logarithmic_ticks(low / margin, high * margin)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: written_out(value)))


def written_out(value: float) -> str:
    """Format a number without an exponent unless it is very large or small.

    >>> written_out(20000.0), written_out(0.05), written_out(1e-9)
    ('20,000', '0.05', '1e-09')
    """
    return f"{value:,.12g}" if 1e-4 <= abs(value) < 1e9 else f"{value:g}"


def whole_epochs(axes: Any, epochs: Sequence[int]) -> None:
    """Label the x axis as epochs, fit it to these, and put ticks at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    if epochs:
        low, high = min(epochs), max(epochs)
        margin = max(0.03 * (high - low), 0.1 if high > low else 0.6)
        axes.set_xlim(low - margin, high + margin)
