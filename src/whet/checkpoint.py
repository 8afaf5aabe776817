"""Checkpoints that are whole or not there.

A checkpoint is a folder `00000120` with `state.pt` and `manifest.json` (size, checksum, and what
those who decide which checkpoints stay want to know of it). It is written beside its place, flushed
to disk and renamed. The checksum is there to find damage; what guards against an attack is that
loading allows tensors and plain values only.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast

import torch

from whet import parsing, whole
from whet.errors import CheckpointError

FORMAT = 2
ASIDE = ".old"  # how the name of one ends that is about to be replaced


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


def save(
    folder: Path, number: int, state: Mapping[str, Any], about: Mapping[str, Any] | None = None
) -> Path:
    """Write checkpoint `number` under `folder`, with plain values `about` it in its manifest.

    One that has this number already leaves only when the new one is whole.

    Raises:
        CheckpointError: the disk refused; the earlier checkpoints are as they were.
    """
    place = folder / f"{number:08d}"
    draft = folder / f".{number:08d}.{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _mend(folder)
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        _write(draft, number, state, dict(about or {}))
        _exchange(draft, place)
        _sweep(folder)
    except BaseException as error:
        shutil.rmtree(draft, ignore_errors=True)
        cause = _of_the_disk(error) if isinstance(error, Exception) else None
        if cause is None:
            raise
        raise CheckpointError(_refused(place, cause)) from error
    return place


def _exchange(draft: Path, place: Path) -> None:
    """Put a draft into its place; what stood there goes last, and comes back where that fails."""
    aside = place.with_name(f".{place.name}{ASIDE}")
    if place.exists():
        os.replace(place, aside)
    try:
        os.replace(draft, place)
    except BaseException:
        _mend(place.parent)
        raise
    whole.sync_folder(place.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _mend(folder: Path) -> None:
    """Bring back what a process that was killed between two renames had put aside."""
    for aside in folder.glob(f".*{ASIDE}"):
        place = folder / aside.name[1 : -len(ASIDE)]
        if place.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            with suppress(OSError):
                os.replace(aside, place)


def remove(folder: Path, number: int) -> None:
    """Remove a checkpoint that nobody needs."""
    shutil.rmtree(folder / f"{number:08d}", ignore_errors=True)


def about(place: Path) -> dict[str, Any] | None:
    """What a checkpoint's manifest tells about it; None where that is damaged."""
    try:
        manifest = _manifest(place)
        told = None if isinstance(manifest, str) else manifest["about"]
        return told if isinstance(told, dict) else None
    except (OSError, ValueError, KeyError, TypeError, CheckpointError):
        return None


def _manifest(place: Path) -> dict[str, Any] | str:
    """A manifest whose every value is as it was written, or what is wrong with it.

    Raises:
        CheckpointError: another version of whet wrote it.
    """
    manifest: dict[str, Any] = parsing.values((place / "manifest.json").read_bytes())
    sealed = manifest.pop("seal", None) == _seal(manifest)
    if manifest["format"] != FORMAT and (sealed or "about_sha256" in manifest):  # 1 had that seal
        raise CheckpointError(
            f"checkpoint {place} has format {manifest['format']} and this whet reads {FORMAT}: "
            "another version wrote it. Go on with that version, or use another folder."
        )
    return manifest if sealed else "manifest.json fails its checksum"


def _seal(told: Any) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _of_the_disk(error: BaseException | None) -> OSError | None:
    # where the disk refuses, torch's writer raises a RuntimeError about positions on top of it
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def _write(draft: Path, number: int, state: Mapping[str, Any], told: dict[str, Any]) -> None:
    path = draft / "state.pt"
    with path.open("wb") as file, _without_checksums():
        summed = whole.Summed(file)
        torch.save(dict(state), cast(IO[bytes], summed))  # it asks for write and flush
        file.flush()
        os.fsync(file.fileno())
    manifest = {
        "format": FORMAT, "number": number, "bytes": summed.size, "crc32": summed.crc32,
        "torch": torch.__version__, "about": told,
    }  # fmt: skip
    manifest["seal"] = _seal(manifest)
    whole.write_synced(draft / "manifest.json", json.dumps(manifest, indent=1).encode())
    whole.sync_folder(draft)


@contextmanager
def _without_checksums() -> Iterator[None]:
    """No checksum of each tensor, which takes a third of the time and which torch never checks."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)


def _sweep(folder: Path) -> None:
    """Remove the drafts of processes that were killed while saving."""
    for draft in folder.glob(".*.tmp"):
        shutil.rmtree(draft, ignore_errors=True)


def numbers(folder: Path) -> list[int]:
    """The checkpoints in a folder, oldest first."""
    if not folder.is_dir():
        return []
    named = (p.name for p in folder.iterdir() if p.name.isdecimal() and p.is_dir())
    return sorted(int(name) for name in named if name == f"{int(name):08d}")


def damage(place: Path) -> str | None:
    """What is wrong with a checkpoint; None where it is whole.

    Raises:
        CheckpointError: another version of whet wrote it.
    """
    path = place / "state.pt"
    try:
        manifest = _manifest(place)
        if isinstance(manifest, str):
            return manifest
        size = path.stat().st_size
        if size != manifest["bytes"]:
            return f"state.pt has {size} bytes of {manifest['bytes']}"
        sound = whole.crc32(path) == manifest["crc32"]
        return None if sound else "state.pt fails its checksum"
    except FileNotFoundError as error:
        return f"{Path(error.filename or path).name} is missing"
    except OSError as error:
        return f"{Path(error.filename or path).name} cannot be read: {error.strerror or error}"
    except (ValueError, KeyError, TypeError):
        return "manifest.json cannot be read"


def load(place: Path) -> dict[str, Any]:
    """The state of one checkpoint; tensors and plain values only, nothing is unpickled.

    Raises:
        CheckpointError: it is damaged, and the message says how, or another version of whet
            wrote it.
    """
    state = _state(place)
    if isinstance(state, str):
        raise CheckpointError(f"checkpoint {place} is damaged: {state}.")
    return state


def newest(folder: Path, mapped: bool = False) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest whole checkpoint and what is wrong with any newer one.

    Tensors that are `mapped` are read when they are used: processes that use few share the memory.

    Raises:
        CheckpointError: another version of whet wrote the newest.
    """
    notes: list[str] = []
    _mend(folder)
    for number in reversed(numbers(folder)):
        place = folder / f"{number:08d}"
        state = _state(place, mapped)
        if not isinstance(state, str):
            return state, notes
        notes.append(f"checkpoint {place} is damaged ({state}); using the one before it.")
    return None, notes


def _state(place: Path, mapped: bool = False) -> dict[str, Any] | str:
    """What a checkpoint holds, or what is wrong with it."""
    wrong = damage(place)
    if wrong is not None:
        return wrong
    path = place / "state.pt"
    try:
        _check_stored(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a checksum is no signature: torch stumbles over anything
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"state.pt holds other things than tensors and plain values: {said}"
    named = isinstance(state, dict) and all(isinstance(key, str) for key in state)
    return state if named else "state.pt holds no state"


def _check_stored(path: Path) -> None:
    """Refuse an archive that says it holds more than its own bytes, before memory is given to it.

    torch packs nothing; its older format, a bare pickle, is none that whet writes.
    """
    with zipfile.ZipFile(path) as archive:
        held = archive.infolist()
    packed = any(item.compress_type != zipfile.ZIP_STORED for item in held)
    if packed or sum(item.file_size for item in held) > path.stat().st_size:
        raise ValueError("it would unpack to more than its size")
