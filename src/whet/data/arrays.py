"""Arrays in npz files: images, waves one after another, plain arrays, graphs."""

from __future__ import annotations

import itertools
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from whet import parsing
from whet.data import graphs
from whet.data.parts import Array, Part
from whet.errors import InputError

Arrays = dict[str, Array]
MOST = 10_000_000  # classes: more were numbered by something else than counting
JOINED = {"train": "train", "valid": "valid", "val": "valid", "dev": "valid", "test": "test"}


def read(files: Mapping[str, Path], wishes: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `Loaded` from npz files."""
    whole = {part: read_npz(path) for part, path in files.items()}
    first, path = whole["train"], files["train"]
    if "edges" in first:
        found = graphs.read_arrays(first, path)
        own = {name: part for name, part in found.items() if isinstance(part, Part)}
        return {**found, **target_fields(own, wishes["facts"].classes, path)}
    if "x_train" in first:
        whole = _apart(first, path)
    names: dict[str, tuple[str, ...]] = {}
    for held in whole.values():
        for key in [key for key in held if key.endswith("_names")]:
            names[key.removesuffix("_names")] = tuple(map(str, held.pop(key).reshape(-1)))
    audio = "wave" in next(iter(whole.values()))
    parts = {part: _part(held, files.get(part, path), audio) for part, held in whole.items()}
    classes = names.pop("class", None) or wishes["facts"].classes
    return {
        **parts, "kind": "audio" if audio else _kind(parts["train"].inputs), "names": names,
        **target_fields(parts, classes, path),
    }  # fmt: skip


def read_npz(path: Path) -> Arrays:
    """The arrays of an npz file; nothing in it is unpickled.

    Raises:
        InputError: the file is damaged, or holds pickled objects.
    """
    try:
        with path.open("rb") as file:  # which numpy leaves open where it cannot read it
            held = np.load(file, allow_pickle=False)
            if not isinstance(held, np.lib.npyio.NpzFile) or held.zip is None:
                raise ValueError("it is no npz archive")
            parsing.check_archive(held.zip, path.stat().st_size)
            for item in held.zip.infolist():
                _check_header(held.zip, item)
            return {name: np.asarray(held[name]) for name in held.files}
    except Exception as error:  # numpy and zipfile stumble over what is damaged in many ways
        raise InputError(
            f"{path} cannot be read ({error}). Get the file again; objects in it must be saved as "
            "arrays of numbers or text, as nothing is unpickled."
        ) from error


def _check_header(archive: zipfile.ZipFile, item: zipfile.ZipInfo) -> None:
    """Refuse an array whose header asks for more memory than its member has bytes."""
    if not item.filename.endswith(".npy"):
        raise ValueError(f"{item.filename} is no array")
    with archive.open(item) as member:
        version = np.lib.format.read_magic(member)
        read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
            version, np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(member)
    if math.prod(shape) * max(dtype.itemsize, 1) > item.file_size or min(shape, default=0) < 0:
        raise ValueError(f"{item.filename} is {dtype} {shape} in {item.file_size} bytes")


def target_fields(
    parts: Mapping[str, Part], classes: tuple[str, ...] | None, path: Path
) -> dict[str, Any]:
    """`objective` and `classes` by the targets of the parts; the classes are checked.

    Classes without names are called by their numbers.

    Raises:
        InputError: a target that is no number of a class.
    """
    targets = [part.targets for part in parts.values() if part.targets is not None]
    if not targets:
        return {"objective": None, "classes": None}
    if any(target.dtype.kind == "f" for target in targets):
        return {"objective": "real", "classes": None}
    if targets[0].ndim > 1:
        return {"objective": "multi-label", "classes": classes}
    highest = max(int(target.max(initial=0)) for target in targets)
    if min(int(target.min(initial=0)) for target in targets) < 0:
        raise InputError(f"{path}: a target is negative; classes are numbered from 0.")
    if classes is not None and highest >= len(classes):
        raise InputError(f"{path}: target {highest}, but there are {len(classes)} class names.")
    if classes is None and highest >= MOST:
        raise InputError(
            f"{path}: target {highest} would be the last of as many classes. Number the classes "
            "from 0 without gaps."
        )
    numbers = tuple(map(str, range(highest + 1))) if classes is None else ()
    return {"objective": "categorical", "classes": numbers if classes is None else classes}


def _apart(held: Arrays, path: Path) -> dict[str, Arrays]:
    """One file with x_train, y_train, x_test, ... as the arrays of each part."""
    whole: dict[str, Arrays] = {}
    for key, array in held.items():
        name, _, ending = key.rpartition("_")
        if ending in JOINED:
            whole.setdefault(JOINED[ending], {})[name] = array
        elif ending == "names":
            whole.setdefault("train", {})[key] = array
        else:
            raise InputError(f"{path}: array {key!r} belongs to none of train, valid and test.")
    return whole


def _part(held: Arrays, path: Path, audio: bool) -> Part:
    needed = ("wave", "offset") if audio else ("x",)
    for key in needed:
        if key not in held:
            raise InputError(
                f"{path} has no array {key!r}; it has {', '.join(held)}. Arrays are called x and "
                "y, waves wave and offset."
            )
        if not held[key].ndim:
            raise InputError(f"{path}: {key} is a single value; its first dimension is the rows.")
    inputs = _waves(held, path) if audio else held["x"]
    extra = {key: array for key, array in held.items() if key not in (*needed, "y")}
    targets = held.get("y")
    if targets is not None:
        if targets.dtype.kind not in "iubf":
            raise InputError(f"{path}: y holds {targets.dtype}; save numbers of classes.")
        targets = targets.astype(np.float64 if targets.dtype.kind == "f" else np.int64)
        extra["y"] = targets  # checked with the others
    for key, array in extra.items():
        if array.shape[:1] != (len(inputs),):
            raise InputError(f"{path}: {key} has shape {array.shape} for {len(inputs)} rows.")
    return Part(inputs, extra.pop("y", None), extra)


def _waves(held: Arrays, path: Path) -> list[Array]:
    wave, offset = held["wave"], held["offset"]
    plain = offset.ndim == 1 and offset.dtype.kind in "iu" and len(offset) > 1
    if not plain or offset[0] < 0 or offset[-1] > len(wave) or (offset[1:] <= offset[:-1]).any():
        raise InputError(
            f"{path}: offset must rise from 0 to the {len(wave)} samples of wave, one number more "
            "than there are recordings."
        )
    return [wave[begin:end] for begin, end in itertools.pairwise(offset.tolist())]


def _kind(inputs: Array) -> str:
    return "images" if inputs.dtype == np.uint8 and inputs.ndim in (3, 4) else "arrays"
