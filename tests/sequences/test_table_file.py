"""Table files in their common forms; errors are one sentence that names the line."""

import bz2
import gzip
import io
import lzma
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from headgate.errors import InputError
from headgate.sequences.table import assign_roles, samples
from headgate.sequences.table_file import read_table

PLAIN = b"a,b\n1,0.5\n2,1.5\n"


def read(folder: Path, content: bytes | str, name: str = "t.csv") -> tuple[pd.DataFrame, list[str]]:
    """Return the table in a file of this content, and the notes about it."""
    path, said = folder / name, []
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    table = read_table(str(path), say=said.append)
    return table, [text.replace(str(path), "PATH") for text in said]


def refused(folder: Path, content: bytes | str, name: str = "t.csv") -> str:
    with pytest.raises(InputError) as caught:
        read(folder, content, name)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(folder / name), "PATH")


def zipped(*names: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in names:
            archive.writestr(name, PLAIN)
    return content.getvalue()


def zstandard(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as file:
        file.write(content)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a;b\n1;0.5\n2;1.5\n", ["PATH: columns separated by semicolons"]),
        ("a;b\n1;0,5\n2;1,5\n", ["PATH: columns separated by semicolons; decimal commas"]),
        ("a\tb\n1\t0,5\n2\t1,5\n", ["PATH: columns separated by tabs; decimal commas"]),
        ("a|b\n1|0.5\n2|1.5", ["PATH: columns separated by bars"]),
        ("sep=;\r\na;b\r\n1;0,5\r\n2;1,5\r\n", ["PATH: columns separated by semicolons; decimal commas"]),
        ("\ufeffa,b\n1,0.5\n2,1.5\n", []),
        ("a,b\r\n1,0.5\r\n\r\n2,1.5\r\n\r\n", []),
        ("\n\na, b \n1, 0.5\n2, 1.5\n", []),
        ("a,b,\n1,0.5,\n2,1.5,\n", []),
        ('a,b\n1,"0,5"\n2,"1,5"\n', ["PATH: column b: decimal commas"]),
        ("a,b\n1,0.5%\n2,1.5 %\n", ["PATH: column b: percent signs left out"]),
    ],
)
def test_forms_of_csv(tmp_path: Path, content: str, said: list[str]) -> None:
    table, result = read(tmp_path, content)
    assert table.to_dict("list") == {"a": [1, 2], "b": [0.5, 1.5]}
    assert result == said


def test_utf_16_as_excel_writes_it(tmp_path: Path) -> None:
    table, said = read(tmp_path, "a\tb\n1\t0,5\n".encode("utf-16"))
    assert table.to_dict("list") == {"a": [1], "b": [0.5]}
    assert said == ["PATH: columns separated by tabs; decimal commas"]


@pytest.mark.parametrize(
    ("content", "values"),
    [
        ('x\n"1,234.5"\n"12,345,678"\n7\n', [1234.5, 12345678, 7]),
        ("x;y\n1.234,5;1\n12.345.678;1\n7;1\n", [1234.5, 12345678, 7]),
        ("x;y\n1 234,5;1\n12\u00a0345\u202f678;1\n7;1\n", [1234.5, 12345678, 7]),
        ("x\n99999999999999999999999\n-1\n3\n", [1e23, -1, 3]),
        ("x\n1e400\n-inf\n3\n", [np.inf, -np.inf, 3]),
    ],
)
def test_large_numbers(tmp_path: Path, content: str, values: list[float]) -> None:
    table, _ = read(tmp_path, content)
    np.testing.assert_allclose(table["x"], values, rtol=1e-15)


@pytest.mark.parametrize("name", ["t.csv.gz", "t.csv.bz2", "t.csv.xz", "t.csv.zst", "t.zip", "named.csv"])
def test_compressed_files(tmp_path: Path, name: str) -> None:
    """They are recognized by their content."""
    content = {
        "t.csv.gz": gzip.compress(PLAIN), "t.csv.bz2": bz2.compress(PLAIN), "t.csv.xz": lzma.compress(PLAIN),
        "t.csv.zst": zstandard(PLAIN), "t.zip": zipped("t/", "t/a.csv", "__MACOSX/a"),
        "named.csv": gzip.compress(PLAIN),
    }[name]  # fmt: skip
    table, said = read(tmp_path, content, name)
    assert table.to_dict("list") == {"a": [1, 2], "b": [0.5, 1.5]}
    assert said == []


def test_standard_input_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(gzip.compress(PLAIN))))
    assert read_table("-").to_dict("list") == {"a": [1, 2], "b": [0.5, 1.5]}
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InputError, match=r"^standard input is closed: give a \.csv or \.parquet file$"):
        read_table("-")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1....", "PATH is an Excel workbook: save it as CSV in Excel"),
        (zipped("[Content_Types].xml", "xl/workbook.xml"), "PATH is a workbook of Excel or LibreOffice, "
         "not CSV: open it there and save it as CSV"),
        (zipped("a.csv", "b.csv"), "PATH must hold one table, but holds 2 files (a.csv, b.csv): unpack it"),
        (gzip.compress(PLAIN)[:-9], "PATH cannot be read as CSV: it is damaged ("),
        (gzip.compress(b"a.csv".ljust(257, b"\0") + b"ustar\0".ljust(300, b"\0")), "PATH is a tar archive: unpack it"),
        (b"<!DOCTYPE html>\n<html>", "PATH is a web page or XML, not CSV: download the table itself"),
        (b"a,b\n1\x00,2\n", "PATH cannot be read as CSV: it contains zero bytes, which no text has"),
        (b"a,b\n1,2\nx,caf\xe9\n", "PATH cannot be read as CSV: 'utf-8' codec can't decode byte 0xe9 in line 3: "
                                   "save it"),
        (b"a,b,a\n1,2,3\n", "PATH has two columns named a: rename one of them"),
        (b"a,b\n1,2,3\n1,2,3\n", "PATH has rows with more than the 2 fields of its first line (a, b): name every "
                                 "column"),
        (b"a,b\n1,2\n\n3,4\n1,2,3\n", "PATH cannot be read as CSV: line 5 has 3 fields, but the first line 2: "),
        (b'a,b\n1,"2\n3,4\n', "PATH cannot be read as CSV: "),
        (b"a;b\n", "PATH has no rows: at least one is needed"),
        (b"\n\n", "PATH cannot be read as CSV: it is empty: give a table with column names"),
    ],
    ids=range(14),
)  # fmt: skip
def test_files_that_are_not_tables_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    assert refused(tmp_path, content).startswith(message)


def test_directories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is a directory: give a \.csv or \.parquet file in it$"):
        read_table(str(tmp_path))


def test_a_first_line_of_numbers_warns(tmp_path: Path) -> None:
    with pytest.warns(
        UserWarning, match=r"names the columns, but has only numbers \(1, 0\.5\): if these are values, put"
    ):
        read(tmp_path, "1,0.5\n2,1.5\n")
    with warnings.catch_warnings():
        read(tmp_path, "2019,2020,city\n2,1.5,x\n")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("a,y\n1,1\n,1\n", 3),
        ("a,y\r\n1,1\r\n\r\n   \r\n,1\r\n", 5),
        ('a,y,z\n1,1,"two\nlines"\n,1,x\n', 4),
        ("\na,y\n1,1\n,1\n", 4),
        ("sep=,\na,y\n1,1\n,1\n", 4),
        ('a,y,z\n1,1,"two\nlines"\n\n1,2,x\n,1,x', 6),
    ],
)
def test_errors_name_the_line_of_the_file(tmp_path: Path, content: str, line: int) -> None:
    table, _ = read(tmp_path, content)
    given: dict[str, Any] = {"time": None, "group": None, "features": ["a"], "forecast": False, "task": "auto"}
    with pytest.raises(InputError) as caught:
        samples(table, assign_roles(table, "y", frequency=None, **given))
    assert str(caught.value) == (
        f"column a has no value in line {line} (1 in all): fill in numbers, or leave such rows out"
    )


def test_columns_without_a_name(tmp_path: Path) -> None:
    """Neither an index that pandas wrote nor an empty column, as from Excel, is a feature."""
    table, _ = read(tmp_path, ",x0,x1,y,\n0,5,6,1,\n1,7,8,2,\n")
    assert table.columns.tolist() == ["Unnamed: 0", "x0", "x1", "y"]
    said: list[str] = []
    given: dict[str, Any] = {"time": None, "group": None, "forecast": False, "task": "auto", "frequency": None}
    assert assign_roles(table, "y", features=None, say=said.append, **given).features == ("x0", "x1")
    assert said == ["the column without a name is left out: --features 'Unnamed: 0' would include it"]


def parquet(folder: Path, table: pd.DataFrame | pa.Table, **options: Any) -> pd.DataFrame:
    path = folder / "t.parquet"
    if isinstance(table, pd.DataFrame):
        table.to_parquet(path, **options)
    else:
        pyarrow.parquet.write_table(table, path)
    return read_table(str(path))


def test_an_index_of_dates_in_parquet_orders_the_steps(tmp_path: Path) -> None:
    days = pd.date_range("2024-01-01", periods=3)
    given: dict[str, Any] = {"time": None, "group": None, "features": None, "task": "auto", "frequency": None}
    for index, name in ((days, "index"), (days.rename("day"), "day")):
        table = parquet(tmp_path, pd.DataFrame({"y": [1.0, 2, 3], "x": [4, 5, 6]}, index=index))
        assert table[name].tolist() == days.tolist()
        assert assign_roles(table, "y", forecast=True, **given).time == name
        assert assign_roles(table, "y", forecast=False, **given).features == ("x",)
    table = parquet(tmp_path, pd.DataFrame({"y": [1.0, 2, 3]}, index=[7, 8, 9]))
    assert table.columns.tolist() == ["y"]


def test_types_of_parquet(tmp_path: Path) -> None:
    from decimal import Decimal

    table = parquet(
        tmp_path,
        pa.table(
            {
                "decimal": pa.array([Decimal("1.5"), None], pa.decimal128(5, 2)),
                "bytes": pa.array([b"a", b"b"]),
                "categories": pa.array(["u", "v"]).dictionary_encode(),
                "lists": pa.array([[1], [2, 3]]),
                "structs": pa.array([{"a": 1}, {"a": 2}]),
                "raw": pa.array([b"\xff\xfe", b"\x00"]),
                "days": pa.array([1, 2], pa.date32()),
                "y": [1.0, 2.0],
            }
        ),
    )
    np.testing.assert_array_equal(table["decimal"], [1.5, np.nan])
    assert table["bytes"].tolist() == ["a", "b"]
    given: dict[str, Any] = {"time": None, "group": None, "forecast": False, "task": "auto", "frequency": None}
    assert assign_roles(table, "categories", features=["y"], **given).task == "classification"
    for name, called in (("lists", "lists"), ("structs", "structs"), ("raw", "bytes")):
        message = rf"^column {name} holds {called} \(row 1\): give a column of numbers or text$"
        with pytest.raises(InputError, match=message):
            assign_roles(table, name, features=["y"], **given)
        with pytest.raises(InputError, match=f"^column {name} holds "):
            samples(table, assign_roles(table, "y", features=[name], **given))
        with pytest.raises(InputError, match=message):
            samples(table, assign_roles(table, "y", features=["decimal"], **{**given, "group": name}).__class__(
                "regression", "y", ("y",), None, name))  # fmt: skip
    with pytest.raises(InputError, match=r"^column days holds dates, not numbers or classes: name another --target$"):
        assign_roles(table, "days", features=["y"], **given)


def test_nullable_numbers(tmp_path: Path) -> None:
    table = parquet(tmp_path, pd.DataFrame({"a": pd.array([1, None], "Int64"), "b": pd.array([1, 2], "Int32")}))
    assert [str(kind) for kind in table.dtypes] == ["float64", "int32"]
