"""metrics.csv: one line for each update that was read, a column for each number."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from whet import whole
from whet.errors import InputError, WhetError
from whet.logs.log import EVERY, Log

if TYPE_CHECKING:
    from whet.run import Run

NAME = "metrics.csv"
KEY = "update"


class Table:
    """A CSV file with one line for each update, in order; it outlives what writes it.

    A killed process leaves at most its last line torn. A column that was not there before is
    added by writing the file anew, whole or not at all.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns: list[str] = []
        self._last, self._at = -1, 0  # the last line's update, and where it begins

    def open(self, until: int) -> int:
        """Continue after an update: later lines go, and torn ones; says how many were damaged.

        Raises:
            InputError: the file is another one's.
            WhetError: the disk refused.
        """
        with self._writing():
            data = self.path.read_bytes() if self.path.exists() else b""
        header, rows, damaged = self._read(data)
        kept = [row for row in rows if int(row[0]) <= until]
        self.columns = header
        text = _lines([header, *kept]) if header else b""
        if text != data:
            with self._writing():
                whole.replace(self.path, text)
        self._last = int(kept[-1][0]) if kept else -1
        self._at = len(text) - (len(_lines(kept[-1:])) if kept else 0)
        return damaged

    def _read(self, data: bytes) -> tuple[list[str], list[list[str]], int]:
        if not data:
            return [], [], 0
        ended = data[: data.rfind(b"\n") + 1]  # what follows is torn
        first, *lines = ended.decode("utf-8", "replace").split("\n")[:-1] or [""]
        header = _fields(first)
        if header[:1] != [KEY]:
            raise InputError(
                f"{self.path} is no log of whet: its first column is not {KEY!r}. Move it away, "
                "or choose another folder."
            )
        rows: list[list[str]] = []
        for line in lines:
            row = _fields(line)
            after = int(rows[-1][0]) if rows else -1
            number = len(row) == len(header) and row[0].isdecimal() and len(row[0]) < 19
            if number and int(row[0]) > after:
                rows.append(row)
        return header, rows, len(lines) - len(rows)

    def put(self, row: Mapping[str, object]) -> None:
        """Add a line; one for the same update as the last takes that one's place.

        Raises:
            WhetError: the disk refused.
        """
        with self._writing():
            new = [name for name in row if name not in self.columns]
            if new:
                self._widen(new)
            line = _lines([[_text(row.get(name)) for name in self.columns]])
            with self.path.open("r+b", buffering=0) as file:
                size = file.seek(0, os.SEEK_END)
                self._at = self._at if row[KEY] == self._last else size
                file.truncate(self._at)
                file.seek(self._at)
                file.write(line)
        self._last = int(str(row[KEY]))

    def _widen(self, new: list[str]) -> None:
        data = self.path.read_bytes() if self.path.exists() else b""
        _, rows, _ = self._read(data)
        self.columns = [*self.columns, *new]
        text = _lines([self.columns, *(row + [""] * len(new) for row in rows)])
        whole.replace(self.path, text)
        last = _lines([rows[-1] + [""] * len(new)]) if rows else b""
        self._at = len(text) - len(last)

    def sync(self) -> None:
        """Wait until the disk has what was written."""
        if self.columns:
            with self._writing(), self.path.open("rb") as file:
                os.fsync(file.fileno())

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise WhetError(
                f"{self.path} cannot be written ({error.strerror or error}). Make room or mend "
                "the permissions and run the same command again, or log nothing: log=None."
            ) from error


def _fields(line: str) -> list[str]:
    try:
        return next(csv.reader([line], strict=True), [])
    except csv.Error:
        return []


def _lines(rows: Iterable[Iterable[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _text(value: object) -> str:
    return "" if value is None else repr(value)


class CSV(Log):
    """The numbers of a run in `metrics.csv`, one line for each update that was read.

    `update`, `stage` and `epoch` say where; empty fields were not read there. A run that is
    continued from a checkpoint continues the file from there, so that no update stands twice.

    Args:
        every: updates between lines; an evaluation has one too.
        path: where, if not `metrics.csv` in the run's folder.

    Raises:
        InputError: the run has no folder and `path` is not given, or the file is no log.
        WhetError: the disk refused.
    """

    def __init__(self, every: int = EVERY, path: str | Path | None = None) -> None:
        super().__init__(every)
        self.path = None if path is None else Path(path)

    def open(self, run: Run) -> None:
        if self.path is None and run.folder is None:
            raise InputError("CSV() has no place: pass folder= to Run, or path= to CSV.")
        path = self.path if run.folder is None else self.path or run.folder / NAME
        assert path is not None
        self._table = Table(path)
        damaged = self._table.open(run.updates)
        if damaged:
            run.notes.append(f"{path}: {damaged} damaged line(s) left out.")

    def write(self, run: Run, values: dict[str, float]) -> None:
        where = {"stage": run.stage_number, "epoch": run.stack.run.epoch}
        self._table.put({KEY: run.updates, **where, **values})

    def saved(self, run: Run, place: object) -> None:
        super().saved(run, place)
        if self._open:
            self._table.sync()
