"""Dates in common forms: read, named, and refused if ambiguous; errors name the row of the first bad one."""

import numpy as np
import pandas as pd
import pytest

from headgate.errors import InputError
from headgate.sequences.dates import read_steps

ISO = "dates like 2024-01-31"


def read(*values: object, form: str | None = None) -> tuple[list[str], str]:
    steps, form_read = read_steps(pd.Series(values, name="day"), form)
    return [str(step).removesuffix(" 00:00:00") for step in steps], form_read


def refused(*values: object) -> str:
    with pytest.raises(InputError) as caught:
        read(*values)
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "form", "dates"),
    [
        (["2024-01-31", "2024-02-01"], ISO, ["2024-01-31", "2024-02-01"]),
        (["2024-01", "2024-02"], ISO, ["2024-01-01", "2024-02-01"]),
        (["2024-01-31 13:30", "2024-01-31 14:30:05"], ISO, ["2024-01-31 13:30:00", "2024-01-31 14:30:05"]),
        (["2024-01-31T13:00Z"], ISO, ["2024-01-31 13:00:00+00:00"]),
        ([20240131, 20240201], "yearmonthday", ["2024-01-31", "2024-02-01"]),
        ([202401, 202402], "yearmonth", ["2024-01-01", "2024-02-01"]),
        (["2024/1/31", "2024/2/1"], "year/month/day", ["2024-01-31", "2024-02-01"]),
        (["31.01.2024", "1.2.2024"], "day.month.year", ["2024-01-31", "2024-02-01"]),
        (["01.02.2024 13:30"], "day.month.year", ["2024-02-01 13:30:00"]),
        (["2024年01月31日", "2024年2月1日"], "年月日", ["2024-01-31", "2024-02-01"]),
        (["2024年1月", "2024年12月"], "年月", ["2024-01-01", "2024-12-01"]),
        (["2024-W05", "2024-W06"], "years and weeks, as their Mondays", ["2024-01-29", "2024-02-05"]),
        (["1990Q1", "1990-Q4"], "years and quarters, as their first days", ["1990-01-01", "1990-10-01"]),
        (["Q2 1990"], "quarters and years, as their first days", ["1990-04-01"]),
        (["31 Jan 2024", "1 February 2024"], "day month year", ["2024-01-31", "2024-02-01"]),
        (["Jan 31, 2024", "March 1, 2024"], "month day, year", ["2024-01-31", "2024-03-01"]),
        (["Jan 2024", "Dec 2024"], "month year", ["2024-01-01", "2024-12-01"]),
        (["01/2024", "12/2024"], "month/year", ["2024-01-01", "2024-12-01"]),
        (["01/02/2024", "31/01/2024"], "day/month/year", ["2024-02-01", "2024-01-31"]),
        (["01/02/2024", "01/31/2024"], "month/day/year", ["2024-01-02", "2024-01-31"]),
    ],
    ids=str,
)
def test_forms(values: list[object], form: str, dates: list[str]) -> None:
    assert read(*values) == (dates, form)


def test_numbers_are_steps() -> None:
    assert read(1, 2, 3) == (["1", "2", "3"], "whole numbers")
    assert read(1.0, 2.0) == (["1", "2"], "whole numbers")
    assert read(1990, 1991) == (["1990", "1991"], "whole numbers")  # years
    assert read(20240131, 20240231)[1] == "whole numbers"  # no such day
    assert read(202401, 202402, form="whole numbers") == (["202401", "202402"], "whole numbers")


def test_the_form_of_an_earlier_table_decides() -> None:
    assert read("01/02/2024", "02/03/2024", form="day/month/year")[0] == ["2024-02-01", "2024-03-02"]
    assert read("01/02/2024", "02/03/2024", form="month/day/year")[0] == ["2024-01-02", "2024-02-03"]
    assert read("2024-02-01", form="day/month/year") == (["2024-02-01"], ISO)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["2024-01-31", "2024-02-30"], "day must hold dates like 2024-01-31 (or 2024-01-31 13:30), or whole "
                                       "numbers, got "
         "'2024-02-30' in row 2"),
        (["2024-01-31", "soon", "2024-02-01"], "or whole numbers, got 'soon' in row 2"),
        (["31.01.2024", "30.02.2024"], "must hold dates, day.month.year as in most rows, got '30.02.2024' in row 2"),
        (["?", "31.01.2024", "01.02.2024"], "must hold dates, day.month.year as in most rows, got '?' in row 1"),
        (["01/02/2024", "02/03/2024"], "has dates like 01/02/2024 in row 1, but no row tells the day from the "
                                       "month: write"),
        (["31/01/2024", "01/31/2024"], "has 31/01/2024 in row 1 and 01/31/2024 in row 2: write all dates in one order"),
        (["01/02/24"], "must hold dates like 2024-01-31 (or 2024-01-31 13:30), or whole numbers, got '01/02/24' "
                       "in row 1"),
        (["2024-03-30T00:00+01:00", "2024-03-31T00:00+02:00"], "mixes time zones, +01:00 in row 1 and +02:00 in "
            "row 2: write"),
        (["2024-03-30T00:00+01:00", "2024-03-31T00:00"], "mixes time zones, +01:00 in row 1 and none in row 2: write"),
        (["2024-01-31", None], "has no value in row 2 (1 in all): each row needs its date or number"),
        ([1.5, 2.5], "or whole numbers, got np.float64(1.5) in row 1"),
        (["first", "second"], "or whole numbers, got 'first' in row 1"),
    ],
    ids=str,
)  # fmt: skip
def test_values_that_are_not_dates_are_refused(values: list[object], message: str) -> None:
    result = refused(*values)
    assert result.startswith("column day ")
    assert message in result


def test_dates_of_pandas_are_kept() -> None:
    days = pd.Series(pd.date_range("2024-01-01", periods=2, tz="Europe/Berlin"), name="day")
    assert read_steps(days)[0].tolist() == days.tolist()
    months = pd.Series(pd.period_range("2024-01", periods=2, freq="M"), name="day")
    assert read_steps(months)[0].tolist() == months.tolist()
    assert read_steps(pd.Series(np.array([2, 1]), name="day"))[0].tolist() == [2, 1]
