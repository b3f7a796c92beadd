"""Tables become sequences and series with every column in its place; errors are one sentence."""

import io
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from headgate.errors import InputError
from headgate.sequences.table import Roles, answered, assign_roles, samples, series
from headgate.sequences.table_file import read_table

RIDES = pd.DataFrame(
    {
        "ride": ["b", "a", "b", "a", "b"],
        "minute": [2, 0, 0, 1, 1],
        "speed": [2.0, 10.0, 0.0, 11.0, 1.0],
        "slope": [7, 5, 9, 4, 8],
        "price": [3.5, 1.5, 3.5, 1.5, 3.5],
    }
)


def roles(table: pd.DataFrame, target: str, **given) -> Roles:
    defaults = {"time": None, "group": None, "features": None, "forecast": False, "task": "auto", "frequency": None}
    return assign_roles(table, target, **{**defaults, **given})


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.parquet"])
def test_reading(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    RIDES.to_parquet(path, index=False) if name.endswith("parquet") else RIDES.to_csv(path, index=False)
    table = read_table(str(path))
    assert (table.index.name, table.index[0]) == (("row", 1) if name.endswith("parquet") else ("line", 2))
    pd.testing.assert_frame_equal(table.reset_index(drop=True), RIDES, check_dtype=False)


def test_reading_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("a,b\n1,2\n"))
    assert read_table("-").to_dict("list") == {"a": [1], "b": [2]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.csv", None, "there is no file PATH: give a .csv or .parquet file, or - for standard input"),
        ("t.csv", b"", "PATH cannot be read as CSV: it is empty: give a table"),
        ("t.csv", b"a,b\n", "PATH has no rows: at least one is needed"),
        ("t.csv", b"a,b\n1,2\n1,2,3\n", "PATH cannot be read as CSV: line 3 has 3 fields, but the first line 2: "),
        ("t.csv", b"a\n\xff\xfe\n", "PATH cannot be read as CSV: 'utf-8' codec can't decode byte 0xff"),
        ("t.parquet", b"no parquet", "PATH cannot be read as Parquet: "),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_table(str(path))
    assert str(caught.value).startswith(message.replace("PATH", str(path)))
    assert "\n" not in str(caught.value)


def test_groups_are_sequences_in_the_order_of_time() -> None:
    result = roles(RIDES, "price", time="minute", group="ride")
    assert (result.task, result.features) == ("regression", ("speed", "slope"))
    X, y, names = samples(RIDES, result)
    assert names["ride"].tolist() == ["b", "a"]  # in order of appearance
    assert [x.tolist() for x in X] == [[[0, 9], [1, 8], [2, 7]], [[10, 5], [11, 4]]]
    assert y.tolist() == [3.5, 1.5]
    assert samples(RIDES.drop(columns="price"), result)[1] is None


def test_groups_without_time_keep_the_order_of_rows() -> None:
    X, _, _ = samples(RIDES, roles(RIDES, "price", group="ride", features=["slope"]))
    assert [x[:, 0].tolist() for x in X] == [[7, 9, 8], [5, 4]]


def test_rows_are_sequences_of_one_feature() -> None:
    table = pd.DataFrame({"s2": [1, 4], "y": ["no", "yes"], "s1": [2, 5], "s0": [3, 6]})
    result = roles(table, "y")
    assert result.task == "classification"
    X, y, names = samples(table, result)
    assert X.tolist() == [[1, 2, 3], [4, 5, 6]]  # columns in their order
    assert y.tolist() == ["no", "yes"]
    assert names["row"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("values", "task"), [([1, 2], "regression"), ([0.5, 1], "regression"), ([True, False], "classification")]
)
def test_the_task_follows_the_target(values: list, task: str) -> None:
    assert roles(pd.DataFrame({"y": values, "x": [1, 2]}), "y").task == task
    assert roles(pd.DataFrame({"y": values, "x": [1, 2]}), "y", task="classification").task == "classification"


def test_roles_survive_json() -> None:
    result = roles(RIDES, "price", time="minute", group="ride")
    assert Roles.from_json(result.to_json()) == result


@pytest.mark.parametrize(
    ("target", "given", "message"),
    [
        ("prise", {}, "the table has no column prise: did you mean price or ride?"),
        ("price", {"group": "rid"}, "the table has no column rid: did you mean ride?"),
        ("price", {"features": ["price"]}, "column price is used twice: --target, --time, --group and --features must "
         "name different columns"),
        ("price", {"forecast": True}, "a forecast needs the column that orders the steps: name it with --time"),
    ],
)  # fmt: skip
def test_invalid_columns_are_refused(target: str, given: dict, message: str) -> None:
    with pytest.raises(InputError) as caught:
        roles(RIDES, target, **given)
    assert str(caught.value) == message


def test_no_features() -> None:
    table = RIDES[["price", "ride"]]
    with pytest.raises(
        InputError, match="there is no column other than price to predict it from: the table has price, ride"
    ):
        roles(table, "price", group="ride")


def test_text_among_features() -> None:
    table = RIDES.assign(slope=["7", "5", "steep", "4", "8"])
    with pytest.raises(InputError, match="column slope holds 'steep' in row 3, which is not a number: write"):
        samples(table, roles(table, "price", group="ride"))


def test_a_target_that_is_missing_or_differs() -> None:
    result = roles(RIDES, "price", group="ride")
    assert samples(RIDES.assign(price=[1, 2, np.nan, np.nan, 1]), result)[1].tolist() == [
        1,
        2,
    ]  # one per group is enough
    without = RIDES.assign(price=[np.nan, 2, np.nan, np.nan, np.nan])
    np.testing.assert_equal(samples(without, result)[1], [np.nan, 2])
    known, left_out = answered(without, result)
    assert (known["ride"].tolist(), known["price"].tolist(), left_out) == (["a", "a"], [2, 2], 1)
    with pytest.raises(
        InputError, match=r"column price has several values in group 'b' \(3.0 in row 1, 4.0 in row 3\): one for each"
    ):
        samples(RIDES.assign(price=[3.0, 1, 4, 1, 3]), result)


def test_series_with_features_end_where_the_target_does() -> None:
    table = pd.DataFrame(
        {
            "shop": ["a"] * 5 + ["b"] * 4,
            "day": [*pd.date_range("2024-01-01", periods=5), *pd.date_range("2024-03-01", periods=4)],
            "sold": [1, np.nan, 3, np.nan, np.nan, 5, 6, 7, np.nan],
            "warm": np.arange(9.0),
        }
    ).sample(frac=1, random_state=0)
    history, future = series(table, roles(table, "sold", time="day", group="shop", features=["warm"], forecast=True))
    assert history.columns.tolist() == ["unique_id", "ds", "y", "warm"]
    assert history["warm"].tolist() == [0, 1, 2, 5, 6, 7]  # the gap within stays, the end is removed
    assert future["warm"].tolist() == [3, 4, 8]
    assert "y" not in future.columns


def test_series_without_features_keep_their_rows() -> None:
    table = pd.DataFrame({"day": ["2024-01-02", "2024-01-01"], "sold": [2.0, np.nan]})
    history, future = series(table, roles(table, "sold", time="day", forecast=True))
    assert future is None
    assert history["unique_id"].tolist() == ["sold", "sold"]
    assert history["ds"].tolist() == [pd.Timestamp("2024-01-02"), pd.Timestamp("2024-01-01")]


def test_a_frequency_makes_missing_steps_visible() -> None:
    table = pd.DataFrame({"day": ["2024-01-01", "2024-01-04", "2024-01-02"], "sold": [1.0, 4.0, 2.0]})
    history, _ = series(table, roles(table, "sold", time="day", forecast=True, frequency="D"))
    assert history["y"].tolist()[:2] + history["y"].tolist()[3:] == [1, 2, 4]
    assert np.isnan(history["y"].iloc[2])
    twice = pd.concat([table, table.iloc[:1]], ignore_index=True)
    with pytest.raises(
        InputError, match="series 'sold' has 2024-01-01 00:00:00 twice, in row 1 and row 4: keep one row"
    ):
        series(twice, roles(twice, "sold", time="day", forecast=True, frequency="D"))
    with pytest.raises(InputError, match="--frequency nonsense is invalid"):
        series(table, roles(table, "sold", time="day", forecast=True, frequency="nonsense"))


def test_invalid_series_are_refused() -> None:
    table = pd.DataFrame({"day": ["first", "second"], "sold": [1.0, 2.0], "word": ["a", "b"]})
    with pytest.raises(
        InputError, match=r"day must hold dates like 2024-01-31 .*, or whole numbers, got 'first' in row 1"
    ):
        series(table, roles(table, "sold", time="day", forecast=True))
    table["day"] = [1, 2]
    with pytest.raises(InputError, match="column word holds 'a' in row 1, which is not a number: write numbers"):
        series(table, roles(table, "word", time="day", forecast=True))
