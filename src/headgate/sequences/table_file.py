"""Table files: CSV with any usual separator, compressed or not, and Parquet."""

import bz2
import csv
import errno
import gzip
import io
import lzma
import re
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from headgate.errors import InputError, one_line

Say = Callable[[str], None]

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_KINDS = (  # the first bytes of files that are not CSV
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Excel workbook: save it as CSV in Excel"),
    (b"%PDF", "a PDF document: give a table as CSV"),
    (b"ARROW1", "an Arrow file: write it as Parquet"),
    (b"SQLite format 3", "an SQLite database: export a table as CSV"),
)
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_COMMA_NUMBER = r"[+-]?\d+(?:,\d+)?(?:[eE][+-]?\d+)?"
_THOUSANDS = r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?"
_OTHER_THOUSANDS = r"[+-]?\d{1,3}(?:[.'\u00a0\u202f ]\d{3})+(?:,\d+)?"  # 1.234,5 and 1 234,5


def read_table(path: str, *, say: Say = lambda text: None) -> pd.DataFrame:
    """Read a CSV or Parquet file, compressed or not; "-" reads CSV from standard input.

    The index, named "line" or "row", is the position of each row in the file. ``say`` is called with what is unusual
    about a CSV file, such as its separator. Raises InputError for a file that cannot be read.
    """
    if path == "-" and sys.stdin is None:
        raise InputError("standard input is closed: give a .csv or .parquet file")
    if path != "-" and Path(path).is_dir():
        raise InputError(f"{path} is a directory: give a .csv or .parquet file in it")
    if path != "-" and not Path(path).exists():
        raise InputError(f"there is no file {path}: give a .csv or .parquet file, or - for standard input")
    named = path.endswith(".parquet")
    try:
        table = _parquet(path) if named else _parse(_content(path), path, say)
    except InputError:
        raise
    except Exception as error:  # pandas, Arrow and the decompressors raise many kinds for damaged files
        if isinstance(error, ImportError) or (isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)):
            raise
        kind = "Parquet" if named else "CSV"
        text = one_line(error) if str(error) else repr(error)
        raise InputError(f"{path} cannot be read as {kind}: {text}: check the file") from None
    if not len(table):
        raise InputError(f"{path} has no rows: at least one is needed")
    return table


def place(table: Any, position: int) -> str:
    """Return the position in its file of a row of a table or column.

    >>> place(pd.DataFrame({"a": [1, 2]}), 1)
    'row 2'
    """
    index = table.index
    if index.name in ("line", "row"):
        return f"{index.name} {index[position]}"
    return f"row {(index[position] if pd.api.types.is_integer_dtype(index) else position) + 1}"


def _content(path: str) -> bytes:
    if path != "-":
        return Path(path).read_bytes()
    stream = getattr(sys.stdin, "buffer", None)
    content: bytes = sys.stdin.read().encode() if stream is None else stream.read()
    return content


def _parse(content: bytes, path: str, say: Say) -> pd.DataFrame:
    content = _unpacked(content, path)
    if content.startswith(b"PAR1"):
        return _parquet(io.BytesIO(content))
    if kind := next((kind for begin, kind in _KINDS if content.startswith(begin)), None):
        raise InputError(f"{path} is {kind}")
    if content[257:262] == b"ustar":
        raise InputError(f"{path} is a tar archive: unpack it and give the table in it")
    return _csv(_text(content, path), path, say)


def _unpacked(content: bytes, path: str) -> bytes:
    """Decompress the content of a file that is compressed, to judge by its first bytes, whatever its name."""
    try:
        if content.startswith(b"\x1f\x8b"):
            return gzip.decompress(content)
        if content.startswith(b"BZh"):
            return bz2.decompress(content)
        if content.startswith(b"\xfd7zXZ\x00"):
            return lzma.decompress(content)
        if content.startswith(b"\x28\xb5\x2f\xfd"):
            import pyarrow

            unpacked: bytes = pyarrow.CompressedInputStream(pyarrow.BufferReader(content), "zstd").read()
            return unpacked
        if content.startswith(b"PK\x03\x04"):
            return _member(content, path)
    except (
        EOFError,
        OSError,
        ValueError,
        lzma.LZMAError,
        zlib.error,
        zipfile.BadZipFile,
        NotImplementedError,
    ) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read as CSV: it is damaged ({one_line(error)}): restore it") from None
    return content


def _member(content: bytes, path: str) -> bytes:
    """Return the only file in a zip archive. Raises InputError if there are several."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [n for n in archive.namelist() if not n.endswith("/") and not n.startswith("__MACOSX/")]
        if "[Content_Types].xml" in names or "mimetype" in names:
            raise InputError(f"{path} is a workbook of Excel or LibreOffice, not CSV: open it there and save it as CSV")
        if len(names) != 1:
            first = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            raise InputError(f"{path} must hold one table, but holds {len(names)} files ({first}): unpack it")
        try:
            return archive.read(names[0])
        except RuntimeError as error:  # for a member with a password
            raise InputError(f"{path} cannot be unpacked ({one_line(error)}): unpack it, and give the table") from None


def _text(content: bytes, path: str) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) and len(content) > 2 and len(content) % 2 == 0:
        with_mark = content.decode("utf-16", "replace")  # which Excel calls Unicode text
        if "\ufffd" not in with_mark:
            return with_mark
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path} cannot be read as CSV: 'utf-8' codec can't decode byte 0x{content[error.start]:02x} in line "
            f"{line}: save it as UTF-8"
        ) from None
    if "\0" in text[:100_000]:
        raise InputError(
            f"{path} cannot be read as CSV: it contains zero bytes, which no text has: give a .csv or .parquet file"
        )
    if re.match(r"\s*<(!doctype|html|\?xml)", text[:100], re.IGNORECASE):
        raise InputError(f"{path} is a web page or XML, not CSV: download the table itself")
    return text


def _csv(text: str, path: str, say: Say) -> pd.DataFrame:
    first, skipped = 1, 0  # the line of the header in text, and the lines before text
    if declared := re.match(r"sep=(.)\r?\n", text):  # a line for Excel
        text, skipped = text[declared.end() :], 1
    records = _records(text, declared[1] if declared else None, path)
    separator, header = records
    names = [name.strip() for name in header]
    if twice := next((n for n in names if n and names.count(n) > 1), None):
        raise InputError(f"{path} has two columns named {twice}: rename one of them")
    decimal = "."
    if separator != "," and re.search(
        rf"(?:^|[{separator}])\s*\"?[+-]?\d+,\d+\"?\s*(?:[{separator}]|\r?$)", text, re.M
    ):
        decimal = ","
    if separator != ",":
        say(
            f"{path}: columns separated by {SEPARATORS.get(separator, repr(separator))}"
            + ("; decimal commas" if decimal == "," else "")
        )
    named = [name or f"Unnamed: {number}" for number, name in enumerate(names)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(
                io.StringIO(text),
                sep=separator,
                decimal=decimal,
                header=0,
                names=named,
                index_col=False,
                skipinitialspace=True,
                low_memory=False,
            )
    except pd.errors.ParserWarning:
        raise InputError(
            f"{path} has rows with more than the {len(named)} fields of its first line ({_few(named)}): name every "
            "column"
        ) from None
    except pd.errors.ParserError as error:
        raise InputError(f"{path} cannot be read as CSV: {_ragged(str(error), first + skipped - 1)}") from None
    unnamed = [n for n, name in zip(named, names, strict=True) if not name]
    table = table.drop(columns=[n for n in unnamed if table[n].isna().all()])
    table.attrs["unnamed"] = [n for n in unnamed if n in table.columns]
    if names and all(re.fullmatch(_NUMBER, name) for name in names):
        warnings.warn(
            f"the first line of {path} names the columns, but has only numbers ({_few(names)}): if these are values, "
            "put a line with names above them",
            stacklevel=2,
        )
    table.index = _lines(text, separator, len(table), first + skipped)
    for name in table.columns:
        if not pd.api.types.is_numeric_dtype(table[name]):
            table[name], how = _numbers(table[name], decimal)
            if how:
                say(f"{path}: column {name}: {how}")
    return table


def _records(text: str, separator: str | None, path: str) -> tuple[str, list[str]]:
    """Return the separator, by which the first rows have equal lengths if possible, and the names in the first line."""
    parsed: dict[str, list[list[str]]] = {}
    for candidate in [separator] if separator else SEPARATORS:
        rows = csv.reader(io.StringIO(text[:200_000], newline=""), delimiter=candidate, skipinitialspace=True)
        parsed[candidate] = []
        try:
            for row in rows:
                if any(cell.strip() for cell in row):
                    parsed[candidate].append(row)
                if len(parsed[candidate]) > 50:
                    break
        except csv.Error:  # such as a field of megabytes: pandas has the better message
            continue
    if not any(parsed.values()):
        raise InputError(f"{path} cannot be read as CSV: it is empty: give a table with column names")
    if separator is None:
        width = {c: len(rows[0]) for c, rows in parsed.items() if rows}
        agreed = {c: n for c, n in width.items() if n > 1 and all(len(row) == n for row in parsed[c][1:-1])}
        separator = max(agreed or width, key=lambda c: (agreed or width)[c])  # the first of these, a comma first
    return separator, parsed[separator][0]


def _ragged(message: str, before: int) -> str:
    """Reword the message of pandas about a row that is longer than the first, with the line of the file."""
    if match := re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", message):
        expected, line, saw = map(int, match.groups())
        return f"line {line + before} has {saw} fields, but the first line {expected}: quote or remove separators in it"
    return " ".join(message.split()) + ": check the quotation marks"


def _lines(text: str, separator: str, rows: int, header: int) -> pd.Index:
    """Return the line of the file in which each row begins, or row numbers if it cannot be determined."""
    breaks = text.count("\n") + (not text.endswith("\n"))
    if breaks == rows + 1 and "\r" not in text.replace("\r\n", ""):
        return pd.RangeIndex(header + 1, header + 1 + rows, name="line")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    lines, before = [], 0
    try:
        for row in reader:
            if any(cell.strip() for cell in row) or len(row) > 1:
                lines.append(header + before)
            before = reader.line_num
    except csv.Error:
        lines = []
    if len(lines) != rows + 1:  # csv and pandas disagree: no line is better than a wrong one
        return pd.RangeIndex(1, rows + 1, name="row")
    return pd.Index(lines[1:], name="line")


def _numbers(column: pd.Series, decimal: str) -> tuple[pd.Series, str]:
    """Convert a column of numbers with percent signs, thousands separators or decimal commas; also return how.

    Any other column is returned unchanged.
    """
    present = column.dropna()
    if not len(present) or not all(isinstance(value, str) for value in present):
        values = pd.to_numeric(column, errors="coerce")  # converts whole numbers too large for 64 bits
        whole = (
            len(present) and not any(isinstance(v, str | bool) for v in present) and values.isna().equals(column.isna())
        )
        return (values.astype(np.float64) if whole else column), ""
    text = present.str.strip()
    percent = text.iloc[0].endswith("%")
    if percent:
        if not text.str.endswith("%").all():
            return column, ""
        text = text.str.removesuffix("%").str.rstrip()
    shapes = [
        (_NUMBER, None, "", "."),
        (f"{_NUMBER}|{_THOUSANDS}", "commas read as thousands separators", ",", "."),
        (f"{_COMMA_NUMBER}|{_OTHER_THOUSANDS}", "decimal commas", ".'\u00a0\u202f ", ","),
    ]
    if decimal == ",":
        shapes = [(*shapes[2][:1], "points or spaces read as thousands separators", *shapes[2][2:]), shapes[0]]
    for shape, how, grouping, point in shapes:
        pattern = re.compile(shape)
        if pattern.fullmatch(text.iloc[0]) and text.map(pattern.fullmatch).notna().all():
            for letter in grouping:
                text = text.str.replace(letter, "", regex=False)
            note = ", ".join(filter(None, (how, "percent signs left out" if percent else None)))
            return text.str.replace(point, ".", regex=False).astype(np.float64).reindex(column.index), note
    return column, ""


def _parquet(file: str | io.BytesIO) -> pd.DataFrame:
    table = pd.read_parquet(file)
    named = [name for name in table.index.names if name is not None]
    dates = isinstance(table.index, pd.DatetimeIndex | pd.PeriodIndex)
    if named or dates:
        index = table.index.to_frame(index=False) if named else pd.DataFrame({"index": table.index})
        new = [name for name in index.columns if name not in table.columns]
        table = pd.concat([index[new], table.reset_index(drop=True)], axis=1)
        table.attrs["index"] = list(map(str, new))
    else:
        table.attrs["index"] = []
    table.attrs["dates"] = table.attrs["index"][:1] if dates else []
    table.columns = pd.Index(list(map(str, table.columns)))
    table.index = pd.RangeIndex(1, len(table) + 1, name="row")
    for name in table.columns:
        table[name] = _plain(table[name])
    return table


def _plain(column: pd.Series) -> pd.Series:
    """Convert a column of Parquet types to NumPy numbers, dates or text, if possible."""
    kind = column.dtype
    if isinstance(kind, pd.CategoricalDtype):
        column = column.astype(kind.categories.dtype)
    elif pd.api.types.is_extension_array_dtype(kind) and pd.api.types.is_numeric_dtype(kind):
        whole = not column.isna().any()
        column = column.astype(kind.numpy_dtype if whole else np.float64)
    if column.dtype != object:
        return column
    present = column.dropna()
    kinds = set(map(type, present))
    if kinds == {bytes}:  # text that was stored as binary
        try:
            return column.map(lambda value: value.decode() if isinstance(value, bytes) else value)
        except UnicodeDecodeError:
            return column
    if kinds <= {Decimal, int, float} and kinds:
        return pd.to_numeric(column.map(lambda v: float(v) if isinstance(v, Decimal) else v)).astype(np.float64)
    return column


def _few(names: list[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
