"""Checkpoints that are whole or not there.

A checkpoint is a folder `000120` with `state.pt` and `manifest.json` (size and checksum). It is
written beside its place, flushed to disk and renamed; loading allows tensors and plain values only.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from whet import whole
from whet.errors import CheckpointError

FORMAT = 1


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file by `data`, or leave it untouched.

    Raises:
        CheckpointError: the disk refused (full, read-only); the old file is as it was.
    """
    try:
        whole.replace(path, data)
    except OSError as error:
        raise CheckpointError(_refused(path, error)) from error


def _refused(path: Path, error: OSError) -> str:
    return (
        f"could not save {path}: {error.strerror or error}. What was saved before is untouched; "
        "make room (or choose another folder) and run the same command again."
    )


def save(folder: Path, number: int, state: Mapping[str, Any], *, keep: int | None = None) -> Path:
    """Write checkpoint `number` under `folder`; the oldest beyond `keep` are removed.

    Raises:
        CheckpointError: the disk refused; the earlier checkpoints are as they were.
    """
    place = folder / f"{number:08d}"
    draft = folder / f".{number:08d}.{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        _write(draft, number, state)
        shutil.rmtree(place, ignore_errors=True)
        os.replace(draft, place)
        whole.sync_folder(folder)
        _sweep(folder)
    except BaseException as error:
        shutil.rmtree(draft, ignore_errors=True)
        cause = _of_the_disk(error) if isinstance(error, Exception) else None
        if cause is None:
            raise
        raise CheckpointError(_refused(place, cause)) from error
    if keep is not None:
        for old in numbers(folder)[:-keep]:
            shutil.rmtree(folder / f"{old:08d}", ignore_errors=True)
    return place


def _of_the_disk(error: BaseException | None) -> OSError | None:
    # where the disk refuses, torch's writer raises a RuntimeError about positions on top of it
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def _write(draft: Path, number: int, state: Mapping[str, Any]) -> None:
    path = draft / "state.pt"
    with path.open("wb") as file:
        torch.save(dict(state), file)
        file.flush()
        os.fsync(file.fileno())
    manifest = {
        "format": FORMAT, "number": number, "bytes": path.stat().st_size,
        "sha256": _digest(path), "torch": torch.__version__,
    }  # fmt: skip
    whole.write_synced(draft / "manifest.json", json.dumps(manifest, indent=1).encode())
    whole.sync_folder(draft)


def _sweep(folder: Path) -> None:
    """Remove the drafts of processes that were killed while saving."""
    for draft in folder.glob(".*.tmp"):
        shutil.rmtree(draft, ignore_errors=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def numbers(folder: Path) -> list[int]:
    """The checkpoints in a folder, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit() and p.is_dir())


def damage(place: Path) -> str | None:
    """What is wrong with a checkpoint; None where it is whole."""
    path = place / "state.pt"
    try:
        manifest = json.loads((place / "manifest.json").read_text())
        if manifest["format"] != FORMAT:
            return f"format {manifest['format']}, this whet reads {FORMAT}"
        size = path.stat().st_size
        if size != manifest["bytes"]:
            return f"state.pt has {size} bytes of {manifest['bytes']}"
        return None if _digest(path) == manifest["sha256"] else "state.pt fails its checksum"
    except FileNotFoundError as error:
        return f"{Path(error.filename or path).name} is missing"
    except (ValueError, KeyError, TypeError):
        return "manifest.json cannot be read"


def load(place: Path) -> dict[str, Any]:
    """The state of one checkpoint; tensors and plain values only, nothing is unpickled.

    Raises:
        CheckpointError: it is damaged; the message says how.
    """
    wrong = damage(place)
    if wrong is not None:
        raise CheckpointError(f"checkpoint {place} is damaged: {wrong}.")
    state: dict[str, Any] = torch.load(place / "state.pt", map_location="cpu", weights_only=True)
    return state


def newest(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest whole checkpoint and what is wrong with any newer one."""
    notes: list[str] = []
    for number in reversed(numbers(folder)):
        place = folder / f"{number:08d}"
        wrong = damage(place)
        if wrong is None:
            return load(place), notes
        notes.append(f"checkpoint {place} is damaged ({wrong}); using the one before it.")
    return None, notes
