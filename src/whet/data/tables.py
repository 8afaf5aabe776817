"""Tables as a mapping of columns, whatever they come as; csv files, plain or gzipped."""

from __future__ import annotations

import csv
import gzip
import io
import math
import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from whet import parsing
from whet.errors import InputError

Table = dict[str, list[Any]]
DAMAGED = (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error)


def text(value: Any) -> str:
    """A field as text; what is missing (None, NaN, pandas' NA) is empty.

    A whole number is written the same however it was kept: 3, 3.0 and "3" are one category, as a
    column of integers becomes one of floats as soon as a value is missing.

    >>> text(3.0), text(" a "), text(None), text(float("nan"))
    ('3', 'a', '', '')
    """
    if isinstance(value, str):
        return value.strip()
    value = value.item() if hasattr(value, "item") else value
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return ""
    if isinstance(value, float):
        if math.isnan(value):
            return ""
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value).strip()


def number(field: str) -> float | None:
    """A field as a finite number; None where it is not one.

    >>> number("1e3"), number("inf"), number("1_000")
    (1000.0, None, None)
    """
    try:
        value = float(field)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in field else None


def columns_of(table: Any, what: str = "the table") -> Table:
    """Rows as mappings, a mapping of columns, or a DataFrame, as a mapping of columns.

    A row that lacks a column has a missing value there.

    Raises:
        InputError: it is none of these, or its columns differ in length.

    >>> columns_of([{"a": 1, "b": "x"}, {"a": 2}])
    {'a': [1, 2], 'b': ['x', None]}
    """
    if hasattr(table, "iloc") and hasattr(table, "columns"):
        return {str(name): table[name].tolist() for name in table.columns}
    if isinstance(table, Mapping):
        found = {str(name): _listed(name, column, what) for name, column in table.items()}
    elif isinstance(table, Sequence) and all(isinstance(row, Mapping) for row in table):
        names = dict.fromkeys(name for row in table for name in row)
        found = {str(name): [row.get(name) for row in table] for name in names}
    else:
        raise InputError(
            f"{what} is a {type(table).__name__}; give rows as mappings, a mapping of columns, or "
            "a DataFrame."
        )
    lengths = {name: len(column) for name, column in found.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"the columns of {what} differ in length: {lengths}.")
    return found


def _listed(name: Any, column: Any, what: str) -> list[Any]:
    if isinstance(column, str) or not hasattr(column, "__iter__"):
        raise InputError(f"column {name!r} of {what} is a {type(column).__name__}; give a list.")
    return column.tolist() if hasattr(column, "tolist") else list(column)


@contextmanager
def opened(path: Path) -> Iterator[IO[str]]:
    """A text file, plain or gzipped; what is damaged is named.

    Raises:
        InputError: it cannot be read, is cut short, or is not UTF-8.
    """
    try:
        with path.open("rb") as raw:
            whole = io.BufferedReader(_Unpacked(raw), 1 << 16) if path.suffix == ".gz" else raw
            yield io.TextIOWrapper(whole, encoding="utf-8-sig", newline="")
    except DAMAGED as error:
        raise InputError(f"{path} cannot be read ({error}). Get the file again.") from error


class _Unpacked(io.RawIOBase):
    """A gzipped file that stops where it turns out to be a bomb."""

    def __init__(self, packed: IO[bytes]) -> None:
        self.file, self.told = gzip.GzipFile(fileobj=packed), 0
        self.size = os.fstat(packed.fileno()).st_size

    def readable(self) -> bool:
        return True

    def readinto(self, place: Any) -> int:
        part = self.file.read(len(place))
        place[: len(part)] = part
        self.told += len(part)
        try:
            parsing.check_unpacked(self.size, self.told)
        except ValueError as error:
            raise OSError(str(error)) from error
        return len(part)


def read_table(path: str | Path) -> Table:
    """A csv file with a header, plain or gzipped, as columns of text; an empty field is missing.

    Fields are parted by the one of comma, semicolon and tab that the header has most of.

    Raises:
        InputError: the file is damaged or empty, a header stands twice, or a line has another
            number of fields than the header.
    """
    path = Path(path)
    with opened(path) as file:
        first = file.readline()
        parting = max(",;\t", key=re.sub('"[^"]*"', "", first).count)
        header = [name.strip() for name in next(csv.reader([first], delimiter=parting), [])]
        if not header or len(set(header)) < len(header):
            raise InputError(f"{path} has no header, or one that names a column twice: {header}.")
        columns: list[list[Any]] = [[] for _ in header]
        reader = csv.reader(file, delimiter=parting)
        for row in filter(None, reader):
            if len(row) != len(header):
                raise InputError(
                    f"{path}, line {reader.line_num + 1}: {len(row)} fields; the header has "
                    f"{len(header)}."
                )
            for column, field in zip(columns, row, strict=True):
                column.append(field.strip())
    if not columns[0]:
        raise InputError(f"{path} has a header and no row.")
    return dict(zip(header, columns, strict=True))
