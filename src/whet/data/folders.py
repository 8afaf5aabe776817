"""Whatever lies in a data folder, found by its files and read into one plain result."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from whet.data import arrays, graphs, images, readme, tabular, texts
from whet.data.parts import Loaded
from whet.errors import InputError, UnknownName

PARTS = {
    "train": "train", "valid": "valid", "validation": "valid", "val": "valid", "dev": "valid",
    "test": "test",
}  # fmt: skip
# Of several forms the first is taken: arrays beside a zip of images are a copy made smaller.
FORMS: dict[str, Callable[..., dict[str, Any]]] = {
    ".edgelist": graphs.read_edges, ".zip": images.read, ".npz": arrays.read,
    ".jsonl": texts.read_rows, ".csv": tabular.read, ".tsv": tabular.read,
    ".txt": texts.read_lines,
}  # fmt: skip
KINDS = {
    ".edgelist": ("graph",), ".zip": ("images",), ".npz": ("images", "arrays", "audio", "graph"),
    ".jsonl": ("texts",), ".csv": ("table",), ".tsv": ("table",), ".txt": ("sentences",),
}  # fmt: skip
OBJECTIVES = ("categorical", "multi-label", "real")
PAPERWORK = re.compile(r"(readme|licen[cs]e|.*_licen[cs]e|notice)\b.*", re.IGNORECASE)


def load(
    folder: str | Path, *, target: str | None = None, file: str | None = None,
    regression: bool | None = None, size: tuple[int, int] | None = None,
    kind: str | Sequence[str] | None = None, objective: str | Sequence[str] | None = None,
) -> Loaded:  # fmt: skip
    """Read a data folder, or a single file of one of the forms below.

    Parts are files called train, valid (validation, val, dev) and test; a folder with one file of a
    form is all train. Text files and tables may be gzipped. Sub-folders are not looked into.

    | files         | kind                         | inputs                                     |
    |---------------|------------------------------|--------------------------------------------|
    | `.npz`        | `images`, `arrays`, `audio`  | `x`; or `wave` cut at `offset`             |
    | `.npz`        | `graph`                      | numbers of nodes; `edges` are in `graph`   |
    | `.edgelist`   | `graph`                      | numbers of nodes                           |
    | `.zip`        | `images`                     | `<part>/<class>/<file>`, uint8 (N, H, W, 3) |
    | `.jsonl`      | `texts`                      | `text`; its target is `label`              |
    | `.csv` `.tsv` | `table`                      | columns of text without the target         |
    | `.txt`        | `sentences`                  | lines                                      |

    Where a folder has several forms the order is `.edgelist`, `.zip`, `.npz`, `.jsonl`, `.csv`,
    `.txt`; `file` names another one. Nothing is unpickled and no archive is extracted.

    Args:
        folder: its path, or that of a file in it.
        target: the target's column of a table, where the README has no line `- name: target`.
        file: the one file to read, where the folder has several data sets.
        regression: whether a table's target is a number to be predicted; None for what the README
            says, and without it a target that is not whole or has more than 20 values.
        size: height and width that all images of a zip are resized to.
        kind: what the caller can use, as one kind of the table above or several; None for any.
        objective: likewise of the targets: `categorical`, `multi-label`, `real`; None for any, and
            for data without targets.

    Raises:
        InputError: there is nothing to read, a file is damaged, a table's target is not known, the
            data is of another kind or has other targets than can be used; each names the file.
        UnknownName: there is no such kind, objective or column.

    >>> import tempfile
    >>> place = Path(tempfile.mkdtemp())
    >>> _ = (place / "train.csv").write_text("age,bought\\n30,no\\n41,yes\\n")
    >>> data = load(place, target="bought")
    >>> data.kind, data.classes, data.train.inputs, data.train.targets.tolist()
    ('table', ('no', 'yes'), {'age': ['30', '41']}, [0, 1])
    """
    kinds = _wanted("kind of data", kind, sorted(set().union(*KINDS.values())))
    objectives = _wanted("objective of data", objective, OBJECTIVES)
    place = Path(folder)
    if file is not None:
        place = place / file
    if not place.exists():
        raise InputError(f"{place} is not there: give a data folder, or a file of one.")
    home = place if place.is_dir() else place.parent
    facts = readme.read(home)
    form, files = _found(place)
    path = files["train"]
    if kinds and not set(kinds) & set(KINDS[form]):  # before it is read, which may take long
        raise _not_usable(path, " or ".join(KINDS[form]), kinds)
    wishes = {"target": target, "regression": regression, "size": size, "facts": facts}
    found = FORMS[form](files, wishes)
    _check_use(path, found["kind"], found.get("objective"), kinds, objectives)
    return Loaded(name=home.resolve().name, licence=facts.licence, **found)


def form_of(path: Path) -> str | None:
    """The form of a file by its name; None for what is no data.

    >>> form_of(Path("train.csv.gz")), form_of(Path("README.md"))
    ('.csv', None)
    """
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    zipped = path.suffix != ".gz" or suffix in (".jsonl", ".csv", ".tsv", ".txt")
    return suffix if suffix in FORMS and zipped and not PAPERWORK.fullmatch(path.name) else None


def _wanted(what: str, wish: str | Sequence[str] | None, known: Sequence[str]) -> tuple[str, ...]:
    """One wish or several as a tuple; empty for any."""
    wishes = () if wish is None else (wish,) if isinstance(wish, str) else tuple(wish)
    for one in wishes:
        if one not in known:
            raise UnknownName(what, one, known)
    return wishes


def _check_use(
    path: Path, kind: str, objective: str | None, kinds: Sequence[str], objectives: Sequence[str]
) -> None:
    """Raise where the caller said what it can use, and this is something else."""
    if kinds and kind not in kinds:
        raise _not_usable(path, kind, kinds)
    if objectives and objective not in objectives:
        held = "no targets" if objective is None else f"{objective} targets"
        raise _not_usable(path, f"{kind} with {held}", [f"{one} targets" for one in objectives])


def _not_usable(path: Path, held: str, wanted: Sequence[str]) -> InputError:
    return InputError(
        f"{path} holds {held}; what can be used here is {' or '.join(wanted)}. Give other data, or "
        "name another file by file=."
    )


def _found(place: Path) -> tuple[str, dict[str, Path]]:
    """The form and the file of each part."""
    if place.is_file():
        form = form_of(place)
        if form is None:
            raise InputError(f"{place} is in no form that can be read: {', '.join(FORMS)}.")
        return form, {"train": place}
    there = [(form_of(path), path) for path in sorted(place.iterdir()) if path.is_file()]
    for form in FORMS:
        files = [path for own, path in there if own == form]
        if files:
            return form, _parts(files, place)
    names = ", ".join(sorted(path.name for path in place.iterdir())) or "nothing"
    raise InputError(f"{place} holds no data in a form that can be read, only: {names}.")


def _parts(files: list[Path], place: Path) -> dict[str, Path]:
    parts: dict[str, Path] = {}
    for path in files:
        part = PARTS.get(path.name.partition(".")[0].lower())
        if part in parts:
            raise InputError(f"{parts[part]} and {path.name} are both {part}: remove one.")
        if part is not None:
            parts[part] = path
    if "train" in parts:
        return parts
    if len(files) == 1 and not parts:
        return {"train": files[0]}
    raise InputError(
        f"{place} holds {', '.join(path.name for path in files)} and no train file. Call one of "
        "them train, or name the one to read by file=."
    )
