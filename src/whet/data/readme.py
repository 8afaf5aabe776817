"""What a data folder's README says in a form that can be read: licence, columns, classes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

KINDS = {"cat": "category", "num": "number", "id": "drop", "text": "drop"}
COLUMN = re.compile(r"^- ([^:\s]+): (cat|num|id|text|target)\b(.*)$", re.MULTILINE)
LICENCE = re.compile(r"Licen[cs]e[^:\n]*: *(.+)")
CLASSES = re.compile(r"^- classes \((\d+)\): (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Readme:
    """A README's facts; each is empty where nothing is said.

    Args:
        licence: the rest of the line that begins with "Licence", up to the line's end.
        types: types of a table's columns, from lines such as `- age: num`.
        target: the target's column, from a line such as `- income: target`.
        regression: whether that line says regression.
        classes: names of the classes, from a line such as `- classes (2): 0=no, 1=yes`.
    """

    licence: str = ""
    types: dict[str, str] = field(default_factory=dict)
    target: str | None = None
    regression: bool = False
    classes: tuple[str, ...] | None = None


def read(folder: Path) -> Readme:
    """The facts of a folder's README; nothing where it has none."""
    place = folder / "README.md"
    text = place.read_text("utf-8", errors="replace") if place.is_file() else ""
    licence = LICENCE.search(text)
    columns = COLUMN.findall(text)
    targets = [(name, rest) for name, kind, rest in columns if kind == "target"]
    return Readme(
        licence[1].strip() if licence else "",
        {name: KINDS[kind] for name, kind, _ in columns if kind in KINDS},
        targets[0][0] if len(targets) == 1 else None,
        len(targets) == 1 and "regression" in targets[0][1],
        _classes(text),
    )


def _classes(text: str) -> tuple[str, ...] | None:
    line = CLASSES.search(text)
    if line is None:
        return None
    named = [pair.partition("=") for pair in re.split(r", (?=\d+=)", line[2])]
    names = tuple(name.strip() for _, _, name in named)
    counted = [number.strip() for number, _, _ in named] == [str(n) for n in range(len(named))]
    return names if counted and line[1] == str(len(named)) else None
