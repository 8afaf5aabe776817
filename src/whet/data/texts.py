"""Texts: JSON lines with `text` and `label`, or plain lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from whet import parsing
from whet.data.arrays import target_fields
from whet.data.labels import Labels
from whet.data.parts import Part
from whet.data.tables import opened
from whet.errors import InputError

Row = dict[str, Any]
MOST = 1 << 62  # a number of a class; int64 ends a little above


def read_rows(files: Mapping[str, Path], wishes: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `Loaded` from JSON lines.

    `label` is a number from 0, with its name in `label_name`, or the name itself; further keys of
    the rows are kept.
    """
    rows = {part: _rows(path) for part, path in files.items()}
    first = next(iter(files.values()))
    flat = [row for part in rows.values() for row in part]
    if not any("label" in row for row in flat):
        parts = {part: _part(own, None) for part, own in rows.items()}
        return {**parts, "kind": "texts"}
    if all(isinstance(row.get("label"), str) for row in flat):
        told = {part: f"'label' in {path}" for part, path in files.items()}
        labels = Labels.fit((row["label"] for row in rows["train"]), told["train"])
        parts = {
            part: _part(own, labels.encode((row["label"] for row in own), told[part]).tolist())
            for part, own in rows.items()
        }
        return {**parts, "kind": "texts", "classes": labels.names, "objective": "categorical"}
    for part, own in rows.items():
        _check_numbers(own, files[part])
    parts = {part: _part(own, [row["label"] for row in own]) for part, own in rows.items()}
    classes = _named(flat, first) or wishes["facts"].classes
    return {**parts, "kind": "texts", **target_fields(parts, classes, first)}


def read_lines(files: Mapping[str, Path], wishes: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `Loaded` from plain lines; empty ones are left out."""
    parts: dict[str, Part] = {}
    for part, path in files.items():
        with opened(path) as file:
            lines = [line.strip() for line in file]
        parts[part] = Part([line for line in lines if line])
        if not len(parts[part]):
            raise InputError(f"{path} holds no line of text.")
    return {**parts, "kind": "sentences"}


def _rows(path: Path) -> list[Row]:
    rows: list[Row] = []
    with opened(path) as file:
        for at, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = parsing.values(line)
            except ValueError as error:
                raise InputError(f"{path}, line {at} is no JSON: {error}.") from error
            if not isinstance(row, dict) or not isinstance(row.get("text"), str):
                keys = ", ".join(row) if isinstance(row, dict) else type(row).__name__
                raise InputError(f"{path}, line {at} has no text under 'text'; it has: {keys}.")
            rows.append(row)
    if not rows:
        raise InputError(f"{path} holds no row.")
    return rows


def _part(rows: Sequence[Row], targets: Sequence[int] | None) -> Part:
    others = dict.fromkeys(key for row in rows for key in row)
    kept = [key for key in others if key not in ("text", "label", "label_name")]
    extra = {key: [row.get(key) for row in rows] for key in kept}
    numbers = None if targets is None else np.array(targets, np.int64)
    return Part([row["text"] for row in rows], numbers, extra)


def _check_numbers(rows: Sequence[Row], path: Path) -> None:
    for at, row in enumerate(rows, 1):
        label = row.get("label")
        if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < MOST:
            raise InputError(
                f"{path}, row {at}: label is {label!r}; it is the number of a class, or its name "
                "in every row of every file."
            )


def _named(rows: Sequence[Row], path: Path) -> tuple[str, ...] | None:
    """Names of the classes where every number has one."""
    names: dict[int, str] = {}
    for row in rows:
        name = row.get("label_name")
        if isinstance(name, str) and names.setdefault(row["label"], name) != name:
            raise InputError(
                f"{path}: class {row['label']} is {names[row['label']]!r} and {name!r}."
            )
    whole = len(names) == max(row["label"] for row in rows) + 1  # all of 0, 1, ... have a name
    return tuple(names[at] for at in sorted(names)) if whole else None
