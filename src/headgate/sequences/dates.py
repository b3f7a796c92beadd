"""The column that orders the steps: dates in common forms, or whole numbers."""

import re
from collections.abc import Callable
from datetime import date
from typing import Any

import numpy as np
import pandas as pd

from headgate.errors import InputError
from headgate.sequences.table_file import place

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_TIME = r"(?:[ T]+(?P<t>\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?))?"
_ISO, _NUMBERS, _DATES = "dates like 2024-01-31", "whole numbers", "dates"
_DAY_FIRST, _MONTH_FIRST = "day/month/year", "month/day/year"
_EITHER = r"(?P<a>\d{1,2})[/-](?P<b>\d{1,2})[/-](?P<y>\d{4})" + _TIME


def _day(match: re.Match[str]) -> str:
    parts = {"m": "1", "d": "1", **{k: v for k, v in match.groupdict().items() if v is not None}}
    month = parts["m"]
    if "name" in parts:
        month = str(_MONTHS.index(parts["name"][:3].lower()) + 1) if parts["name"][:3].lower() in _MONTHS else "0"
    day = f"{parts['y']}-{month:0>2}-{parts['d']:0>2}"
    return f"{day}T{parts['t']:0>5}" if "t" in parts else day


def _week(match: re.Match[str]) -> str:
    year, week, day = int(match["y"]), int(match["w"]), int(match["d"] or 1)
    try:
        return date.fromisocalendar(year, week, day).isoformat()
    except ValueError:
        return ""


def _quarter(match: re.Match[str]) -> str:
    return f"{match['y']}-{3 * int(match['q']) - 2:02}-01"


Form = tuple[re.Pattern[str], Callable[[re.Match[str]], str]]
FORMS: dict[str, Form] = {
    name: (re.compile(pattern), convert)
    for name, pattern, convert in (
        ("yearmonthday", r"(?P<y>(?:19|20)\d\d)(?P<m>\d\d)(?P<d>\d\d)" + _TIME, _day),
        ("yearmonth", r"(?P<y>(?:19|20)\d\d)(?P<m>0[1-9]|1[0-2])", _day),
        ("year/month/day", r"(?P<y>\d{4})[/.](?P<m>\d{1,2})[/.](?P<d>\d{1,2})" + _TIME, _day),
        ("year/month", r"(?P<y>\d{4})[/.](?P<m>\d{1,2})", _day),
        ("年月日", r"(?P<y>\d{4})年(?P<m>\d{1,2})月(?P<d>\d{1,2})[日号]?" + _TIME, _day),
        ("年月", r"(?P<y>\d{4})年(?P<m>\d{1,2})月", _day),
        ("day.month.year", r"(?P<d>\d{1,2})\.(?P<m>\d{1,2})\.(?P<y>\d{4})" + _TIME, _day),
        ("month/year", r"(?P<m>\d{1,2})[/.-](?P<y>\d{4})", _day),
        ("years and weeks, as their Mondays", r"(?P<y>\d{4})-?W(?P<w>\d{1,2})(?:-?(?P<d>[1-7]))?", _week),
        ("years and quarters, as their first days", r"(?P<y>\d{4})[- ]?Q(?P<q>[1-4])", _quarter),
        ("quarters and years, as their first days", r"Q(?P<q>[1-4])[-/ ]?(?P<y>\d{4})", _quarter),
        ("day month year", r"(?P<d>\d{1,2})[ -](?P<name>[A-Za-z]{3,9})\.?[ -](?P<y>\d{4})" + _TIME, _day),
        ("month day, year", r"(?P<name>[A-Za-z]{3,9})\.? (?P<d>\d{1,2}),? (?P<y>\d{4})" + _TIME, _day),
        ("month year", r"(?P<name>[A-Za-z]{3,9})\.?[ -](?P<y>\d{4})", _day),
        (_DAY_FIRST, _EITHER.replace("<a>", "<d>").replace("<b>", "<m>"), _day),
        (_MONTH_FIRST, _EITHER.replace("<a>", "<m>").replace("<b>", "<d>"), _day),
    )
}


def read_steps(column: pd.Series, form: str | None = None) -> tuple[Any, str]:
    """Return the steps of a column, as dates or numbers of pandas, and the form in which they were read.

    ``form`` is the form of an earlier table, which is preferred if this column can be read in several. Raises
    InputError that names the first row that cannot be read.
    """
    name = column.name
    if column.isna().any():
        at = int(column.isna().to_numpy().argmax())
        raise InputError(
            f"column {name} has no value in {place(column, at)} ({column.isna().sum()} in all): each row "
            "needs its date or number"
        )
    if pd.api.types.is_datetime64_any_dtype(column) or isinstance(column.dtype, pd.PeriodDtype):
        return column.array, _DATES
    if pd.api.types.is_float_dtype(column) and (column % 1 == 0).all() and (column.abs() < 2**53).all():
        column = column.astype(np.int64)
    if pd.api.types.is_integer_dtype(column):
        if form in (None, "yearmonthday", "yearmonth"):
            text = column.astype(str)
            for dated in ("yearmonthday", "yearmonth"):
                if form in (None, dated) and text.map(FORMS[dated][0].fullmatch).notna().all():
                    dates = _converted(text, dated)
                    if not dates.isna().any():
                        return dates.array, dated
        return column.to_numpy(), _NUMBERS
    text = column.astype(str).str.strip()
    if pd.api.types.is_numeric_dtype(column) or not all(len(value) < 60 for value in text.iloc[:100]):
        raise _unreadable(column, 0)
    if form in FORMS and text.map(FORMS[form][0].fullmatch).notna().all():
        dates = _converted(text, form)
        if not dates.isna().any():
            return dates.array, form
    iso = pd.to_datetime(text, format="ISO8601", errors="coerce", utc=True)
    if not iso.isna().any():
        try:
            dates = pd.to_datetime(text, format="ISO8601")
        except ValueError:
            raise _mixed_zones(column, text) from None
        if text.str.match(r"\d{4}-\d{1,2}").all():
            return dates.array, _ISO
        others = (name for name, (pattern, _) in FORMS.items() if text.map(pattern.fullmatch).notna().all())
        return dates.array, next(others, _ISO)
    forms = [name for name, (pattern, _) in FORMS.items() if pattern.fullmatch(text.iloc[0])]
    counts = {name: text.map(FORMS[name][0].fullmatch).notna().sum() for name in FORMS}
    forms += [name for name in FORMS if name not in forms and counts[name]]
    if not forms or iso.notna().sum() >= counts[forms[0]]:
        raise _unreadable(column, int(iso.isna().to_numpy().argmax()) if iso.notna().any() else 0)
    chosen = max(forms, key=lambda name: counts[name])
    if chosen in (_DAY_FIRST, _MONTH_FIRST):
        chosen = _decided(column, text)
    dates = _converted(text, chosen)
    if dates.isna().any():
        raise _unreadable(column, int(dates.isna().to_numpy().argmax()), chosen)
    return dates.array, chosen


def _converted(text: pd.Series, form: str) -> pd.Series:
    """Convert texts to dates by a form; NaT for those that do not match it."""
    pattern, convert = FORMS[form]
    iso = [convert(match) if (match := pattern.fullmatch(value)) else "" for value in text]
    return pd.to_datetime(pd.Series(iso, index=text.index), format="ISO8601", errors="coerce")


def _decided(column: pd.Series, text: pd.Series) -> str:
    """Decide by a number above 12 whether days or months come first; return the form."""
    pattern = re.compile(_EITHER)
    parts = [(int(match["a"]), int(match["b"])) if (match := pattern.fullmatch(v)) else (0, 0) for v in text]
    first, second = (np.array([part[side] for part in parts]) > 12 for side in (0, 1))
    if first.any() and second.any():
        one, other = int(first.argmax()), int(second.argmax())
        raise InputError(
            f"column {column.name} has {text.iloc[one]} in {place(column, one)} and {text.iloc[other]} in "
            f"{place(column, other)}: write all dates in one order, best as 2024-01-31"
        )
    if not first.any() and not second.any():
        raise InputError(
            f"column {column.name} has dates like {text.iloc[0]} in {place(column, 0)}, but no row tells the day from "
            "the month: write dates like 2024-01-31"
        )
    return _DAY_FIRST if first.any() else _MONTH_FIRST


def _mixed_zones(column: pd.Series, text: pd.Series) -> InputError:
    zones = text.str.extract(r"(Z|[+-]\d{2}:?\d{2})$")[0].fillna("none")
    other = int((zones != zones.iloc[0]).to_numpy().argmax())
    return InputError(
        f"column {column.name} mixes time zones, {zones.iloc[0]} in {place(column, 0)} and {zones.iloc[other]} in "
        f"{place(column, other)}: write all times in one zone, such as UTC"
    )


def _unreadable(column: pd.Series, at: int, form: str | None = None) -> InputError:
    expected = (
        f"dates, {form} as in most rows," if form else "dates like 2024-01-31 (or 2024-01-31 13:30), or whole numbers,"
    )
    return InputError(f"column {column.name} must hold {expected} got {column.iloc[at]!r} in {place(column, at)}")
