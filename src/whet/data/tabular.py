"""Tables in csv files, and which of their columns is the target."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from whet.data.columns import infer
from whet.data.labels import Labels
from whet.data.parts import Part
from whet.data.readme import Readme
from whet.data.tables import Table, number, read_table
from whet.errors import InputError, UnknownName


def read(files: Mapping[str, Path], wishes: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `Loaded` from csv files."""
    tables = {part: read_table(path) for part, path in files.items()}
    header = list(tables["train"])
    for part, table in tables.items():
        if list(table) != header:
            odd = sorted(set(header) ^ set(table)) or "their order"
            raise InputError(f"{files[part]} has other columns than {files['train']}: {odd}.")
    facts: Readme = wishes["facts"]
    target = _target(wishes["target"] or facts.target, header, files["train"])
    columns = {part: table.pop(target) for part, table in tables.items()}
    for part, column in columns.items():
        if "" in column:
            raise InputError(
                f"{files[part]}: row {column.index('') + 1} has no {target}, which is the target. "
                "Drop the rows without one."
            )
    types = {name: kind for name, kind in facts.types.items() if name in tables["train"]}
    fields = {"kind": "table", "target": target, "types": types}
    if _is_regression(wishes["regression"], facts, target, columns["train"]):
        return {**fields, "objective": "real", **_real(tables, columns, files)}
    told = {part: f"column {target!r} of {path}" for part, path in files.items()}
    labels = Labels.fit(columns["train"], told["train"])
    parts = {
        part: Part(table, labels.encode(columns[part], told[part]).numpy())
        for part, table in tables.items()
    }
    return {**fields, **parts, "objective": "categorical", "classes": labels.names}


def _target(named: str | None, header: list[str], path: Path) -> str:
    if named is None:
        raise InputError(
            f"which column of {path} is the target? Say target=..., or write a line `- name: "
            f"target` into the README beside it. Its columns: {', '.join(header)}"
        )
    if named not in header:
        raise UnknownName(f"column of {path}", named, header)
    return named


def _is_regression(asked: bool | None, facts: Readme, target: str, column: list[str]) -> bool:
    if asked is not None:
        return asked
    return facts.regression if facts.target == target else infer(column) == "number"


def _real(
    tables: Mapping[str, Table], columns: Mapping[str, list[str]], files: Mapping[str, Path]
) -> dict[str, Part]:
    parts: dict[str, Part] = {}
    for part, column in columns.items():
        values = [number(field) for field in column]
        if None in values:
            at = values.index(None)
            raise InputError(
                f"{files[part]}: row {at + 1}: target {column[at]!r} is no finite number. Mend it, "
                "or say regression=False."
            )
        parts[part] = Part(tables[part], np.array(values, np.float64))
    return parts
